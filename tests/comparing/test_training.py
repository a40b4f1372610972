"""The runs as processes: what is trained, and what a second start makes of it."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tf_dlrm.comparing import runs as runs_module
from tf_dlrm.comparing.runs import plan_runs, train_all
from tf_dlrm.errors import UserError

# In place of `python -m tf_dlrm.train`: notes its start, and leaves what a training run leaves.
_PROGRAM = """#!{python} -IS
import json, os, pathlib, signal, sys, time
if sys.argv[1] == "-IS":  # what ties it to the process that starts it
    os.environ["TIED"] = sys.argv[2]
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
assert sys.argv[1:3] == ["-m", "tf_dlrm.train"], sys.argv
assert os.environ.get("TIED", "").endswith("tied.py"), "it was not started by tied.py"
flags = dict(flag[2:].split("=", 1) for flag in sys.argv[3:])
folder = pathlib.Path(flags["model_dir"])
with open({started!r}, "a") as file:
    file.write(folder.parent.parent.name + " " + flags["batch_size"] + "\\n")
(folder / "checkpoints").mkdir(exist_ok=True)
(folder / "checkpoints" / "checkpoint").touch()
(folder / "metrics.jsonl").write_text(json.dumps(dict(step=20, auc=0.5, accuracy=0.5)) + "\\n")
what = os.environ.get("BEHAVIOUR")
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "slow":  # waits until it has been told how far it is
    signal.signal(signal.SIGTERM, lambda *_: sys.exit((folder / "stopped").touch()))
    for n in range(3):
        for _ in range(1000):
            if (folder / ("said_" + str(n))).exists():
                break
            time.sleep(0.01)
        else:
            sys.exit("for ten seconds nothing was said")
        print("", "step " + str(n), "\\x1b[2J\\n", file=sys.stderr, flush=True)
print("resuming" if what == "again" else "beginning", file=sys.stderr)
if what == "fail":
    print("train: the loss became nan.", file=sys.stderr)
    sys.exit(2)
