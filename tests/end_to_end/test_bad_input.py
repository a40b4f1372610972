"""Mistakes end with a sentence on standard error, before or instead of a crash."""

import json
import shutil

import pytest


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
    _, out, err = command_line.fail("tf_dlrm.train", *flags)
    assert sentence in err
    assert "Traceback" not in err
    assert out == ""
    # The import times name every module that was loaded.
    _, _, imports = command_line.fail("tf_dlrm.train", *flags, python=["-X", "importtime"])
    assert "absl.flags" in imports
    assert "| tensorflow\n" not in imports


@pytest.mark.parametrize(
    ("module", "flags", "sentence"),
    [
        ("evaluate", [], "Give one of --model_dir (a checkpoint) and --saved_model (an export)."),
        ("evaluate", ["--saved_model=tests"], "--saved_model=tests is no SavedModel"),
        ("evaluate", ["--model_dir=tests"], "--model_dir=tests holds no training run"),
        ("export", ["--model_dir=tests"], "--export_dir is missing."),
        ("export", ["--model_dir=tests", "--export_dir=x"], "holds no training run"),
    ],
)
def test_mistakes_of_the_other_programs(command_line, module, flags, sentence):
    code, out, err = command_line.fail(f"tf_dlrm.{module}", *flags)
    assert code == 2
    assert sentence in err
    assert out == "" and "Traceback" not in err


def test_data_whose_schema_does_not_fit_the_model(command_line, criteo_tsv, tmp_path):
    for name, flag in (("one", "--min_count=3"), ("two", "--min_count=200")):
        command_line.run(
            "tfrecords.convert_criteo",
            f"--input={criteo_tsv}",
            f"--output_dir={tmp_path / name}",
            "--format=kaggle",
            flag,
        )
    small = [*command_line.small_model, "--train_steps=2", f"--model_dir={tmp_path / 'run'}"]
    command_line.run("tf_dlrm.train", f"--data_dir={tmp_path / 'one'}", *small)
    code, _, err = command_line.fail(
        "tf_dlrm.evaluate", f"--model_dir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'two'}"
    )
    assert code == 2 and "Traceback" not in err
    assert "Feature C1 has a vocabulary of" in err and "in the model, but" in err
    code, _, err = command_line.fail("tf_dlrm.train", f"--data_dir={tmp_path / 'two'}", *small)
    assert code == 2 and "Traceback" not in err
    assert "holds a run on other data" in err


def test_a_folder_that_is_no_data_set(command_line, tmp_path):
    code, _, err = command_line.fail("tf_dlrm.train", f"--data_dir={tmp_path}")
    assert code == 2
    assert "dataset.json" in err and "Traceback" not in err


def test_a_flipped_bit_in_the_records_is_found_while_training(
    command_line, criteo_dataset, tmp_path
):
    folder = tmp_path / "dataset"
    shutil.copytree(criteo_dataset, folder)
    info = json.loads((folder / "dataset.json").read_text())
    path = folder / info["splits"]["train"]["files"][0]["path"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    code, _, err = command_line.fail(
        "tf_dlrm.train", f"--data_dir={folder}", *command_line.small_model
    )
    assert code == 2
    assert path.name in err and "record" in err and "Traceback" not in err


def test_a_truncated_record_file_is_found_before_training(command_line, criteo_dataset, tmp_path):
    folder = tmp_path / "dataset"
    shutil.copytree(criteo_dataset, folder)
    info = json.loads((folder / "dataset.json").read_text())
    path = folder / info["splits"]["evaluation"]["files"][0]["path"]
    path.write_bytes(path.read_bytes()[:-100])
    code, _, err = command_line.fail(
        "tf_dlrm.train", f"--data_dir={folder}", *command_line.small_model
    )
    assert code == 2
    assert path.name in err and "bytes" in err and "Traceback" not in err
