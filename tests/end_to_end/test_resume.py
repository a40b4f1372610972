"""Killing a training process and running the same command again."""

import json
import pathlib
import signal
import time

import pytest

METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration", "step", "examples")


def flags(command_line, dataset, model_dir):
    return [
        f"--data_dir={dataset}",
        f"--model_dir={model_dir}",
        *command_line.small_model,
        "--epochs=4",
        "--deterministic",
        "--seed=11",
        "--dropout=0.1",
        "--embedding_optimizer=adagrad",
        "--dense_optimizer=adam",
        "--dense_learning_rate=0.001",
        "--checkpoint_every_steps=20",
        "--eval_every_steps=120",
        "--keep_checkpoints=3",
    ]


def stop_in_the_middle(process, model_dir: pathlib.Path, step: int, number: signal.Signals) -> int:
    """Sends a signal once the checkpoint of `step` is there; returns the exit code."""
    state = model_dir / "checkpoints" / "checkpoint"
    deadline = time.monotonic() + 120
    while not (state.exists() and _newest(state) >= step):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=120)
    return process.returncode


def _newest(state: pathlib.Path) -> int:
    lines = state.read_text().splitlines()
    return int(lines[0].rstrip('"').rsplit("-", 1)[1]) if lines else 0


@pytest.fixture(scope="module")
def uninterrupted(command_line, criteo_dataset):
    model_dir = criteo_dataset.parent / "uninterrupted"
    result = command_line.run("tf_dlrm.train", *flags(command_line, criteo_dataset, model_dir))
    return result, (model_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_ends_where_an_uninterrupted_one_does(
    command_line, criteo_dataset, uninterrupted, tmp_path, number, code
):
    expected, expected_history = uninterrupted
    command = flags(command_line, criteo_dataset, tmp_path / "run")
    process = command_line.start("tf_dlrm.train", *command)
    assert stop_in_the_middle(process, tmp_path / "run", 120, number) == code
    stopped_at = _newest(tmp_path / "run" / "checkpoints" / "checkpoint")
    assert 120 <= stopped_at < expected["step"]
    result = command_line.run("tf_dlrm.train", *command)
    # Exactly: every bit of every metric.
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    history = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in history.splitlines()] == [
        json.loads(line) for line in expected_history.splitlines()
    ]
