"""Runs that are not gone on with: what a folder holds is damaged, or of another run, or no room."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.checkpoints import Checkpoints, Position, checkpoint_folder
from tf_dlrm.training.distribution.sharded_checkpoint import ShardedCheckpoint
from tf_dlrm.training.run import train
from tfrecords.errors import DataError


def newest(config):
    return tf.train.latest_checkpoint(checkpoint_folder(config.run.model_dir))


def assert_kept(config, before, failed):
    """The newest checkpoint is the one before, and nothing is left of the step that failed."""
    assert newest(config) == before
    left = os.listdir(checkpoint_folder(config.run.model_dir))
    assert not [name for name in left if f"-{failed}" in name]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"top_mlp": (9, 1)}, "holds a run with --top_mlp=8,1, but this one has --top_mlp=9,1"),
        ({"seed": 4}, "holds a run with --seed=3"),
        ({"embedding_optimizer": "ftrl"}, "--embedding_optimizer=sgd"),
        ({"random_train_rows": 1951}, "holds a run on other data"),
        ({"random_tables": ("50", "60", "71")}, "holds a run on other data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tiny, begun, change, sentence):
    before = newest(begun)
    with pytest.raises(UserError) as error:
        train(tiny(**change))
    assert sentence in str(error.value)
    assert newest(begun) == before


def test_a_damaged_checkpoint_is_refused(tiny, begun):
    data = pathlib.Path(newest(begun) + ".data-00000-of-00001")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    data.write_bytes(damaged)
    with pytest.raises(UserError, match="can't be restored"):
        train(tiny())


def test_a_missing_state_file_deletes_no_checkpoint(tiny, begun):
    folder = pathlib.Path(checkpoint_folder(begun.run.model_dir))
    (folder / "checkpoint").write_text("")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match="its file 'checkpoint'.*is missing or damaged"):
        train(tiny())
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("length", [0, 100])
def test_a_truncated_checkpoint_is_refused(tiny, begun, length):
    data = pathlib.Path(newest(begun) + ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:length])
    with pytest.raises(UserError, match="can't be restored"):
        train(tiny())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.jsonl", '{"step": 1', "metrics.jsonl, line 1, is no evaluation"),
        ("metrics.jsonl", "3", "metrics.jsonl, line 1, is no evaluation"),
        ("run.json", '{"format": 1}', "run.json is not a description of a training run"),
        ("run.json", '{"format": 2}', "its format is 2, not 1"),
        ("run.json", "[", "run.json is not a description of a training run"),
    ],
)
def test_damaged_files_of_a_run_are_named(tiny, begun, name, content, sentence):
    (pathlib.Path(begun.run.model_dir) / name).write_text(content)
    with pytest.raises(UserError) as error:
        train(tiny())
    assert sentence in str(error.value)


def test_a_description_of_other_columns_is_refused(tiny, begun):
    path = pathlib.Path(begun.run.model_dir) / "run.json"
    text = json.loads(path.read_text())
    text["schema"]["categorical"][0]["vocabulary_size"] += 1
    path.write_text(json.dumps(text))
    with pytest.raises(UserError, match=f"{path} describes other columns than its own data has"):
        train(tiny())


@pytest.mark.parametrize("name", ["run.json", "checkpoint", "checkpoint-*.index"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tiny, begun, name):
    folder = pathlib.Path(begun.run.model_dir)
    (path,) = (folder if name == "run.json" else folder / "checkpoints").glob(name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=f"{path} is a pipe, a socket or a device"):
        train(tiny())


def test_leftovers_of_an_interrupted_save_are_removed(begun):
    folder = pathlib.Path(checkpoint_folder(begun.run.model_dir))
    (folder / "checkpoint-9_temp").mkdir()
    (folder / "checkpoint-9_temp" / "part-00000-of-00001.data").write_bytes(b"half")
    (folder / "checkpoint-9.data-00000-of-00001").write_bytes(b"half")
    train(begun)
    assert_kept(begun, newest(begun), 9)
    assert newest(begun).endswith("-3")


def _disk_full(monkeypatch, error):
    """Checkpoints stop in the middle, as on a full disk."""
    write = ShardedCheckpoint._write

    def half(self, prefix, options=None):
        write(self, prefix)
        os.truncate(f"{prefix}.data-00000-of-00001", 100)
        os.remove(f"{prefix}.index")
        raise error

    monkeypatch.setattr(ShardedCheckpoint, "_write", half)


def test_a_full_disk_keeps_the_last_good_checkpoint(tiny, begun, monkeypatch):
    before = newest(begun)
    with monkeypatch.context() as patch:
        _disk_full(patch, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(UserError, match="checkpoint of step 20 can't be written") as error:
            train(tiny())
    assert before in str(error.value) and "No space left on device" in str(error.value)
    assert_kept(begun, before, 20)
    assert train(tiny(train_steps=4))["step"] == 4


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
        RuntimeError("No space left on device"),
    ],
    ids=["system", "tensorflow", "runtime"],
)
@pytest.mark.parametrize("saved", [False, True])
def test_a_save_that_fails_says_what_is_there(tmp_path, monkeypatch, error, saved):
    checkpoints = Checkpoints(str(tmp_path), 2, weight=tf.Variable([2.0]))
    if saved:
        checkpoints.save(Position(4))
    before = checkpoints.latest
    _disk_full(monkeypatch, error)
    kept = "the last good checkpoint is .*-4" if saved else "there is none yet"
    with pytest.raises(UserError, match=rf"step 14 .*\(No space left.*; {kept}|Errno.*; {kept}"):
        checkpoints.save(Position(14))
    assert checkpoints.latest == before
    names = os.listdir(checkpoint_folder(str(tmp_path)))
    assert not [name for name in names if "-14" in name]
    assert len([name for name in names if "-4." in name]) == (2 if saved else 0)


@pytest.mark.process
def test_a_file_that_cannot_grow_keeps_the_last_good_checkpoint(tiny):
    # Writing more than this fails as on a full disk; run.json is smaller, tables are not.
    code = (
        "import json, resource, sys\n"
        "from tf_dlrm.training.options.config import TrainingConfig\n"
        "from tf_dlrm.training.run import train\n"
        "for config in sys.argv[1:]:\n"
        "    train(TrainingConfig.from_json(json.loads(config)))\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))\n"
    )
    begun, whole = (tiny(train_steps=n, tensorboard=False, kernels="tensorflow") for n in (3, 0))
    command = [sys.executable, "-c", code, *(json.dumps(c.to_json()) for c in (begun, whole))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "The checkpoint of step 20 can't be written" in done.stderr
    assert newest(begun).endswith("-3")
    assert f"the last good checkpoint is {newest(begun)}" in done.stderr
    assert_kept(begun, newest(begun), 20)
