"""Clusters of real processes on this machine."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.training.options.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)
from tfrecords.fault import VARIABLE

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parent.parent
_SECONDS = 300  # for each thing that is waited for: it takes 5 to 30
# Of TensorFlow's threads more than one only costs; the grace must do on a busy machine.
_LAUNCHER = ("--threads_per_process=1", "--grace_seconds=100")


class Cluster:
    """A launcher with its processes.

    Args:
        arguments: Those of the launcher.
        fault: When which process gets which signal, see `tfrecords.fault`; empty for never.
    """

    def __init__(self, arguments, fault=""):
        environment = os.environ | {
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{_HERE}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            VARIABLE: fault,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tf_dlrm.launch", *_LAUNCHER, *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    def wait_for(self, pattern):
        """Returns the match in the first line of the log that has one, and waits for it."""

        def look():
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(_SECONDS)
            found = [match for line in list(self.log) if (match := re.search(pattern, line))]
            if ended and not found:  # not by `assert`, which cuts long texts
                pytest.fail(f"The cluster ended before {pattern!r}:\n{self.text()}")
            return found[0] if found else None

        return self._wait(look, pattern)

    def wait_until_stopped(self, label):
        """Waits until a process is stopped, as SIGSTOP does."""

        def look():
            stat = pathlib.Path(f"/proc/{self.pid(label)}/stat").read_text()
            return stat.rsplit(")", 1)[1].split()[0] == "T"

        self.wait_for(rf"\[launch\] {label} is process")
        self._wait(look, f"{label} is stopped")

    def _wait(self, look, what):
        deadline = time.monotonic() + _SECONDS
        while not (found := look()):
            if time.monotonic() >= deadline:
                pytest.fail(f"In {_SECONDS} seconds there was no {what!r}:\n{self.text()}")
            time.sleep(0.02)
        return found

    def pid(self, label):
        """The newest process of a label such as "worker 0" or "the chief"."""
        return int(re.findall(rf"\[launch\] {label} is process (\d+)", self.text())[-1])

    def signal(self, label, number):
        """Sends a signal to the newest process of a label."""
        os.kill(self.pid(label), number)

    def finish(self):
        """Waits for the end; returns the exit code."""
        self.process.wait(timeout=_SECONDS)
        self._reader.join(_SECONDS)
        return self.process.returncode

    def text(self):
        """The log so far."""
        return "\n".join(self.log)

    def end(self):
        """Ends whatever is left, by process id."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # so that it reaps its children
            try:
                self.process.wait(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()  # its children get their signal from the kernel
                self.process.wait()


class SharedCluster:
    """A cluster whose processes do jobs for one test after the other; see `cluster_jobs`.

    It is started with the first job, and anew if an earlier one has ended it.
    """

    def __init__(self, folder, distribution, *arguments):
        self._folder = folder
        self._arguments = arguments
        self._distribution = distribution
        self._labels = ["chief"] if distribution == "parameter_server" else ["worker 0", "worker 1"]
        self._cluster = None
        self._jobs = 0

    def train(self, *configs, files=({},)):
        """Trains one config, or in each process another; returns how it ended in each.

        Args:
            configs: One for all, or one for each process.
            files: For each of them texts by name, which go into the working folder.
        """
        processes = [
            {"config": config.to_json(), "files": own}
            for config, own in zip(configs, files, strict=True)
        ]
        return self._run({"kind": "train", "processes": processes})

    def equality(self):
        """Returns in each process the optimizers with which tables learn what one device learns."""
        return self._run({"kind": "equality"})

    def _run(self, job):
        if self._cluster is None or self._cluster.process.poll() is not None:
            self._start()
        self._jobs += 1
        part = self._folder / "part"
        part.write_text(json.dumps(job))
        part.rename(self._folder / f"{self._jobs}.json")
        return [
            self._cluster.wait_for(rf"^\[{label}\] job {self._jobs}: (.*)")[1]
            for label in self._labels
        ]

    def _start(self):
        self._jobs = 0
        for path in self._folder.glob("*.json"):
            path.unlink()
        arguments = (str(self._folder), self._distribution)
        self._cluster = Cluster([*self._arguments, "--module=cluster_jobs", "--", *arguments])

    def end(self):
        """Ends its processes."""
        if self._cluster:
            self._cluster.end()


@pytest.fixture(scope="package")  # ended before other tests, whose time it would cost
def two_workers(tmp_path_factory):
    """Two workers that compute each step together."""
    folder = tmp_path_factory.mktemp("two_workers")
    cluster = SharedCluster(folder, "multi_worker_mirrored", "--workers=2")
    yield cluster
    cluster.end()


@pytest.fixture(scope="package")
def two_servers(tmp_path_factory):
    """Two parameter servers with one worker, so that its steps come in order, and a chief."""
    folder = tmp_path_factory.mktemp("two_servers")
    arguments = ("--workers=1", "--parameter_servers=2")
    cluster = SharedCluster(folder, "parameter_server", *arguments)
    yield cluster
    cluster.end()


@pytest.fixture
def start():
    """Returns a function that starts a cluster with arguments of the launcher, and a fault."""
    started = []

    def start(*arguments, fault=""):
        started.append(Cluster([*map(str, arguments)], fault))
        return started[-1]

    yield start
    for cluster in started:
        cluster.end()


@pytest.fixture(scope="session")
def tiny():
    """Returns a function that makes a small training config, 40 steps."""

    def make(model_dir, **changes):
        parts = {
            "data": DataOptions(
                data="random",
                random_tables=("50", "60", "70"),
                random_dense_features=4,
                random_train_rows=3960,
                random_evaluation_rows=350,
                shuffle_window_rows=512,
            ),
            "model": ModelOptions(embedding_dim=4, bottom_mlp=(8, 4), top_mlp=(8, 1)),
            "optimizer": OptimizerOptions(
                embedding_optimizer="adagrad",
                # Without one the first step of an element is as large as its gradient is small:
                # rounding could turn it round.
                embedding_initial_accumulator=0.1,
                dense_optimizer="adam",
                dense_learning_rate=0.01,
            ),
            "run": RunOptions(model_dir=str(model_dir), batch_size=99, eval_batch_size=100, seed=3),
            "distribution": DistributionOptions(),
        }
        for name, part in parts.items():
            known = {field.name for field in dataclasses.fields(part)} & set(changes)
            parts[name] = dataclasses.replace(part, **{key: changes.pop(key) for key in known})
        assert not changes, changes
        return TrainingConfig(**parts)

    return make


@pytest.fixture(scope="session")
def flags():
    """Returns a function that turns a config into flags of tf_dlrm.train."""

    def make(config):
        given = []
        for part in dataclasses.fields(config):
            options = getattr(config, part.name)
            for field in dataclasses.fields(options):
                value = getattr(options, field.name)
                if value == getattr(type(options)(), field.name):
                    continue
                text = ",".join(map(str, value)) if isinstance(value, tuple | list) else value
                given.append(f"--{field.name}={text}")
        return given

    return make


@pytest.fixture(scope="session")
def checkpoint_tables():
    """Returns a function that reads all tables and slots of a run's newest checkpoint."""
    return _checkpoint_tables


def _checkpoint_tables(model_dir):
    reader = tf.train.load_checkpoint(str(pathlib.Path(model_dir) / "checkpoints"))
    names = [name for name in reader.get_variable_to_shape_map() if "table:" in name]
    assert len(names) == 6
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="session")
def assert_equal_tables():
    """Returns a function that compares two runs' newest checkpoints."""

    def check(model_dir, expected_dir):
        expected = _checkpoint_tables(expected_dir)
        for name, array in _checkpoint_tables(model_dir).items():
            # Ten times what sums in another order were seen to change.
            tolerance = {"rtol": 1e-5, "atol": 2e-6} if name.endswith("rows") else {"rtol": 2e-6}
            np.testing.assert_allclose(array, expected[name], err_msg=name, **tolerance)

    return check


@pytest.fixture(scope="session")
def last_metrics():
    """Returns a function that reads the numbers of a run's last evaluation."""

    def read(model_dir):
        line = (pathlib.Path(model_dir) / "metrics.jsonl").read_text().splitlines()[-1]
        entry = json.loads(line)
        return [entry[name] for name in ("step", "auc", "log_loss", "calibration")]

    return read
