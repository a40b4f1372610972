import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from tfrecords.fault import VARIABLE

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--embedding_dim=4",
    "--bottom_mlp=8,4",
    "--top_mlp=8,1",
    "--batch_size=64",
    "--eval_batch_size=512",
]


_SECONDS = 300  # a command takes 5 to 30


class CommandLine:
    """Runs `python -m MODULE FLAGS` as a user does."""

    small_model = SMALL

    def start(
        self, module: str, *flags: str, python: Sequence[str] = (), fault: str = ""
    ) -> subprocess.CompletedProcess:
        """Runs it to its end, whatever that is; `fault` is for `tfrecords.fault`."""
        environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
        return subprocess.run(
            [sys.executable, *python, "-m", module, *flags],
            cwd=ROOT,
            env=environment | {VARIABLE: fault},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )

    def run(self, module: str, *flags: str) -> dict:
        done = self.start(module, *flags)
        assert done.returncode == 0, done.stderr
        return result(done.stdout)


def result(out: str) -> dict:
    """What a command printed."""
    return json.loads(out.splitlines()[-1]) if out.strip().startswith("{") else {"text": out}


@pytest.fixture(scope="session")
def command_line() -> CommandLine:
    return CommandLine()


@pytest.fixture(scope="session")
def in_process(run_command):
    """Returns a function that runs a command where the tests run, and returns its result."""

    def run(module: str, *flags: str) -> dict:
        done = run_command(module, *flags)
        assert done.code == 0, done.err
        return result(done.out)

    return run


@pytest.fixture(scope="session")
def criteo_tsv(tmp_path_factory) -> pathlib.Path:
    """A log in Criteo's layout, 7000 rows, whose labels follow from C1, C2 and I1."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(7000):
        first, second = rng.integers(0, 40, 2)
        count = rng.integers(-2, 30)
        logit = (first % 5 - 2) + (second % 3 - 1) + 0.05 * count - 1.0
        label = int(rng.random() < 1 / (1 + np.exp(-logit)))
        integers = [str(count)] + [
            "" if rng.random() < 0.3 else str(rng.integers(0, 100)) for _ in range(12)
        ]
        categories = [f"{first * 2654435761 % 2**32:08x}", f"{second * 40503:08x}"] + [
            "" if rng.random() < 0.1 else f"{rng.integers(0, 12) * 7919:08x}" for _ in range(24)
        ]
        lines.append("\t".join([str(label), *integers, *categories]))
    path = tmp_path_factory.mktemp("criteo") / "train.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def criteo_dataset(criteo_tsv, in_process) -> pathlib.Path:
    """The log as a data set folder, made by the command that the README shows."""
    folder = criteo_tsv.parent / "dataset"
    in_process(
        "tfrecords.convert_criteo",
        f"--input={criteo_tsv}",
        f"--output_dir={folder}",
        "--format=kaggle",
        "--min_count=3",
        "--rows_per_record=512",
    )
    return folder
