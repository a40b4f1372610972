"""Runs that version 3b157f7 began go on, and are exported, as that version would have done it.

`old_runs/make.py` made their folders by that version; it says what is in them.
"""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

FOLDER = pathlib.Path(__file__).parent / "old_runs"
_SPEC = importlib.util.spec_from_file_location("old_runs_make", FOLDER / "make.py")
old_runs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(old_runs)
SLOW = ("adagrad_quotient_remainder", "rowwise_adagrad_weighted_rows")  # to export
RUNS = sorted(path.stem for path in FOLDER.glob("*.flags"))


@pytest.fixture
def old_run(tmp_path):
    def copy(name):
        shutil.copytree(FOLDER / name, tmp_path / "run")
        return tmp_path / "run", dict(np.load(FOLDER / name / "expected.npz"))

    return copy


def _under(expected, folder):
    start = folder + "/"
    return {key.removeprefix(start): v for key, v in expected.items() if key.startswith(start)}


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["native", "tensorflow"])
@pytest.mark.parametrize("name", RUNS)
def test_an_old_run_goes_on_as_it_would_have(name, kernels, old_run, in_process):
    folder, expected = old_run(name)
    metrics = in_process(
        "tf_dlrm.train",
        *old_runs.flags_of(name),
        f"--model_dir={folder}",
        f"--train_steps={old_runs.LAST}",
        f"--kernels={kernels}",
    )
    # Of the old code, on a processor with other instructions.
    for metric, value in _under(expected, "metrics").items():
        # Two of the 500 rows that change places are 2e-5 of AUC.
        assert metrics[metric] == pytest.approx(value, rel=1e-4 if metric == "auc" else 1e-5)
    trained = old_runs.numbers_of(str(folder / f"checkpoints/checkpoint-{old_runs.LAST}"))
    _check_equal(trained, _under(expected, "trained"), rtol=1e-4, atol=2e-6)
    before = old_runs.numbers_of(str(FOLDER / name / f"checkpoints/checkpoint-{old_runs.FIRST}"))
    tables = [key for key in before if "/table:" in key and before[key].size > 1]
    assert tables
    for key in tables:
        assert (before[key] != trained[key]).any(), key


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in RUNS]
)
def test_an_old_checkpoint_is_exported_as_it_was(name, old_run, in_process, tmp_path):
    folder, expected = old_run(name)
    export = tmp_path / "export"
    in_process("tf_dlrm.export", f"--model_dir={folder}", f"--export_dir={export}")
    exported = old_runs.numbers_of(str(export / "variables/variables"))
    assert _as_bytes(exported) == _as_bytes(_under(expected, "exported"))
    signature = tf.saved_model.load(str(export)).signatures["serving_default"]
    run = json.loads((folder / "run.json").read_text())
    answers = signature(**old_runs.inputs_of(signature, run))["probability"]
    np.testing.assert_allclose(answers, expected["answers"], rtol=1e-5)


def _as_bytes(exported):
    """Tables by their keys; the few weights beside them in any order."""
    weights = sorted(v.tobytes() for key, v in exported.items() if not key.startswith("tables/"))
    return weights, {k: v.tobytes() for k, v in exported.items() if k.startswith("tables/")}


def _check_equal(found, expected, rtol, atol):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_allclose(found[key], value, rtol, atol, err_msg=key)
