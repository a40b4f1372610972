"""Killing a training process and running the same command again."""

import json
import signal

import pytest

from tf_dlrm.training.checkpoints import newest_checkpoint

METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration", "step", "examples")


def flags(command_line, dataset, model_dir):
    return [
        f"--data_dir={dataset}",
        f"--model_dir={model_dir}",
        *command_line.small_model,
        "--epochs=2",
        "--deterministic",
        "--seed=11",
        "--dropout=0.1",
        "--embedding_optimizer=adagrad",
        "--dense_optimizer=adam",
        "--dense_learning_rate=0.001",
        "--checkpoint_every_steps=20",
        "--eval_every_steps=60",
        "--keep_checkpoints=3",
    ]


@pytest.mark.process
def test_a_run_that_is_stopped_twice_ends_where_an_uninterrupted_one_does(
    command_line, criteo_dataset, tmp_path
):
    expected = command_line.run(
        "tf_dlrm.train", *flags(command_line, criteo_dataset, tmp_path / "a")
    )
    command = flags(command_line, criteo_dataset, tmp_path / "b")

    # The evaluation of that step is still to come.
    done = command_line.start("tf_dlrm.train", *command, fault="checkpoint:60:SIGKILL")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert newest_checkpoint(str(tmp_path / "b")).endswith("-60")
    assert (tmp_path / "b" / "metrics.jsonl").read_text() == ""

    # In the second epoch, just after an evaluation.
    done = command_line.start("tf_dlrm.train", *command, fault="evaluation:120:SIGTERM")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "resuming at step 60 from" in done.stderr
    newest = newest_checkpoint(str(tmp_path / "b"))
    assert 120 < int(newest.rsplit("-", 1)[1]) <= 140

    result = command_line.run("tf_dlrm.train", *command)
    # Exactly: every bit of every metric.
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    histories = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("a", "b")
    ]
    assert histories[0] == histories[1]
    assert [entry["step"] for entry in histories[0]] == [60, 120, 180, 188]
