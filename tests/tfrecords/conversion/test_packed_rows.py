"""Rows that are packed, sent to places and unpacked, against the rows themselves."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.conversion.packed_rows import Packing
from tfrecords.schema import CategoricalColumn, Schema


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=30), st.randoms())
def test_packed_rows_arrive_at_their_files(bags, rng):
    rows = len(bags)
    schema = Schema(
        ("I1",),
        (
            CategoricalColumn("fixed", 10, hotness=2),
            CategoricalColumn("ragged", 10, hotness=None),
            CategoricalColumn("large", 2**40),
        ),
    )
    features = {
        "dense": np.arange(rows, dtype=np.float32).reshape(rows, 1),
        "fixed": np.arange(2 * rows).reshape(rows, 2) % 10,
        "ragged": (np.array(sum(bags, []), np.int32), np.array([len(bag) for bag in bags])),
        "large": np.arange(rows) + 2**35,
    }
    packing = Packing.of(schema)
    packed = packing.pack(np.arange(rows) + 7, features, np.full(rows, 0.5, np.float32))
    files = np.array([rng.randrange(4) for _ in range(rows)])
    seen = {}
    for number, part in packing.by_place(packed, files):
        columns, label = packing.unpack(part)
        assert label.tolist() == [0.5] * len(part)
        values, lengths = columns["ragged"]
        ends = np.cumsum(lengths)
        for index, row in enumerate(part.keys.tolist()):
            seen[row - 7] = (
                number,
                values[ends[index] - lengths[index] : ends[index]].tolist(),
                columns["fixed"][index].tolist(),
                int(columns["large"][index]),
                float(columns["dense"][index, 0]),
            )
    assert seen == {
        row: (files[row], bags[row], [2 * row % 10, (2 * row + 1) % 10], row + 2**35, float(row))
        for row in range(rows)
    }