print("a line before the result")
auc = len(folder.parent.parent.name) / 8
rest = dict(log_loss=0.5, accuracy=0.75, parameters=9, examples_per_second=10.0)
print(json.dumps(dict(auc=auc, step=20, **rest)))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a small program in place of training; returns a function that reads what it began."""
    path, started = tmp_path / "python", tmp_path / "started"
    path.write_text(_PROGRAM.format(python=sys.executable, started=str(started)))
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))
    started.touch()
    return lambda: started.read_text().splitlines()


@pytest.fixture
def runs(compare_options, common, tmp_path):
    """Of DLRM and DCN."""
    return plan_runs(compare_options(tmp_path / "out", seeds=(0,), optimizers=("adagrad",)), common)


def _result(auc):
    rest = {"step": 20, "log_loss": 0.5, "accuracy": 0.75, "parameters": 9}
    return {"auc": auc, "examples_per_second": 10.0, **rest}


def _with_run(run, **changes):
    changed = dataclasses.replace(run.config.run, **changes)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, run=changed))


def _checkpoints(runs):
    return [(run.folder / "checkpoints").exists() for run in runs]


def test_what_is_finished_is_not_trained_again(program, runs, capfd):
    first = train_all(runs[:1], keep_models=True)
    assert first == [_result(4 / 8)]
    assert _checkpoints(runs) == [True, False]
    both = train_all(runs, keep_models=False)
    assert both == [*first, _result(3 / 8)]
    assert program() == ["dlrm 100", "dcn 100"]
    assert _checkpoints(runs) == [False, False]
    assert "Run 2 of 2: dcn/adagrad/seed_0\n" in capfd.readouterr().err
    assert train_all(runs, keep_models=False) == both
    assert len(program()) == 2


def test_finished_runs_of_other_options_are_refused_before_any_is_trained(program, runs):
    train_all(runs[1:], keep_models=False)
    with pytest.raises(UserError, match=r"dcn/adagrad/seed_0 holds a run with other options .*=50"):
        train_all([runs[0], _with_run(runs[1], batch_size=50)], keep_models=False)
    assert program() == ["dcn 100"]


def test_finished_runs_on_other_data_are_refused(program, runs):
    train_all(runs[:1], keep_models=False, data="first")
    with pytest.raises(UserError, match=r"seed_0 holds a run on other data"):
        train_all(runs, keep_models=False, data="second")
    assert program() == ["dlrm 100"]
    assert len(train_all(runs, keep_models=False, data="first")) == 2


def test_an_interrupted_run_does_not_go_on_with_other_options(program, runs, monkeypatch):
    run = runs[0]
    monkeypatch.setenv("BEHAVIOUR", "die")
    with pytest.raises(UserError, match=r"dlrm/adagrad/seed_0 failed: it ended with code -9 All"):
        train_all([run], keep_models=True)
    monkeypatch.setenv("BEHAVIOUR", "again")
    other = _with_run(run, batch_size=50, epochs=2)
    with pytest.raises(UserError, match=r"other options \(--batch_size=100, --batch_size=50, --ep"):
        train_all([other], keep_models=True)
    assert program() == ["dlrm 100"]
    # Before the first checkpoint nothing would go on.
    (run.folder / "checkpoints" / "checkpoint").unlink()
    train_all([other], keep_models=False)
    assert program() == ["dlrm 100", "dlrm 50"]
    assert (run.folder / "log.txt").read_text() == "resuming\n"


@pytest.mark.parametrize("text", ['{"flags": 3, "result": {}}', "[]", '{"flags": []}', "{"])
@pytest.mark.parametrize("name", ["result.json", "begun.json"])
def test_what_does_not_say_what_was_run_is_refused(program, runs, text, name):
    (run,) = runs[:1]
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "checkpoint").touch()
    (run.folder / name).write_text(text)
    expected = f"{name} does not say what was run; remove the folder"
    if (name, text) == ("begun.json", "[]"):  # of a run without flags
        expected = "holds a run with other options"
    with pytest.raises(UserError, match=expected):
        train_all([run], keep_models=False)
    assert program() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"auc": "0.5"}, "auc must be a number from 0 to 1, not '0.5'."),
        ({"auc": float("nan")}, "auc must be a number from 0 to 1, not nan."),
        ({"auc": 1.5}, "auc must be a number from 0 to 1, not 1.5."),
        ({"log_loss": float("inf")}, "log_loss must be a number from 0 to 4.61169e+18, not inf."),
        ({"accuracy": True}, "accuracy must be a number from 0 to 1, not True."),
        ({"parameters": 9.0}, "parameters must be a whole number of at least 1, not 9.0."),
        ({"parameters": 10**400}, "parameters must be a whole number of at least 1, not 1"),
        ({"examples_per_second": None}, "examples_per_second must be a number from 0 to"),
        ({"examples_per_second": [1]}, "examples_per_second must be a number from 0 to"),
        ({"step": -1}, "step must be a whole number of at least 0, not -1."),
        ({"calibration": float("-inf")}, "calibration must be a finite number, not -inf."),
    ],
)
def test_a_damaged_result_is_refused_before_any_is_trained(program, runs, changes, sentence):
    first, second = runs
    train_all([second], keep_models=False)
    path = second.folder / "result.json"
    before = json.loads(path.read_text())
    path.write_text(json.dumps(before | {"result": before["result"] | changes}))
    with pytest.raises(UserError) as error:
        train_all([first, second], keep_models=False)
    assert str(error.value).startswith(f"{path} was edited or is damaged: {sentence}")
    assert str(error.value).endswith(" Remove the folder to train the run again.")
    assert program() == ["dcn 100"]


@pytest.mark.parametrize(
    "name", ["auc", "log_loss", "accuracy", "parameters", "examples_per_second", "step"]
)
def test_a_result_without_a_part_is_refused(program, runs, name):
    train_all(runs[:1], keep_models=False)
    path = runs[0].folder / "result.json"
    before = json.loads(path.read_text())
    del before["result"][name]
    path.write_text(json.dumps(before))
    with pytest.raises(UserError, match=f"json was .*: The result has no '{name}'\\. Remove"):
        train_all(runs[:1], keep_models=False)


@pytest.mark.parametrize("result", [None, 3, "x", [], [["auc", 0.5]]])
def test_a_result_that_is_none_is_refused(program, runs, result):
    train_all(runs[:1], keep_models=False)
    path = runs[0].folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"result": result}))
    with pytest.raises(UserError, match="The result must be a JSON object, not "):
        train_all(runs[:1], keep_models=False)


@pytest.mark.parametrize("metric", ["auc", "log_loss", "accuracy"])
def test_undefined_metrics_are_a_result(program, runs, metric):
    train_all(runs[:1], keep_models=False)
    path = runs[0].folder / "result.json"
    before = json.loads(path.read_text())
    before["result"][metric] = None
    path.write_text(json.dumps(before))
    assert train_all(runs[:1], keep_models=False) == [_result(0.5) | {metric: None}]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", r"It is not JSON: .*"),
        (b"[" * 100_000, r"It is nested too deeply\."),
        (b"\xff", r"It is not JSON: .*"),
        (b"7", r"It must be a JSON object, not 7\."),
        (b'{"step": 30, "auc": 0.5}', r"It has no 'accuracy'\."),
        (b'{"auc": 0.5, "accuracy": 0.5}', r"It has no 'step'\."),
        (b'{"step": 1.5, "auc": 0.5, "accuracy": 0.5}', r"step must be a whole number of at .*"),
        (b'{"step": 3, "auc": NaN, "accuracy": 0.5}', r"auc must be a number .* to 1, not nan\."),
        (b'{"step": 3, "auc": 0.5, "accuracy": "x"}', r"accuracy must be a number .*, not 'x'\."),
    ],
)
def test_damaged_evaluations_are_refused_before_any_is_trained(program, runs, line, sentence):
    from tf_dlrm.comparing.curves import evaluations

    first, second = runs
    train_all([second], keep_models=False)
    path = second.folder / "metrics.jsonl"
    assert evaluations(second.folder, "auc") == {20: 0.5}
    path.write_bytes(path.read_bytes() + line + b"\n")
    match = f"^{path}, line 2, is no evaluation: {sentence} Remove the folder to train the run"
    with pytest.raises(UserError, match=match):
        train_all([first, second], keep_models=False)
    with pytest.raises(UserError, match=match):
        evaluations(second.folder, "auc")
    path.unlink()
    with pytest.raises(UserError, match=f"^{path} can't be read \\(No such file or directory\\)"):
        train_all([first, second], keep_models=False)
    assert program() == ["dcn 100"]


class _Said(io.StringIO):
    """Standard error; what is said of a run lets the program go on, or stops the comparison."""

    def __init__(self, folder, stop_at=""):
        super().__init__()
        self._folder, self._stop_at = folder, stop_at

    def write(self, text):
        for number, sign in enumerate(("it is starting", "step 0", "step 1")):
            if sign in text:
                (self._folder / f"said_{number}").touch()
        written = super().write(text)
        if self._stop_at and self._stop_at in text:
            os.kill(os.getpid(), signal.SIGTERM)
        return written


@pytest.fixture
def slow(program, runs, monkeypatch):
    """A run whose program goes on when it has been said how far it is."""
    (run,) = runs[:1]
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("of an earlier start\n")
    monkeypatch.setenv("BEHAVIOUR", "slow")
    monkeypatch.setattr(runs_module, "_SAY_SECONDS", 0.05)
    return run


def test_while_a_run_trains_it_is_said_how_far_it_is(slow, monkeypatch):
    said = _Said(slow.folder)
    monkeypatch.setattr(sys, "stderr", said)
    assert train_all([slow], keep_models=False) == [_result(0.5)]
    first, *lines = said.getvalue().splitlines()
    assert first == "Run 1 of 1: dlrm/adagrad/seed_0"
    shapes = [re.sub(r", \d+ s: ", ", N s: ", line) for line in lines]
    # The last ones too, if the program takes so long to end.
    states = ["it is starting", "step 0 ?[2J", "step 1 ?[2J", "step 2 ?[2J", "beginning"]
    wanted = [f"{slow.name}, N s: {state}" for state in states]
    assert list(dict.fromkeys(shapes)) in (wanted[:3], wanted[:4], wanted)


def test_no_silence_is_as_long_as_five_seconds():
    assert 0 < runs_module._SAY_SECONDS <= 4.5


def test_a_comparison_that_is_ended_while_it_waits_ends_its_run(slow, monkeypatch):
    monkeypatch.setattr(sys, "stderr", _Said(slow.folder, stop_at="step 0"))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        train_all([slow], keep_models=False)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert (slow.folder / "stopped").exists()
    assert not (slow.folder / "result.json").exists()


_FORKS: list[str] = []
# For good: Python has no way to take it back. It is called for `os.fork` and all that uses it, and
# for a `preexec_fn` of subprocess; not where a program follows in the same step.
os.register_at_fork(before=lambda: _FORKS.append("fork"))


def test_no_python_code_runs_between_fork_and_exec(program, runs):
    """It might wait for ever for a lock that one of TensorFlow's threads held at the fork."""
    _FORKS.clear()
    train_all(runs[:1], keep_models=False)
    assert program() == ["dlrm 100"]
    assert _FORKS == []
    # That it would be seen.
    subprocess.run(["true"], preexec_fn=lambda: None)
    assert _FORKS == ["fork"]


