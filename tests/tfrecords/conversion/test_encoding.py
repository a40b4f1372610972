"""Rows as dictionaries and codes, at the borders where another type or another way is taken."""

import collections

import numpy as np
import pytest

from tfrecords.conversion.encoding import code_type, encode
from tfrecords.conversion.rows import Rows
from tfrecords.conversion.vocabulary import Counts, VocabularyBuilder


def _check(keys):
    zeros = np.zeros(len(keys), np.float32)
    rows = Rows(zeros, zeros[None], (np.array(keys, np.uint64),), (None,))
    (column,) = encode(rows).columns
    counts = collections.Counter(keys)
    assert column.keys.tolist() == sorted(counts)
    assert column.counts.tolist() == [counts[key] for key in sorted(counts)]
    assert column.firsts.tolist() == [keys.index(key) for key in sorted(counts)]
    assert column.keys[column.codes].tolist() == keys
    return column


@pytest.mark.parametrize("values", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("bit", range(56, 64))
def test_keys_of_any_number_of_bits(values, bit):
    # The widest key for which there is room for a position below it, and the next one.
    for largest in (2**bit - 1, 2**bit, 2 ** (bit + 1) - 1):
        _check(([largest, 3, largest, 0, 3, largest - 1, 1, 3, 2])[:values])


@pytest.mark.parametrize(("values", "size"), [(255, 1), (256, 1), (257, 2)])
@pytest.mark.parametrize("wide", [0, 2**64 - 2**12])
def test_codes_of_each_size(values, size, wide):
    column = _check([wide + n * 2 for n in range(values)] + [wide])
    assert column.codes.itemsize == size


def test_codes_of_two_and_four_bytes():
    assert [code_type(keys).itemsize for keys in (2**16 - 1, 2**16, 2**16 + 1)] == [2, 2, 4]


def test_a_vocabulary_is_in_the_order_of_first_places(tmp_path):
    # Each value: how often, and where first; the pieces come in another order than their places.
    parts = [({9: 2, 5: 1}, {9: 40, 5: 41}), ({5: 3, 7: 2, 2: 1}, {5: 11, 7: 12, 2: 10})]
    for spill in (False, True):
        builder = VocabularyBuilder(str(tmp_path / "run"))
        for counts, firsts in parts:
            keys = sorted(counts)
            builder.add(
                Counts(
                    np.array(keys, np.uint64),
                    np.array([counts[key] for key in keys]),
                    np.array([firsts[key] for key in keys]),
                )
            )
            if spill:
                builder.spill()
        new = builder.finish(min_count=2, merging_bytes=1, most_values=10)
        assert dict(zip(new.keys.tolist(), new.ids.tolist(), strict=True)) == {5: 0, 7: 1, 9: 2}
