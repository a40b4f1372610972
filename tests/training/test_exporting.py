"""Exports of checkpoints: the same tables, smaller ones, only what changed, and proof of each."""

import functools
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.row_format import row_format
from tf_dlrm.errors import UserError
from tf_dlrm.serving.exporting import export_checkpoint
from tf_dlrm.serving.increment import fold, open_variables
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.serving.variable_files import CheckpointRows
from tf_dlrm.training.checkpoints import checkpoint_folder
from tf_dlrm.training.evaluation.assessment import assess
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import train

TABLES = (50, 60, 70)


@pytest.fixture(scope="module")
def run(make_tiny, tmp_path_factory):
    """The folder of a run with checkpoints at steps 58 and 60: few rows change in between."""
    config = make_tiny(
        tmp_path_factory.mktemp("exporting") / "run",
        train_steps=60,
        checkpoint_every_steps=58,
        keep_checkpoints=3,
        batch_size=10,
        random_train_rows=1200,
        embedding_optimizer="adagrad",
        embedding_learning_rate=0.3,
        dense_optimizer="adam",
        dense_learning_rate=0.01,
    )
    train(config)
    return config.run.model_dir


def at(run, step):
    """The path prefix of the checkpoint of a step."""
    (index,) = pathlib.Path(checkpoint_folder(run)).glob(f"*-{step}.index")
    return str(index).removesuffix(".index")


def export(run, step, folder, incremental_from="", **options):
    return export_checkpoint(
        CheckpointedRun(run, at(run, step)),
        str(folder),
        ExportOptions(**options),
        str(incremental_from),
    )


def rows_of(run, step):
    """All tables of a checkpoint, one after the other."""
    model, _ = CheckpointedRun(run, at(run, step)).restore()
    tables = [model.embeddings.tables[f.table.name] for f in model.config.features]
    return np.concatenate([table.read_rows().numpy() for table in tables])


def saved_rows(folder):
    variables = open_variables(str(folder))
    (key,) = (key for key in variables.shapes if key.startswith("tables/"))
    return variables.read(key, 0, variables.shapes[key][0])


def auc_of(folder):
    return assess(EvaluationOptions(saved_model=str(folder), eval_batch_size=256))["auc"]


