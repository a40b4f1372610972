"""What a process of a cluster says where it cannot begin; tests/distributed has whole clusters."""

import json
import logging
import signal
import socket

import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.choose import distribution_of
from tf_dlrm.training.distribution.parameter_server import serve
from tf_dlrm.training.options.distribution import DistributionOptions

_SERVERS = {"chief": ["a:1"], "ps": ["b:2"], "worker": ["c:3"]}
_WORKERS = {"worker": ["a:1", "b:2"]}
_MADE_BY = {
    "parameter_server": "ParameterServerStrategy",
    "multi_worker_mirrored": "MultiWorkerMirroredStrategy",
}
# As TensorFlow 2.21 raises them; see the exhaustive test of real processes.
_TAKEN = tf.errors.UnknownError(None, None, "Could not start gRPC server")
_LOST = tf.errors.UnavailableError(None, None, "failed to connect to all addresses")


@pytest.fixture
def _interrupts_as_before():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def task(monkeypatch):
    """Returns a function that makes this process a task of a cluster."""

    def be(cluster, role, index=0):
        text = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
        monkeypatch.setenv("TF_CONFIG", text)

    return be


@pytest.mark.usefixtures("_interrupts_as_before")
@pytest.mark.parametrize("role", ["ps", "worker"])
def test_a_server_whose_port_is_taken_says_which(task, role):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        task(_SERVERS | {role: [address]}, role)
        with pytest.raises(UserError, match=f"cannot listen at {address}, its address in TF_CONFI"):
            serve()


@pytest.fixture(
    params=[("parameter_server", _SERVERS, "chief"), ("multi_worker_mirrored", _WORKERS, "worker")]
)
def connect(request, task, monkeypatch):
    """Returns a function that makes the strategy, whose constructor raises what is given."""
    distribution, cluster, role = request.param
    task(cluster, role)

    def connect(error):
        def fail(*arguments):
            raise error

        monkeypatch.setattr(tf.distribute, _MADE_BY[distribution], fail)
        distribution_of(DistributionOptions(distribution)).make_strategy()

    return connect


def test_a_port_that_is_taken(connect):
    with pytest.raises(UserError, match="cannot listen at a:1, its address in TF_CONFIG: another"):
        connect(_TAKEN)


def test_a_process_that_ended_before_all_were_connected(connect):
    with pytest.raises(
        UserError, match="at a:1 has not found all of b:2.*failed to connect to all"
    ):
        connect(_LOST)


def test_it_is_said_who_is_waited_for(connect, caplog):
    with caplog.at_level(logging.INFO, "tf_dlrm"), pytest.raises(UserError):
        connect(_LOST)
    (said,) = [r.message for r in caplog.records if "waiting" in r.message]
    assert said.startswith("at a:1, waiting until all others have started: b:2")
