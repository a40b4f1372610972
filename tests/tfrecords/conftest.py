"""Data sets for the tests of tfrecords."""

import sys

import numpy as np
import pytest

from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


@pytest.fixture
def numbered(tmp_path):
    """A data set whose rows carry their number, with every kind of column."""

    def make(rows: int, rows_per_record: int = 50, records_per_file: int = 3, name="numbered"):
        rng = np.random.default_rng(rows)
        schema = Schema(
            dense=("row", "noise"),
            categorical=(
                CategoricalColumn("row_id", max(rows, 1)),
                CategoricalColumn("many", 2**31, hotness=1),
                CategoricalColumn("pair", 11, hotness=2),
                CategoricalColumn("bag", 7, hotness=None),
            ),
        )
        lengths = rng.integers(0, 4, rows)
        features = {
            "dense": np.stack([np.arange(rows), rng.random(rows)], axis=1).astype(np.float32),
            "row_id": np.arange(rows),
            "many": rng.integers(0, 2**31, rows),
            "pair": rng.integers(0, 11, (rows, 2)),
            "bag": (rng.integers(0, 7, lengths.sum()), lengths),
        }
        label = (rng.random(rows) < 0.5).astype(np.float32)
        path = str(tmp_path / name)
        with DatasetWriter(path, schema, {}, rows_per_record, records_per_file) as writer:
            writer.write("train", features, label)
        return path, features, label

    return make


@pytest.fixture
def order_of(monkeypatch):
    """The order that a source hands to TensorFlow, which `test_order` says how to read."""

    def get(source, split, **arguments):
        module = sys.modules[type(source).__module__]
        monkeypatch.setattr(module, "ordered_batches", lambda order, *others: order)
        return source.batches(split, 7, **arguments)

    return get
