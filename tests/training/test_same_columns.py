"""A model meets only data and models whose ids stand for the values that it was trained on."""

import dataclasses
import json
import logging
import pathlib
import shutil

import numpy as np
import pytest

from tf_dlrm.errors import UserError
from tf_dlrm.training.assessment import assess
from tf_dlrm.training.checkpoints import checkpoint_folder
from tf_dlrm.training.config import DataOptions, ModelOptions
from tf_dlrm.training.export_options import ExportOptions
from tf_dlrm.training.exporting import export_checkpoint
from tf_dlrm.training.run import describe_run, train
from tfrecords.conversion.vocabulary_files import write_vocabulary
from tfrecords.folder import WholeFolder
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

_SIZE = 12
_SCHEMA = Schema((), (CategoricalColumn("color", _SIZE), CategoricalColumn("shape", _SIZE)))
_VALUES = np.arange(100, 100 + _SIZE, dtype=np.uint64)


def _data_set(folder, order=None, vocabularies=_SCHEMA.categorical_names, rows=400, reserved=0):
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
    with DatasetWriter(whole, _SCHEMA, vocabularies=info) as writer:
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
        "none": _data_set(folder / "none", vocabularies=[]),
    }


@pytest.fixture(scope="module")
def runs(make_tiny, sets, tmp_path_factory):
    """Folders of a run, and of one of the same weights whose data had other ids."""
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
    _copy_with_other_ids(folder, "run.json", sets, config)
    return {name: str(folder / name) for name in ("own", "other")}


@pytest.fixture(scope="module")
def exports(runs, sets, make_tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    export_checkpoint(runs["own"], "", str(folder / "own"), ExportOptions())
    _copy_with_other_ids(folder, "assets.extra/run.json", sets, make_tiny(folder / "none"))
    return {name: str(folder / name) for name in runs}


def _copy_with_other_ids(folder, run_json, sets, config):
    shutil.copytree(folder / "own", folder / "other")
    path = folder / "other" / run_json
    other = describe_run(config, RecordSource(sets["other"]))
    kept = {name: other[name] for name in ("data_fingerprint", "vocabularies")}
    path.write_text(json.dumps(json.loads(path.read_text()) | kept))


def _assess(**where):
    unset = {"model_dir": "", "checkpoint": "", "saved_model": "", "data_dir": ""}
    return assess(
        **unset | where, split="evaluation", batch_size=200, steps=0, predictions=0
    )  # fmt: skip


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
def test_other_rows_of_the_same_ids_are_evaluated(sets, runs, exports, kind, caplog):
    caplog.set_level(logging.WARNING)
    result = _assess(**_model(runs, exports, kind), data_dir=sets["more"])
    assert result["examples"] == 500
    assert result["auc"] > 0.99  # with the ids of "other" it would be 0
    assert not [record for record in caplog.records if record.name.startswith("tf_dlrm")]


@pytest.mark.parametrize("forget", ["data", "model"])
def test_where_nothing_is_remembered_it_is_said(sets, runs, tmp_path, caplog, forget):
    run = tmp_path / "run"
    shutil.copytree(runs["own"], run)
    name = "none"
    if forget == "model":
        described = json.loads((run / "run.json").read_text())
        assert set(described.pop("vocabularies")) == {"color", "shape"}
        (run / "run.json").write_text(json.dumps(described))
        name = "other"
    caplog.set_level(logging.WARNING)
    _assess(model_dir=str(run), data_dir=sets[name])
    assert "whether its ids mean the same cannot be told" in caplog.text


def test_a_checkpoint_of_a_run_on_other_ids_is_refused(runs, exports):
    (index,) = pathlib.Path(checkpoint_folder(runs["other"])).glob("*.index")
    checkpoint = str(index).removesuffix(".index")
    with pytest.raises(
        UserError, match="color, shape stand for other values in the run of --check"
    ):
        _assess(model_dir=runs["own"], checkpoint=checkpoint)
    with pytest.raises(UserError, match="stand for other values in the checkpoint's model"):
        _assess(saved_model=exports["own"], against=runs["other"])


def test_an_increment_over_other_ids_is_refused(runs, exports, tmp_path):
    with pytest.raises(
        UserError, match="stand for other values in the model of --incremental_from"
    ):
        export_checkpoint(
            runs["own"], "", str(tmp_path / "increment"), ExportOptions(), exports["other"]
        )
    assert not (tmp_path / "increment").exists()