@pytest.fixture(scope="module")
def exports(run, tmp_path_factory):
    """Exports DTYPE_STEP of the run, made when they are asked for; nothing changes them."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def made(dtype, step):
        path = folder / f"{dtype}_{step}"
        export(run, step, path, table_dtype=dtype, max_auc_loss=-1.0)
        return path

    return made


@pytest.mark.parametrize(
    "dtype",
    [
        *("float32", "int8"),
        *(pytest.param(each, marks=pytest.mark.exhaustive) for each in ("bfloat16", "float16")),
    ],
)
def test_tables_of_every_type(run, exports, dtype):
    encoded = row_format(dtype).encode(rows_of(run, 60))
    np.testing.assert_array_equal(saved_rows(exports(dtype, 60)), encoded)
    # 4 numbers a row, and for whole numbers scale and offset.
    assert encoded.nbytes == sum(TABLES) * {"float32": 16, "int8": 7}.get(dtype, 8)
    assert load_saved_model(str(exports(dtype, 60)))[1]["export"]["table_dtype"] == dtype


def test_what_smaller_tables_lose_is_measured(run, exports, tmp_path):
    result = export(run, 60, tmp_path / "export", table_dtype="int4", max_auc_loss=0.5)
    encoded = row_format("int4").encode(rows_of(run, 60))
    np.testing.assert_array_equal(saved_rows(tmp_path / "export"), encoded)
    assert result["table_bytes"] == encoded.nbytes == sum(TABLES) * 5
    assert load_saved_model(str(tmp_path / "export"))[1]["export"]["table_dtype"] == "int4"
    assert result["auc"] == auc_of(tmp_path / "export") != result["checkpoint_auc"]
    assert result["checkpoint_auc"] == pytest.approx(auc_of(exports("float32", 60)), abs=1e-6)
    assert result["auc_loss"] == pytest.approx(result["checkpoint_auc"] - result["auc"], abs=1e-12)


def test_nothing_is_exported_that_loses_too_much(run, exports, tmp_path, monkeypatch):
    target = tmp_path / "export"
    shutil.copytree(exports("int8", 58), target)
    encode = type(row_format("int8")).encode
    # As if rounding took everything away.
    monkeypatch.setattr(type(row_format("int8")), "encode", lambda self, r: encode(self, 0 * r))
    with pytest.raises(UserError, match="more than --max_auc_loss=0.01 is lost, so nothing"):
        export(run, 60, target, table_dtype="int8", max_auc_loss=0.01)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointedRun, "aucs", lambda *arguments: (0.72, 0.7))
        with pytest.raises(UserError, match="is 0.70000, where the checkpoint's is 0.72000: more"):
            export(run, 60, tmp_path / "new", table_dtype="int8", max_auc_loss=0.01)
    assert os.listdir(tmp_path) == ["export"]
    assert load_saved_model(str(target))[1]["step"] == 58


def test_without_a_bound_no_auc_is_measured(run, exports, tmp_path):
    target = tmp_path / "export"
    shutil.copytree(exports("int8", 58), target)
    assert "auc" not in export(run, 60, target, table_dtype="int8", max_auc_loss=-1.0)
    assert load_saved_model(str(target))[1]["step"] == 60


def test_a_type_that_computes_less_exactly(run, tmp_path):
    result = export(run, 60, tmp_path / "export", compute_dtype="bfloat16", max_auc_loss=0.5)
    assert result["auc"] == auc_of(tmp_path / "export")
    # How much it loses depends on the processor, which may widen the products.
    assert result["auc"] == pytest.approx(result["checkpoint_auc"], abs=0.02)
    assert result["auc_loss"] == pytest.approx(result["checkpoint_auc"] - result["auc"], abs=1e-12)
    np.testing.assert_array_equal(saved_rows(tmp_path / "export"), rows_of(run, 60))
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    nodes = [n for f in serve.graph.as_graph_def().library.function for n in f.node_def]
    products = [node.attr["T"].type for node in nodes if node.op == "MatMul"]
    assert products.count(tf.bfloat16.as_datatype_enum) == 4  # the layers of both MLPs


def compare(saved_model, against, **options):
    return assess(
        EvaluationOptions(
            saved_model=str(saved_model), against=str(against), eval_batch_size=256, **options
        )
    )


def test_an_export_predicts_what_its_checkpoint_does(run, exports):
    result = compare(exports("float32", 60), run)  # its newest one
    assert result["rows"] == 700 and result["checkpoint_step"] == result["step"] == 60
    assert 0 <= result["mean_difference"] <= result["largest_difference"] < 1e-6
    assert result["auc"] == pytest.approx(result["checkpoint_auc"], abs=1e-6)
    message = r"Row \d+ of split 'evaluation' has the .* of 700 rows differ by .*_difference=1e-05"
    with pytest.raises(UserError, match=message):
        compare(exports("float32", 60), at(run, 58))
    rounded = compare(exports("int8", 60), at(run, 60), max_difference=0.1)
    assert rounded["rows"] == 700 and 1e-5 < rounded["largest_difference"] < 0.1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_an_increment_makes_the_base_what_a_full_export_is(run, exports, tmp_path, dtype):
    base, full = exports(dtype, 58), exports(dtype, 60)
    export(run, 60, tmp_path / "increment", base, table_dtype=dtype, max_auc_loss=0.5)
    result = fold(str(base), str(tmp_path / "increment"), str(tmp_path / "folded"))
    changed = (row_format(dtype).encode(rows_of(run, 58)) != saved_rows(full)).any(1).sum()
    assert result["changed_rows"] == changed and 0 < changed < sum(TABLES) / 2
    assert result["step"] == 60
    folder = "variables"
    assert os.listdir(tmp_path / "folded" / folder) == os.listdir(full / folder)
    for name in os.listdir(full / folder):
        ours, theirs = (path / folder / name for path in (tmp_path / "folded", full))
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert compare(tmp_path / "folded", at(run, 60), max_difference=0.1)["rows"] == 700


def test_a_run_whose_description_says_other_sizes(run, tmp_path):
    edited = tmp_path / "run"
    shutil.copytree(run, edited)
    text = json.loads((edited / "run.json").read_text())
    text["schema"]["categorical"][1]["vocabulary_size"] -= 1
    (edited / "run.json").write_text(json.dumps(text))
    said = r"has table 'C2' with the shape \(60, \d+\), where run.json says \(59, \d+\)"
    with pytest.raises(UserError, match=said):
        export_checkpoint(CheckpointedRun(str(edited)), str(tmp_path / "out"), ExportOptions())
    assert not (tmp_path / "out").exists()


def test_increments_follow_each_other(run, exports, tmp_path):
    export(run, 58, tmp_path / "back", exports("float32", 60))
    fold(str(exports("float32", 60)), str(tmp_path / "back"), str(tmp_path / "old"))
    export(run, 60, tmp_path / "forth", tmp_path / "old")
    fold(str(tmp_path / "old"), str(tmp_path / "forth"), str(tmp_path / "new"))
    np.testing.assert_array_equal(saved_rows(tmp_path / "old"), rows_of(run, 58))
    np.testing.assert_array_equal(saved_rows(tmp_path / "new"), rows_of(run, 60))


def test_increments_that_do_not_fit(run, exports, tmp_path):
    base, increment = exports("float32", 58), tmp_path / "increment"
    with pytest.raises(UserError, match="has other tables than this model"):
        export(run, 60, increment, base, table_dtype="int8")
    with pytest.raises(UserError, match="is no SavedModel that tf_dlrm exported"):
        export(run, 60, increment, tmp_path)
    assert not os.path.exists(increment)
    export(run, 60, increment, base)
    with pytest.raises(UserError, match="was made from another SavedModel than --base="):
        fold(str(exports("float32", 60)), str(increment), str(tmp_path / "folded"))
    with pytest.raises(UserError, match="is no increment"):
        fold(str(base), str(base), str(tmp_path / "folded"))
    other = tmp_path / "other"  # of the same base and tables
    export(run, 58, other, base)
    damages = {
        "rows.tfrecord": lambda path: path.write_bytes(path.read_bytes()[:-30]),
        "saved_model/saved_model.pb": lambda path: path.unlink(),
        "saved_model/assets.extra/run.json": lambda path: path.write_text("{}"),
    }
    damages_by_others = ("rows.tfrecord", "saved_model/assets.extra/run.json")
    for k, (name, damage) in enumerate(
        [*damages.items()]
        + [(name, lambda path, n=name: shutil.copy(other / n, path)) for name in damages_by_others]
    ):
        damaged = tmp_path / str(k)
        shutil.copytree(increment, damaged)
        damage(damaged / name)
        with pytest.raises(UserError, match=f"{name} of .* is missing, damaged or of another one"):
            fold(str(base), str(damaged), str(tmp_path / "folded"))
    (damaged / "increment.json").write_text("{}")
    with pytest.raises(UserError, match="is no increment"):
        fold(str(base), str(damaged), str(tmp_path / "folded"))
    assert not os.path.exists(tmp_path / "folded")


def test_an_increment_offers_what_its_base_does(run, tmp_path):
    export(run, 58, tmp_path / "base", candidate_features=("C2",))
    with pytest.raises(UserError, match="was exported with --candidate_features=.'C2'.*, but here"):
        export(run, 60, tmp_path / "increment", tmp_path / "base")
    export(run, 60, tmp_path / "increment", tmp_path / "base", candidate_features=("C2",))


def test_a_base_that_is_replaced_meanwhile(run, exports, tmp_path, monkeypatch):
    base, increment = tmp_path / "base", tmp_path / "increment"
    shutil.copytree(exports("float32", 58), base)
    export(run, 60, increment, base)
    read = CheckpointRows.read

    def replacing(self, *arguments):
        rows = read(self, *arguments)
        shutil.rmtree(base)
        shutil.copytree(exports("float32", 60), base)
        return rows

    with monkeypatch.context() as patched:
        patched.setattr(CheckpointRows, "read", replacing)
        with pytest.raises(UserError, match="was replaced while it was read; nothing was written"):
            fold(str(base), str(increment), str(tmp_path / "folded"))
    assert not os.path.exists(tmp_path / "folded")


def test_the_loss_is_measured_on_the_data_of_the_run_only(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    description = json.loads((copy / "run.json").read_text())
    description["data_fingerprint"] = "another"
    (copy / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="The data is not that of the training run any more"):
        export(str(copy), 60, tmp_path / "export", table_dtype="int8")
    export(str(copy), 60, tmp_path / "export", table_dtype="int8", max_auc_loss=-1.0)


def test_an_export_does_not_replace_a_link(run, tmp_path):
    export(run, 58, tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    with pytest.raises(UserError, match="is a link; the SavedModel would replace it"):
        export(run, 60, tmp_path / "current")
    assert load_saved_model(str(tmp_path / "current"))[1]["step"] == 58


def test_ranking_from_a_checkpoint(run, tmp_path):
    export(run, 60, tmp_path / "export", candidate_features=("C2", "I1"))
    rank = tf.saved_model.load(str(tmp_path / "export")).signatures["rank"]
    model, _ = CheckpointedRun(run, at(run, 60)).restore()
    dense = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    dense[:, 1:] = dense[0, 1:]
    ids = {"C1": [7] * 5, "C2": [0, 1, 2, 3, 59], "C3": [69] * 5}
    answer = rank(
        dense=tf.constant(dense[0, 1:]),
        candidate_dense=tf.constant(dense[:, :1]),
        C1=tf.constant(7, tf.int64),
        C2=tf.constant(ids["C2"], tf.int64),
        C3=tf.constant(69, tf.int64),
    )["probability"]
    features = {"dense": tf.constant(dense), **{k: tf.constant(v) for k, v in ids.items()}}
    np.testing.assert_allclose(answer, tf.sigmoid(model(features))[:, 0], atol=1e-6)


def test_options_that_can_not_be(run, tmp_path):
    with pytest.raises(UserError, match="--serve_raw needs a model of Criteo's log"):
        export(run, 60, tmp_path / "x", serve_raw=True)
    with pytest.raises(UserError, match="--table_dtype"):
        export(run, 60, tmp_path / "x", table_dtype="int2")
    with pytest.raises(UserError, match="--max_auc_loss=nan must be a finite number"):
        export(run, 60, tmp_path / "x", max_auc_loss=float("nan"))
    with pytest.raises(UserError, match="holds no training run"):
        CheckpointedRun(str(tmp_path))
    assert not os.path.exists(tmp_path / "x")
