"""Fixtures that several test folders share."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import random
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cpu_seconds import CpuSeconds
from hypothesis import Phase, settings
from in_process import run_command as _run_command

if TYPE_CHECKING:
    from tfrecords.reader import RecordSource

# Before TensorFlow is imported: tests run in Keras 2 unless TF_USE_LEGACY_KERAS says otherwise.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


# No deadline, since machines differ, and no shrinking, which takes minutes where each try traces a
# function: `pytest --hypothesis-profile=shrink` looks for the smallest example of a failure.
_COMMON = {"deadline": None, "print_blob": True, "database": None}
settings.register_profile("tests", phases=set(Phase) - {Phase.shrink, Phase.explain}, **_COMMON)
settings.register_profile("shrink", **_COMMON)
settings.load_profile("tests")


def _seed_of_commit() -> int:
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    here = pathlib.Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return int(done.stdout, 16) if done.returncode == 0 else 0


def pytest_terminal_summary(terminalreporter, config):
    # Not in pytest's header, which -q leaves out.
    seed = config.getoption("--hypothesis-seed")
    terminalreporter.write_line(f"Random examples were drawn with --hypothesis-seed={seed}.")


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads its seed
def pytest_configure(config):
    """Seeds hypothesis with the commit, and makes four logical CPUs for the tests of strategies.

    The devices must be there before anything runs on the first. The seed changes from commit to
    commit, so that new examples are tried, and a failure is one of the commit's for everybody.
    """
    import tensorflow as tf

    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(_seed_of_commit())
    tf.keras.Model  # noqa: B018, which imports Keras
    config.pluginmanager.register(CpuSeconds())
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )


# Their servers, stores and workers are processes of their own; .ci/ runs each of them by itself.
_FOLDERS_OF_PROCESSES = ("beam", "io", "serving_servers")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name in _FOLDERS_OF_PROCESSES:
            item.add_marker(pytest.mark.process)


@pytest.fixture(scope="session", autouse=True)
def _compiled_kernels():
    """Compiles the native kernels, in new machines, apart from the test that uses them first."""
    from tf_dlrm.kernels.build import BuildError, library

    with contextlib.suppress(BuildError):  # the tests of kernels say so
        library()


@pytest.fixture(scope="session")
def run_command():
    """Runs `python -m MODULE FLAGS` in this process: returns exit code, output and errors."""
    return _run_command


def _line(rng: random.Random) -> str:
    fields = [str(int(rng.random() < 0.3))]
    for column in range(13):
        if rng.random() < 0.2:
            fields.append("")
        else:
            fields.append(str(rng.choice([-2, -1, 0, 1, 2, 3, 4, 17, 250, 65535 + column])))
    for column in range(26):
        if rng.random() < 0.1:
            fields.append("")
        else:
            # Few and many values, hexadecimal digits of any number and case, zero among them.
            value = rng.randrange(3 + 5 * column) * (1 if column % 2 else 151_234_567) % 2**32
            text = f"{value:08x}" if column % 3 else f"{value:x}"
            fields.append(text.upper() if column % 5 == 0 else text)
    return "\t".join(fields)


@pytest.fixture(scope="session")
def criteo_lines():
    """Makes lines of Criteo's text."""

    def make(count: int, seed: int = 0) -> list[str]:
        rng = random.Random(seed)
        return [_line(rng) for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def convert_criteo():
    """Converts files; options of the format and of the conversion by their names."""

    from tfrecords.conversion.convert import convert
    from tfrecords.conversion.criteo import CriteoFormat
    from tfrecords.conversion.options import Options
    from tfrecords.progress import Progress

    def run(paths, output_dir, stream=None, fresh=False, **options):
        names = ("name", "max_index_range", "bucketize_dense", "reference")
        source = CriteoFormat(**{name: options[name] for name in names if name in options})
        others = {name: options[name] for name in options if name not in names[:3]}
        # Few lines are often of one label.
        others.setdefault("on_odd_labels", "accept")
        progress = Progress(stream or io.StringIO())
        return convert(
            [str(path) for path in paths],
            str(output_dir),
            source,
            Options(**others),
            progress,
            threads=2,
            fresh=fresh,
        )

    return run


@pytest.fixture
def convert_text(tmp_path, convert_criteo):
    """Converts lines, and returns the source."""
    from tfrecords.reader import RecordSource

    def run(lines, output="out", **options) -> RecordSource:
        path = tmp_path / "input.txt"
        path.write_text("\n".join(lines) + "\n")
        output_dir = str(tmp_path / output)
        convert_criteo([str(path)], output_dir, **options)
        return RecordSource(output_dir)

    return run


@pytest.fixture
def read_all():
    """Reads a split: features and label as arrays."""

    def read(source, split, batch_size=64, **arguments):
        features: dict[str, list] = {}
        labels = []
        for batch, label in source.batches(split, batch_size, **arguments):
            labels.append(label.numpy())
            for name, column in batch.items():
                rows = column.to_list() if hasattr(column, "to_list") else column.numpy()
                features.setdefault(name, []).append(rows)
        joined = {
            name: sum(parts, []) if isinstance(parts[0], list) else np.concatenate(parts)
            for name, parts in features.items()
        }
        return joined, np.concatenate(labels) if labels else np.zeros(0, np.float32)

    return read


@pytest.fixture(scope="session")
def read_blocks():
    """As `read_all`, from the bytes of the records: for the cost of no pipeline of tf.data."""

    def read(folder, split):
        from tfrecords import block
        from tfrecords.dataset_info import DatasetInfo
        from tfrecords.record_format import read_records

        info = DatasetInfo.load(str(folder))
        schema = info.schema
        blocks = []
        for file in info.splits[split].files:
            with open(os.path.join(folder, file.path), "rb") as stream:
                blocks += [block.decode(schema, data) for _, data in read_records(stream)]
        columns = {
            name: np.concatenate([of_block[name] for of_block in blocks]) for name in blocks[0]
        }
        for column in schema.categorical:
            if column.hotness is None:
                ends = np.cumsum(columns.pop(column.name + block.LENGTHS))
                values = np.split(columns[column.name], ends)[:-1]
                columns[column.name] = [ids.tolist() for ids in values]
        return columns, columns.pop(schema.label)

    return read
