import json
import signal

import pytest

from tfrecords.fault import VARIABLE, fault_point


@pytest.fixture
def received():
    """The signals that this process gets, by name."""
    got = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append("SIGUSR1"))
    yield got
    signal.signal(signal.SIGUSR1, before)


def test_the_signal_comes_at_that_point_only(monkeypatch, received):
    fault_point("checkpoint", 20)
    monkeypatch.setenv(VARIABLE, "checkpoint:20:SIGUSR1")
    fault_point("checkpoint", 19)
    fault_point("journal", 20)
    assert received == []
    fault_point("checkpoint", 20)
    assert received == ["SIGUSR1"]


@pytest.mark.parametrize(("task", "times"), [("worker.1", 1), ("worker.0", 0), ("chief.1", 0)])
def test_only_the_named_task_of_a_cluster(monkeypatch, received, task, times):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"task": {"type": "worker", "index": 1}}))
    monkeypatch.setenv(VARIABLE, f"journal:3:SIGUSR1:{task}")
    fault_point("journal", 3)
    assert len(received) == times


@pytest.mark.parametrize(
    "text", ["checkpoint", "checkpoint:x:SIGKILL", "checkpoint:1:SIGNONE", "a:1:SIGUSR1:b:c"]
)
def test_another_text_is_refused(monkeypatch, received, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match="TF_DLRM_FAULT is .* but must be NAME:NUMBER:SIGNAL"):
        fault_point("a", 1)
    assert received == []
