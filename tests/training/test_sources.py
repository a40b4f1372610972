import dataclasses

import numpy as np
import pytest

from tf_dlrm.training.config import DataOptions
from tf_dlrm.training.sources import open_source
from tfrecords.random import RandomSource
from tfrecords.random_schema import random_schema

_RANDOM = DataOptions(
    data="random",
    random_tables=("40", "30", "3"),
    random_max_vocabulary=35,
    random_dense_features=2,
    random_train_rows=500,
    random_evaluation_rows=300,
    random_seed=4,
)


def _flat(dataset):
    """All numbers of a dataset, in order."""
    numbers = []
    for features, label in dataset:
        numbers.append(label.numpy())
        for column in features.values():
            numbers.append(np.ravel(getattr(column, "flat_values", column)))
            if hasattr(column, "row_lengths"):
                numbers.append(column.row_lengths().numpy())
    return np.concatenate(numbers)


@pytest.mark.parametrize(
    ("flags", "hotness", "arguments"),
    [
        ({}, 1, {}),
        (
            {"random_ids": "normal", "random_dense": "normal"},
            1,
            {"ids": "normal", "dense": "normal"},
        ),
        ({"random_alpha": 2.0, "random_label": "rounded"}, 1, {"alpha": 2.0, "label": "rounded"}),
        ({"random_indices_per_lookup": 3, "random_repeats": False}, 3, {"repeats": False}),
        (
            {"random_indices_per_lookup": 5, "random_indices_per_lookup_fixed": False},
            None,
            {"indices_per_lookup": 5},
        ),
    ],
)
def test_random_flags_become_the_source_that_they_name(flags, hotness, arguments):
    options = dataclasses.replace(_RANDOM, **flags)
    options.validate()
    expected = RandomSource(
        random_schema((35, 30, 3), 2, hotness),
        {"train": 500, "evaluation": 300},
        seed=4,
        **arguments,
    )
    source = open_source(options)
    assert source.schema == expected.schema
    for split in ("train", "evaluation"):
        np.testing.assert_array_equal(
            _flat(source.batches(split, 100)), _flat(expected.batches(split, 100))
        )
