"""Mistakes end with a sentence on standard error, before or instead of a crash."""

import json

import numpy as np
import pytest

from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
        (["--data_dir=/does/not/exist"], "--data_dir=/does/not/exist is not a folder."),
        (["--data=random", "--data_dir=x"], "--data=random contradicts --data_dir=x"),
        (["--flagfile=/does/not/exist.flags"], "/does/not/exist.flags"),
        (["--data=random", "--batch_size=many"], "flag --batch_size=many"),
    ],
)
def test_flag_errors_end_before_tensorflow_starts(command_line, flags, sentence):
    _ends_before_tensorflow_starts(command_line, "tf_dlrm.train", flags, sentence)


@pytest.mark.parametrize(
    ("module", "flags", "sentence"),
    [
        ("evaluate", [], "Give one of --model_dir (a checkpoint) and --saved_model (an export)."),
        ("export", ["--model_dir=x"], "--export_dir is missing."),
        ("fold", ["--base=x", "--increment=y"], "--export_dir is missing."),
        ("plan", ["--tables=0"], "--tables=0 must be 1 or more."),
        ("compare", ["--models=svm", "--output_dir=x"], "--models has 'svm', but knows dlrm,"),
        ("compare", ["--output_dir=x", "--model=dcn"], "--model has no use here"),
        ("launch", ["--workers=0", "--"], "--workers=0"),
    ],
)
def test_so_do_those_of_the_other_programs(command_line, module, flags, sentence):
    _ends_before_tensorflow_starts(command_line, f"tf_dlrm.{module}", flags, sentence)


def _ends_before_tensorflow_starts(command_line, module, flags, sentence):
    # The import times, on standard error too, name every module that was loaded.
    done = command_line.start(module, *flags, python=["-X", "importtime"])
    assert done.returncode in (1, 2)  # 1 is absl's
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert "absl.flags" in done.stderr
    assert "| tensorflow\n" not in done.stderr


@pytest.mark.parametrize(
    ("module", "flags", "sentence"),
    [
        ("evaluate", ["--saved_model=tests"], "--saved_model=tests is no SavedModel"),
        ("evaluate", ["--model_dir=tests"], "--model_dir=tests holds no training run"),
        ("export", ["--model_dir=tests", "--export_dir=x"], "holds no training run"),
    ],
)
def test_mistakes_of_the_other_programs(fail, module, flags, sentence):
    assert sentence in fail(f"tf_dlrm.{module}", *flags)


@pytest.fixture
def fail(run_command):
    """Returns a function that runs a command, which must fail with a sentence, and returns that."""

    def run(module, *flags):
        done = run_command(module, *flags)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err
        return done.err.splitlines()[-1]

    return run


def _write(folder, vocabulary):
    schema = Schema(("I1",), (CategoricalColumn("C1", vocabulary), CategoricalColumn("C2", 5)))
    rows = {
        "dense": np.zeros((96, 1), np.float32),
        "C1": np.arange(96) % 7,
        "C2": np.zeros(96, int),
    }
    with DatasetWriter(str(folder), schema, rows_per_record=32) as writer:
        for split in ("train", "evaluation"):
            writer.write(split, rows, (np.arange(96) % 3 == 0).astype(np.float32))


def test_data_whose_schema_does_not_fit_the_model(run_command, fail, command_line, tmp_path):
    _write(tmp_path / "one", 9)
    _write(tmp_path / "two", 8)
    run_dir = f"--model_dir={tmp_path / 'run'}"
    small = [*command_line.small_model, "--train_steps=2", run_dir]
    assert run_command("tf_dlrm.train", f"--data_dir={tmp_path / 'one'}", *small).code == 0
    error = fail("tf_dlrm.evaluate", run_dir, f"--data_dir={tmp_path / 'two'}")
    assert "Feature C1 has a vocabulary of 9, " in error
    assert "in the model, but has a vocabulary of 8, " in error
    error = fail("tf_dlrm.train", f"--data_dir={tmp_path / 'two'}", *small)
    assert "holds a run on other data" in error


def test_a_folder_that_is_no_data_set(fail, tmp_path):
    assert "dataset.json" in fail("tf_dlrm.train", f"--data_dir={tmp_path}")


@pytest.fixture
def damaged(tmp_path):
    """Returns a function that makes a data set and changes the first file of a split."""

    def make(split, change):
        folder = tmp_path / "damaged"
        _write(folder, 9)
        info = json.loads((folder / "dataset.json").read_text())
        path = folder / info["splits"][split]["files"][0]["path"]
        path.write_bytes(change(bytearray(path.read_bytes())))
        return folder, path.name

    return make


def test_a_flipped_bit_in_the_records_is_found_while_training(fail, command_line, damaged):
    def flip(content):
        content[len(content) // 2] ^= 0x10
        return content

    folder, name = damaged("train", flip)
    error = fail("tf_dlrm.train", f"--data_dir={folder}", *command_line.small_model)
    assert name in error and "record" in error


def test_a_truncated_record_file_is_found_before_training(fail, command_line, damaged):
    folder, name = damaged("evaluation", lambda content: content[:-100])
    error = fail("tf_dlrm.train", f"--data_dir={folder}", *command_line.small_model)
    assert name in error and "bytes" in error
