"""A small data set with locality and every kind of column, and its twin."""

import io

import numpy as np
import pytest

from tfrecords.progress import Progress
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.profile_dataset import ProfileOptions, profile_dataset
from tfrecords.writer import DatasetWriter

_ROWS = 4000


def _local_ids(rng, count, size):
    """Ids that drift: near in time is near in number."""
    return (np.arange(count) // 40 + rng.geometric(0.2, count)) % size


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    rng = np.random.default_rng(0)
    schema = Schema(
        ("count", "flag"),
        (
            CategoricalColumn("local", 1000, out_of_vocabulary=0),
            CategoricalColumn("pair", 60, hotness=2),
            CategoricalColumn("bag/of", 50, hotness=None),
            CategoricalColumn("nothing", 9, hotness=None),
        ),
    )
    lengths = rng.choice([0, 1, 5], _ROWS, p=[0.2, 0.5, 0.3])
    features = {
        "dense": np.stack([rng.exponential(3, _ROWS), rng.random(_ROWS) < 0.7], 1),
        "local": _local_ids(rng, _ROWS, 900),
        "pair": _local_ids(rng, 2 * _ROWS, 50).reshape(_ROWS, 2),
        "bag/of": (rng.integers(0, 50, lengths.sum()), lengths),
        "nothing": (np.zeros(0, np.int64), np.zeros(_ROWS, np.int64)),
    }
    path = str(tmp_path_factory.mktemp("original") / "data")
    with DatasetWriter(path, schema, {}, 700, 3) as writer:
        writer.write("train", features, (rng.random(_ROWS) < 0.2).astype(np.float32))
        few = {n: c[:500] for n, c in features.items() if not isinstance(c, tuple)}
        zeros = np.zeros(500, np.int64)
        few |= {n: (np.zeros(0, np.int64), zeros) for n in ("bag/of", "nothing")}
        writer.write("evaluation", few, (rng.random(500) < 0.6).astype(np.float32))
    return path, features


@pytest.fixture(scope="session")
def twin_dir(original, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("twin") / "twin")
    profile_dataset(original[0], "train", folder, ProfileOptions(), Progress(io.StringIO()))
    return folder