def test_a_failed_run_is_named_with_what_it_said(program, runs, monkeypatch):
    monkeypatch.setenv("BEHAVIOUR", "fail")
    sentence = r"dlrm/adagrad/seed_0 failed: train: the loss became nan\. All it said is in .*/log"
    for _ in range(2):
        with pytest.raises(UserError, match=sentence):
            train_all(runs, keep_models=False)
    assert program() == ["dlrm 100"] * 2  # and nothing after it
    assert (runs[0].folder / "log.txt").read_text().count("beginning\n") == 2
    monkeypatch.delenv("BEHAVIOUR")
    assert [result["step"] for result in train_all(runs, keep_models=False)] == [20, 20]


@pytest.mark.process
def test_a_killed_comparison_goes_on_and_ends_as_one_that_was_not(
    compare_options, tmp_path, common, monkeypatch
):
    from tf_dlrm.compare import compare
    from tf_dlrm.comparing.curves import evaluations, training_loss
    from tf_dlrm.training.run import train
    from tfrecords.fault import VARIABLE

    options = compare_options(tmp_path / "out", seeds=(0,), optimizers=("adagrad",))
    monkeypatch.setenv(VARIABLE, "checkpoint:5:SIGKILL")
    with pytest.raises(UserError, match="The run dlrm/adagrad/seed_0 failed: "):
        compare(options, common)
    monkeypatch.delenv(VARIABLE)
    compare(options, common)
    entries = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [entry["model"] for entry in entries] == ["dlrm", "dcn"]
    runs = plan_runs(options, common)
    folder = runs[0].folder
    assert "resuming at step 5 from" in (folder / "log.txt").read_text()
    assert "checkpoints" not in {path.name for path in folder.iterdir()}
    whole = train(_with_run(runs[0], model_dir=str(tmp_path / "whole")).config)
    for key in ("auc", "log_loss", "accuracy", "step", "parameters"):
        assert entries[0][key] == pytest.approx(whole[key], rel=1e-6), key
    sizes = [entry["parameters"] for entry in entries]
    assert max(sizes) <= 1.01 * min(sizes)

    assert list(evaluations(folder, "auc")) == [10, 20]
    losses = training_loss(folder)
    assert max(losses) == 20 and all(0.3 < loss < 1.0 for loss in losses.values())
    assert (tmp_path / "out" / "curves.svg").read_text().count("<path") > 20
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert f"| dcn | adagrad | {entries[1]['auc']:.4f} | {entries[1]['log_loss']:.4f} |" in table
