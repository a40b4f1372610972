"""What runs commands in the process of the tests, since many tests rely on it."""

import logging

import pytest
from absl import flags


@pytest.fixture(autouse=True)
def _nothing_is_left():
    before = set(flags.FLAGS), logging.getLogger("tf_dlrm").handlers[:]
    yield
    assert (set(flags.FLAGS), logging.getLogger("tf_dlrm").handlers) == before


def test_a_result_is_the_output_and_flags_are_new_each_time(run_command, tmp_path):
    small = ["--data=random", "--random_tables=9", "--random_train_rows=64", "--batch_size=32"]
    small += ["--random_evaluation_rows=32", "--random_dense_features=0", "--random_label=random"]
    small += ["--model=factorization_machine", "--embedding_dim=2"]
    done = run_command("tf_dlrm.train", *small, f"--model_dir={tmp_path}/run")
    assert (done.code, '"step": 2' in done.out) == (0, True), done.err
    assert "checkpoint of step 2 written" in done.err
    # evaluate defines --model_dir as well
    done = run_command("tf_dlrm.evaluate", f"--model_dir={tmp_path}/run")
    assert (done.code, '"step": 2' in done.out) == (0, True), done.err
    assert run_command("tf_dlrm.evaluate").code == 2  # the folder was the other call's


def test_sentences_go_to_standard_error_with_an_exit_code(run_command):
    done = run_command("tf_dlrm.train", "--data=random", "--learning=1")
    assert (done.code, done.out) == (1, "")
    assert "Unknown command line flag 'learning'" in done.err
    done = run_command("tfrecords.convert", "--input=none.csv", "--output_dir=none")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: --schema is needed")
    # Its flags are defined by modules of a package, which remembers them as attributes.
    assert run_command("tfrecords.convert", "--input=none.csv", "--output_dir=none") == done
