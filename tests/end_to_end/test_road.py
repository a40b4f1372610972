"""From a raw log to a served SavedModel, by the commands of the README."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tfrecords.reader import RecordSource

# One process for each command; what else they can do is seen where the tests run.
pytestmark = pytest.mark.process

# Runs where nothing of this project can be imported: what a serving machine has.
SERVING_PROCESS = """
import json, sys
sys.modules.update(dict.fromkeys(("tf_dlrm", "tfrecords", "tf_keras", "keras")))
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
rows = np.load(sys.argv[2])
features = {k: tf.constant(rows[k]) for k in rows.files}
def example(i):
    feature = {
        k: tf.train.Feature(float_list=tf.train.FloatList(value=np.atleast_1d(rows[k][i])))
        if rows[k].dtype == np.float32
        else tf.train.Feature(int64_list=tf.train.Int64List(value=np.atleast_1d(rows[k][i])))
        for k in rows.files
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
named = model.signatures["serving_default"]
serialized = model.signatures["serve_examples"]
count = len(rows["C1"])
out = {
    "named": named(**features)["probability"].numpy().tolist(),
    "one_by_one": [
        float(named(**{k: v[i:i + 1] for k, v in features.items()})["probability"][0])
        for i in range(5)
    ],
    "examples": serialized(
        examples=tf.constant([example(i) for i in range(count)])
    )["probability"].numpy().tolist(),
    "outputs": list(named.structured_outputs),
    "dtypes": {k: v.dtype.name for k, v in named.structured_input_signature[1].items()},
}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def trained(criteo_dataset, command_line):
    """A model directory, its export and the JSON that training printed."""
    model_dir, export_dir = criteo_dataset.parent / "run", criteo_dataset.parent / "saved_model"
    result = command_line.run(
        "tf_dlrm.train",
        "--flagfile=flags/criteo_kaggle.flags",
        f"--data_dir={criteo_dataset}",
        f"--model_dir={model_dir}",
        f"--export_dir={export_dir}",
        *command_line.small_model,
        "--epochs=3",
        "--embedding_optimizer=adagrad",
        "--embedding_learning_rate=0.02",
        "--eval_every_steps=150",
    )
    return model_dir, export_dir, result


def evaluation_rows(folder):
    ((features, labels),) = RecordSource(str(folder)).batches("evaluation", 1000)
    return {name: value.numpy() for name, value in features.items()}, labels.numpy()


def test_training_learns_and_prints_all_metrics(trained):
    _, _, result = trained
    assert result["auc"] > 0.75
    assert 0.9 < result["calibration"] < 1.1
    assert result["normalized_entropy"] < 0.9
    assert result["step"] == 3 * 94  # 6000 training rows in batches of 64
    assert result["examples"] == 18000
    assert result["evaluation_examples"] == 1000
    assert result["examples_per_second"] > 0
    assert {"log_loss", "accuracy"} <= result.keys()


def test_metrics_jsonl_holds_all_evaluations(trained):
    model_dir, _, result = trained
    lines = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [150, 282]
    assert lines[-1]["auc"] == result["auc"]


def test_a_flag_after_the_flagfile_wins(trained):
    model_dir, _, _ = trained
    options = json.loads((model_dir / "run.json").read_text())["config"]
    assert options["run"]["batch_size"] == 64
    assert options["optimizer"]["embedding_optimizer"] == "adagrad"
    assert options["optimizer"]["dense_optimizer"] == "sgd"


def test_the_export_equals_the_trained_model_in_a_process_without_this_package(
    trained, criteo_dataset, tmp_path
):
    model_dir, export_dir, _ = trained
    features, _ = evaluation_rows(criteo_dataset)
    rows = {k: v if k == "dense" else v.astype(np.int64) for k, v in features.items()}
    np.savez(tmp_path / "rows.npz", **rows)
    served = subprocess.run(
        [sys.executable, "-I", "-c", SERVING_PROCESS, str(export_dir), str(tmp_path / "rows.npz")],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert served.returncode == 0, served.stderr
    answer = json.loads(served.stdout.splitlines()[-1])
    from tf_dlrm.training.restore import CheckpointedRun

    model, _ = CheckpointedRun(str(model_dir)).restore()
    expected = 1 / (1 + np.exp(-model(features).numpy().ravel().astype(np.float64)))
    assert answer["outputs"] == ["probability"]
    assert answer["dtypes"] == {
        "dense": "float32",
        **{f"C{k}": "int64" for k in range(1, 27)},
    }
    np.testing.assert_allclose(answer["named"], expected, atol=1e-6)
    np.testing.assert_allclose(answer["examples"], expected, atol=1e-6)
    np.testing.assert_allclose(answer["one_by_one"], expected[:5], atol=1e-6)
    assert np.std(expected) > 0.1


def test_the_saved_model_has_no_keras_and_no_table_update_inside(trained):
    graph = (trained[1] / "saved_model.pb").read_bytes()
    for word in (b"keras", b"Keras", b"ScatterSub", b"ScatterUpdate", b"StridedSliceAssign"):
        assert word not in graph


def test_checkpoint_export_and_both_evaluations_agree(trained, command_line, in_process, tmp_path):
    model_dir, export_dir, result = trained
    exported = command_line.run(
        "tf_dlrm.export", f"--model_dir={model_dir}", f"--export_dir={tmp_path / 'again'}"
    )
    assert exported["step"] == result["step"]
    checkpoint = in_process("tf_dlrm.evaluate", f"--model_dir={model_dir}")
    saved = command_line.run(
        "tf_dlrm.evaluate", f"--saved_model={tmp_path / 'again'}", "--print_predictions=3"
    )
    for name in ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration"):
        assert checkpoint[name] == pytest.approx(result[name], abs=1e-9)
        assert saved[name] == pytest.approx(result[name], abs=2e-6)
    assert checkpoint["examples"] == saved["examples"] == 1000
    assert checkpoint["step"] == saved["step"] == result["step"]
    assert len(saved["predictions"]) == 3
    assert all(0 < p["probability"] < 1 for p in saved["predictions"])


def _contents(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_data_set_is_made_and_inspected_by_processes(
    criteo_tsv, criteo_dataset, command_line, tmp_path
):
    command_line.run(
        "tfrecords.convert_criteo",
        f"--input={criteo_tsv}",
        f"--output_dir={tmp_path}",
        "--format=kaggle",
        "--min_count=3",
        "--rows_per_record=512",
    )
    assert _contents(tmp_path) == _contents(criteo_dataset) != {}
    text = command_line.run("tfrecords.inspect", str(tmp_path))["text"]
    assert "6000" in text.replace(",", "") and "1000" in text.replace(",", "")
    assert "C26" in text


def test_an_export_that_takes_the_log_as_it_is(
    trained, criteo_tsv, in_process, run_command, tmp_path
):
    model_dir, _, _ = trained
    target = tmp_path / "served"
    exported = in_process(
        "tf_dlrm.export",
        f"--model_dir={model_dir}",
        f"--export_dir={target}",
        "--table_dtype=int8",
        "--serve_raw",
        "--candidate_features=I1,C1,C2",
    )
    assert exported["auc_loss"] < 0.001 and exported["auc"] > 0.75
    parity = ("tf_dlrm.evaluate", f"--saved_model={target}", f"--against={model_dir}")
    done = run_command(*parity)
    assert done.code == 2
    assert "differ by more than --max_difference=1e-05" in done.err.splitlines()[-1]
    compared = in_process(*parity, "--max_difference=0.05")
    assert compared["rows"] == 1000
    assert compared["auc"] == pytest.approx(exported["auc"], abs=1e-9)
    assert compared["checkpoint_auc"] == pytest.approx(exported["checkpoint_auc"], abs=1e-9)
    import tensorflow as tf

    lines = criteo_tsv.read_text().splitlines()[-1000:]
    names = [f"I{k}" for k in range(1, 14)] + [f"C{k}" for k in range(1, 27)]
    columns = zip(*(line.split("\t")[1:] for line in lines), strict=True)
    fields = {name: tf.constant(column) for name, column in zip(names, columns, strict=True)}
    signatures = tf.saved_model.load(str(target)).signatures
    scores = signatures["serve_raw"](**fields)["probability"].numpy()
    labels = np.array([int(line[0]) for line in lines])
    positive, negative = scores[labels == 1], scores[labels == 0]
    greater = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    assert greater == pytest.approx(exported["auc"], abs=1e-6)
    assert "rank" in signatures
