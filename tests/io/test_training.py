"""Runs whose data, checkpoints and exports lie in a store."""

import json
import signal
import time

import pytest

from tf_dlrm.errors import UserError
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.training.checkpoints import newest_checkpoint, read_run, write_run
from tf_dlrm.training.history import History
from tf_dlrm.training.options.config import check_export_dir, check_model_dir
from tfrecords.reader import RecordSource

METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration", "step", "examples")


def key_of(folder: str) -> str:
    return folder.split("/", 3)[3]


def flags(data_dir: str, model_dir: str) -> list[str]:
    return [
        f"--data_dir={data_dir}",
        f"--model_dir={model_dir}",
        "--embedding_dim=4",
        "--bottom_mlp=8,4",
        "--top_mlp=8,1",
        "--batch_size=64",
        "--eval_batch_size=512",
        "--epochs=3",
        "--deterministic",
        "--seed=11",
        "--embedding_optimizer=adagrad",
        "--dense_optimizer=adam",
        "--dense_learning_rate=0.001",
        "--checkpoint_every_steps=20",
        "--eval_every_steps=100",
        "--keep_checkpoints=2",
    ]


def newest(store, model_dir: str) -> int:
    state = f"{key_of(model_dir)}/checkpoints/checkpoint"
    if state not in store.keys(state):
        return 0
    return int(store.get(state).decode().splitlines()[0].rstrip('"').rsplit("-", 1)[1])


@pytest.fixture(scope="module")
def data(store, command_line) -> str:
    folder = "s3://clicks/training-data"
    command_line.run(
        "tfrecords.random",
        f"--output_dir={folder}",
        "--rows=9000",
        "--evaluation_rows=700",
        "--max_vocabulary=20",
    )
    return folder


def test_the_random_source_wrote_there(data, command_line):
    assert RecordSource(data).rows("train") == 9000
    assert "split train: 9,000 rows" in command_line.run("tfrecords.inspect", data)["text"]


def test_a_killed_run_goes_on_from_the_store(store, data, folder, command_line, tmp_path):
    """The whole road on s3://, against a run that was not killed and lies on this disk."""
    there, here = f"{folder}/model", str(tmp_path / "model")
    undisturbed = command_line.start("tf_dlrm.train", *flags(data, here))
    process = command_line.start("tf_dlrm.train", *flags(data, there))
    deadline = time.monotonic() + 300
    while newest(store, there) < 120:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    stopped_at = newest(store, there)
    export = f"{folder}/export"
    result = command_line.run("tf_dlrm.train", *flags(data, there), f"--export_dir={export}")
    out, err = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, err
    expected = json.loads(out.splitlines()[-1])
    assert 120 <= stopped_at < expected["step"]
    # Exactly: every bit of every metric.
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    history = store.get(f"{key_of(there)}/metrics.jsonl").decode()
    assert history == (tmp_path / "model" / "metrics.jsonl").read_text()
    # Two checkpoints are kept, TensorBoard's numbers are there, and nothing half-written is.
    keys = store.keys(key_of(there))
    indices = sorted(key for key in keys if key.endswith(".index"))
    assert [int(key.split("-")[-1].split(".")[0]) for key in indices] == [420, 423]
    assert not [key for key in keys if "temp" in key or "incomplete" in key]
    events = [key for key in keys if "/tensorboard/events" in key]
    assert len(events) == 2 and all(len(store.get(key)) > 200 for key in events)
    # What was exported there is what was trained there.
    evaluated = command_line.run("tf_dlrm.evaluate", f"--saved_model={export}")
    assert evaluated["auc"] == pytest.approx(expected["auc"], abs=1e-6)
    assert evaluated["step"] == 423 == load_saved_model(export)[1]["step"]


def test_run_json_is_there_or_not(store, folder):
    assert read_run(folder) is None and newest_checkpoint(folder) is None
    with pytest.raises(UserError, match=f"--model_dir={folder} holds no training run"):
        check_model_dir(folder, "")
    store.put(f"{key_of(folder)}/run.json", b"{}")
    with pytest.raises(UserError, match="run.json is not a description of a training run"):
        read_run(folder)
    write_run(folder, {"format": 1})
    assert json.loads(store.get(f"{key_of(folder)}/run.json")) == {"format": 1}


def test_checkpoints_without_the_file_that_names_the_newest(store, folder):
    store.put(f"{key_of(folder)}/checkpoints/checkpoint-7.index", b"x")
    with pytest.raises(UserError, match="holds 1 checkpoint.*missing or damaged"):
        newest_checkpoint(folder)


def test_the_history_of_a_store(store, folder):
    history = History(folder, True, 0)
    store.requests()
    for step in range(50):
        history.add_scalars(step, {"train/loss": 1.0 / (step + 1)})
    assert not [path for method, path in store.requests() if method in ("PUT", "POST")]
    history.add_evaluation({"step": 50, "auc": 0.5})
    history.add_evaluation({"step": 60, "auc": 0.75})
    assert len([path for method, path in store.requests() if method == "PUT"]) == 4
    resumed = History(folder, False, 55)
    assert resumed.last == {"step": 50, "auc": 0.5}
    lines = store.get(f"{key_of(folder)}/metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50]


def test_an_export_replaces_exports_only(store, folder):
    check_export_dir(folder, f"{folder}-model")
    store.put(f"{key_of(folder)}/thesis.txt", b"precious")
    with pytest.raises(UserError, match="is not empty and holds no saved_model.pb"):
        check_export_dir(folder, "")
    for export, model in ((folder, folder), (f"{folder}/a", folder), (folder, f"{folder}/a")):
        with pytest.raises(UserError, match="neither inside the other"):
            check_export_dir(export, model)


def test_flags_that_name_nothing_end_in_a_sentence(store, folder, command_line):
    process = command_line.start("tf_dlrm.train", f"--data_dir={folder}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.strip().splitlines()[-1] == f"train: --data_dir={folder} is not a folder."
