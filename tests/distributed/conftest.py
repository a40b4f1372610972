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

import pytest
import tensorflow as tf

from tf_dlrm.training.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)

_HERE = pathlib.Path(__file__).parent
_ROOT = _HERE.parent.parent
_SECONDS = 150  # for a whole cluster, on a busy machine


class Cluster:
    """A launcher with its processes."""

    def __init__(self, arguments):
        environment = os.environ | {
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{_HERE}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tf_dlrm.launch", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._deadline = time.monotonic() + _SECONDS

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    def wait_for(self, pattern):
        """Returns the match in the first line of the log that has one, and waits for it."""
        while True:
            ended = self.process.poll() is not None
            found = [match for line in list(self.log) if (match := re.search(pattern, line))]
            if found:
                return found[0]
            assert not ended, (pattern, self.text())
            assert time.monotonic() < self._deadline, (pattern, self.text())
            time.sleep(0.05)

    def signal(self, label, number):
        """Sends a signal to the newest process of a label such as "worker 0"."""
        name = label.replace("ps", "parameter server")
        pids = re.findall(rf"{name} is process (\d+)", self.text())
        os.kill(int(pids[-1]), number)

    def finish(self):
        """Waits for the end; returns the exit code and the last line of standard output."""
        output, _ = None, None
        self.process.wait(timeout=max(1, self._deadline - time.monotonic()))
        self._reader.join(10)
        output = self.process.stdout.read()
        return self.process.returncode, output.strip().splitlines()[-1:] or [""]

    def text(self):
        """The log so far."""
        return "\n".join(self.log)

    def end(self):
        """Ends whatever is left, by process id."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)  # its children get theirs from the kernel
            self.process.wait()


@pytest.fixture
def start():
    """Returns a function that starts a cluster with arguments of the launcher."""
    started = []

    def start(*arguments):
        started.append(Cluster([*map(str, arguments)]))
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
                embedding_optimizer="adagrad", dense_optimizer="adam", dense_learning_rate=0.01
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

    def read(model_dir):
        reader = tf.train.load_checkpoint(str(pathlib.Path(model_dir) / "checkpoints"))
        names = [name for name in reader.get_variable_to_shape_map() if "table:" in name]
        assert len(names) == 6
        return {name: reader.get_tensor(name) for name in names}

    return read


@pytest.fixture(scope="session")
def last_metrics():
    """Returns a function that reads the numbers of a run's last evaluation."""

    def read(model_dir):
        line = (pathlib.Path(model_dir) / "metrics.jsonl").read_text().splitlines()[-1]
        entry = json.loads(line)
        return [entry[name] for name in ("step", "auc", "log_loss", "calibration")]

    return read
