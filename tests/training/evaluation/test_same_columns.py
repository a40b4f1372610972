"""A model meets only data and models whose ids stand for the values that it was trained on."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tf_dlrm.errors import UserError
from tf_dlrm.serving.exporting import export_checkpoint
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.training.checkpoints import newest_checkpoint, read_run
from tf_dlrm.training.evaluation.assessment import assess
from tf_dlrm.training.evaluation.same_columns import check_columns, check_same_run
from tf_dlrm.training.options.config import DataOptions, ModelOptions, TrainingConfig
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import describe_run, train
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.conversion.vocabulary_files import write_vocabulary
from tfrecords.folder import WholeFolder
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.table_source import TableSource
from tfrecords.writer import DatasetWriter

_SIZE = 12
_SCHEMA = Schema((), (CategoricalColumn("color", _SIZE), CategoricalColumn("shape", _SIZE)))
_VALUES = np.arange(100, 100 + _SIZE, dtype=np.uint64)
_TOML = """
format = "csv"
[label]
column = "click"
{label}
[categorical]
color = "integer"
shape = {shape}
"""


def _table(label="", shape='"integer"'):
    """What dataset.json says of a conversion."""
    table = from_toml(_TOML.format(label=label, shape=shape), "t.toml")
    return {"format": TabularFormat(table).describe(), "options": Options().describe()}


def _data_set(
    folder,
    order=None,
    vocabularies=_SCHEMA.categorical_names,
    rows=400,
    reserved=0,
    made=None,
):
    """Writes rows of one truth, whose values have their ids in an order; the label is the color's.

    Values lie apart from ids; without a vocabulary ids are numbered as the values are.
    """
    order = np.arange(_SIZE) if order is None else order
    whole = WholeFolder(str(folder))
    info = {
        name: write_vocabulary(whole.work, name, _VALUES[order], reserved) for name in vocabularies
    }
    ids = np.argsort(order)
    rng = np.random.default_rng(rows)
    with DatasetWriter(whole, _SCHEMA, made or _table(), vocabularies=info) as writer:
        for split in ("train", "evaluation"):
            colors, shapes = rng.integers(0, _SIZE, (2, rows))
            labels = (colors < _SIZE // 2).astype(np.float32)
            writer.write(split, {"color": ids[colors], "shape": ids[shapes]}, labels)
    return str(folder)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    other = np.roll(np.arange(_SIZE), _SIZE // 2)  # so that a wrong id means the other label
    return {
        "own": _data_set(folder / "own"),
        "more": _data_set(folder / "more", rows=500),
        "other": _data_set(folder / "other", other),
        "later": _data_set(folder / "later", reserved=1),
        "one_hashed": _data_set(folder / "one_hashed", vocabularies=["color"]),
        "none": _data_set(folder / "none", vocabularies=[], made={"source": "tfrecords.random"}),
        "label": _data_set(folder / "label", made=_table(label="positive_from = 4")),
        "hexadecimal": _data_set(folder / "hexadecimal", made=_table(shape='"hexadecimal"')),
    }


@pytest.fixture(scope="module")
def runs(make_tiny, sets, tmp_path_factory):
    """Folders of a run, and of two of the same weights whose data had other ids or labels."""
    folder = tmp_path_factory.mktemp("runs")
    config = make_tiny(
        folder / "own",
        model="deepfm",
        bottom_mlp=ModelOptions.bottom_mlp,
        embedding_optimizer="adagrad",
        embedding_learning_rate=0.5,
        epochs=4,
    )
    config = dataclasses.replace(config, data=DataOptions(data_dir=sets["own"]))
    train(config)
    for name in ("other", "label"):
        _copy_with_other_data(folder, "run.json", sets, config, name)
    return {name: str(folder / name) for name in ("own", "other", "label")}


@pytest.fixture(scope="module")
def exports(runs, sets, make_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    export_checkpoint(CheckpointedRun(runs["own"]), str(folder / "own"), ExportOptions())
    for name in ("other", "label"):
        config = make_tiny(folder / "none")
        _copy_with_other_data(folder, "assets.extra/run.json", sets, config, name)
    return {name: str(folder / name) for name in runs}


def _copy_with_other_data(folder, run_json, sets, config, name):
    shutil.copytree(folder / "own", folder / name)
    path = folder / name / run_json
    other = describe_run(config, RecordSource(sets[name]))
    kept = {key: other[key] for key in ("data_fingerprint", "vocabularies", "meanings")}
    path.write_text(json.dumps(json.loads(path.read_text()) | kept))


def _assess(**where):
    return assess(EvaluationOptions(**where, eval_batch_size=200))


def _model(runs, exports, kind):
    return {"model_dir": runs["own"]} if kind == "checkpoint" else {"saved_model": exports["own"]}


@pytest.mark.parametrize("kind", ["checkpoint", "saved_model"])
@pytest.mark.parametrize(
    ("name", "columns"),
    [("other", "color, shape"), ("later", "color, shape"), ("one_hashed", "shape")],
)
def test_data_of_other_ids_is_refused(sets, runs, exports, kind, name, columns):
    with pytest.raises(UserError, match=f"The ids of {columns} stand for other values in the data"):
        _assess(**_model(runs, exports, kind), data_dir=sets[name])


@pytest.mark.parametrize("kind", ["checkpoint", "saved_model"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "label",
            r"The label is \(the number as it stands, of the column 'click'\) in the data that the "
            r"model was trained on, but \(1 where the number is at least 4, 0 else, of the column "
            r"'click'\) in the data\. Use data that was converted as the model's was, or train",
        ),
        ("hexadecimal", r"Feature shape is \(a counted integer value, .* but \(a counted hexadeci"),
    ],
)
def test_data_of_other_values_is_refused(sets, runs, exports, kind, name, sentence):
    with pytest.raises(UserError, match=sentence):
        _assess(**_model(runs, exports, kind), data_dir=sets[name])


@pytest.mark.parametrize("kind", ["checkpoint", "saved_model"])
def test_other_rows_of_the_same_ids_are_evaluated(sets, runs, exports, kind, caplog):
    caplog.set_level(logging.WARNING)
    result = _assess(**_model(runs, exports, kind), data_dir=sets["more"])
    assert result["examples"] == 500
    assert result["auc"] > 0.99  # with the ids of "other" it would be 0
    assert not [record for record in caplog.records if record.name.startswith("tf_dlrm")]


@pytest.mark.parametrize("forget", ["data", "model", "meanings"])
def test_where_nothing_is_remembered_it_is_said(sets, runs, tmp_path, caplog, forget):
    run = tmp_path / "run"
    shutil.copytree(runs["own"], run)
    name = "none"
    if forget != "data":
        described = json.loads((run / "run.json").read_text())
        assert set(described.pop("meanings")) == {"The label", "Feature color", "Feature shape"}
        if forget == "model":
            assert set(described.pop("vocabularies")) == {"color", "shape"}
        (run / "run.json").write_text(json.dumps(described))
        name = "other" if forget == "model" else "label"
    caplog.set_level(logging.WARNING)
    _assess(model_dir=str(run), data_dir=sets[name])
    who = "data" if forget == "data" else "model"
    told = "the data is not that of the training run, and whether its {} the same cannot be told: "
    assert told.format("values mean") + f"the {who} says nothing of how values were" in caplog.text
    ids = told.format("ids mean") + f"the {who} has no vocabulary"
    assert (ids in caplog.text) == (forget != "meanings")


@pytest.mark.parametrize("forgotten", ["run", "other"])
def test_a_second_model_that_remembers_nothing_is_said(
    sets, make_tiny, tmp_path, caplog, forgotten
):
    config = make_tiny(tmp_path)
    both = [describe_run(config, RecordSource(sets[name])) for name in ("own", "other")]
    older = both[forgotten == "other"]
    del older["vocabularies"], older["meanings"]
    caplog.set_level(logging.WARNING)
    check_same_run(*both, "the model of X")
    who = "the model of X" if forgotten == "other" else "the model"
    told = (
        f"the data of the model of X is not that of the training run, and whether its {{}}: {who}"
    )
    assert told.format("ids mean the same cannot be told") + " has no vocabulary" in caplog.text
    assert told.format("values mean the same cannot be told") + " says nothing" in caplog.text


def _described(made, folder, config, **arguments):
    """Of a data set without vocabularies, what a model remembers, and the source."""
    source = RecordSource(_data_set(folder, vocabularies=[], made=made, **arguments))
    return describe_run(config, source), source


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        # Other rows of the same, without any vocabulary: nothing to be said.
        ({}, {}, ""),
        ({"column": "a"}, {"column": "b"}, "it is taken for the same"),
        ({"separator": "|"}, {"separator": ","}, "it is taken for the same"),
        ({"kind": "text"}, {"kind": "integer"}, "refused"),
        # Not renamed: the data has the column, and uses it for something else.
        ({}, {"column": "color"}, "it is taken for the same"),
        ({"column": "color"}, {"column": "shape"}, "refused"),
    ],
)
def test_hashed_columns(make_tiny, tmp_path, caplog, ours, theirs, outcome):
    def made(changes):
        entry = {"kind": "text", "hash_buckets": _SIZE, "hotness": 1} | changes
        text = ", ".join(f"{key} = {json.dumps(value)}" for key, value in entry.items())
        said = _table(shape="{" + text + "}")
        said["format"]["description"] = said["format"]["description"].replace(
            'color = "integer"', f'color = {{kind = "text", hash_buckets = {_SIZE}}}'
        )
        return said

    config = make_tiny(tmp_path / "run")
    run, _ = _described(made(ours), tmp_path / "a", config)
    _, source = _described(made(theirs), tmp_path / "b", config, rows=500)
    caplog.set_level(logging.WARNING)
    if outcome == "refused":
        with pytest.raises(UserError, match="^Feature shape is "):
            check_columns(run, source)
    else:
        check_columns(run, source)
        assert caplog.text.count("\n") == bool(outcome)
        assert outcome in caplog.text


def test_parquet_files_say_it_by_their_description(make_tiny, tmp_path):
    (tmp_path / "train").mkdir()
    columns = {"click": [0.0, 1.0], "color": [1, 2], "shape": [3, 4]}
    fields = [pa.field(name, pa.array(column).type, False) for name, column in columns.items()]
    pq.write_table(pa.table(columns, pa.schema(fields)), tmp_path / "train" / "part.parquet")

    def source(label):
        toml = _TOML.format(
            label=label, shape=f'{{kind = "integer", vocabulary_size = {_SIZE}}}'
        ).replace('"csv"', '"parquet"')
        toml = toml.replace('color = "integer"', f'color = {{kind="text", hash_buckets={_SIZE}}}')
        return TableSource(str(tmp_path), from_toml(toml, "t.toml"))

    run = describe_run(make_tiny(tmp_path / "run"), source(""))
    assert run["meanings"]["Feature color"]["words"] == "the hash of text"
    check_columns(run, source(""))
    with pytest.raises(UserError, match="The label is .* at least 1, 0 else"):
        check_columns(run, source("positive_from = 1"))


def test_criteo_logs_that_were_cut_otherwise_are_refused(make_tiny, tmp_path):
    columns = tuple(CategoricalColumn(f"C{k}", 9) for k in range(1, 27))
    schema = Schema(tuple(f"I{k}" for k in range(1, 14)), columns)

    def described(folder, rows, **options):
        made = {"format": CriteoFormat(**options).describe(), "options": Options().describe()}
        with DatasetWriter(WholeFolder(str(tmp_path / folder)), schema, made) as writer:
            ids = {column.name: np.arange(rows) % 9 for column in columns}
            dense = np.zeros((rows, 13), np.float32)
            writer.write("train", {"dense": dense} | ids, np.arange(rows, dtype=np.float32) % 2)
        source = RecordSource(str(tmp_path / folder))
        return describe_run(make_tiny(tmp_path / "run"), source), source

    run, _ = described("a", 20, max_index_range=8)
    check_columns(run, described("b", 30, max_index_range=8, name="terabyte")[1])
    with pytest.raises(
        UserError,
        match=r"C1 is \(a counted hexadecimal value modulo 8, of .* 'C1'\) .*same goes",
    ):
        check_columns(run, described("c", 30)[1])


def test_a_checkpoint_of_a_run_on_other_ids_is_refused(runs, exports):
    checkpoint = newest_checkpoint(runs["other"])
    with pytest.raises(
        UserError, match="color, shape stand for other values in the run of --check"
    ):
        _assess(model_dir=runs["own"], checkpoint=checkpoint)
    with pytest.raises(UserError, match="stand for other values in the checkpoint's model"):
        _assess(saved_model=exports["own"], against=runs["other"])


def test_a_checkpoint_of_a_run_on_other_labels_is_refused(runs, exports):
    checkpoint = newest_checkpoint(runs["label"])
    with pytest.raises(
        UserError, match="The label is .* at least 4, .* in the run of --checkpoint="
    ):
        _assess(model_dir=runs["own"], checkpoint=checkpoint)
    with pytest.raises(UserError, match="The label is .* at least 4, .* in the checkpoint's model"):
        _assess(saved_model=exports["own"], against=runs["label"])
    with pytest.raises(
        UserError, match="The label is .* at least 4, .* in the run of --checkpoint="
    ):
        export_checkpoint(
            CheckpointedRun(runs["own"], checkpoint), exports["own"] + "_not", ExportOptions()
        )


def test_an_export_over_data_of_other_labels_is_refused(runs, exports, sets, tmp_path):
    with pytest.raises(UserError, match=r"The label is .* in the model of --incremental_from="):
        export_checkpoint(
            CheckpointedRun(runs["own"]),
            str(tmp_path / "increment"),
            ExportOptions(),
            exports["label"],
        )
    config = TrainingConfig.from_json(read_run(runs["own"])["config"])
    config = dataclasses.replace(config, data=DataOptions(data_dir=sets["label"]))
    with pytest.raises(UserError, match="holds a run on other data"):
        train(config)


def test_an_increment_over_other_ids_is_refused(runs, exports, tmp_path):
    with pytest.raises(
        UserError, match="stand for other values in the model of --incremental_from"
    ):
        export_checkpoint(
            CheckpointedRun(runs["own"]),
            str(tmp_path / "increment"),
            ExportOptions(),
            exports["other"],
        )
    assert not (tmp_path / "increment").exists()
