"""Rows of a synthetic twin, one stream after another."""

from __future__ import annotations

import hashlib

import numpy as np

from tfrecords import block
from tfrecords.hashing import hash_number, hash_numbers
from tfrecords.schema import CategoricalColumn
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.generator import TraceGenerator
from tfrecords.traces.twin import Twin

_TRACE, _LABEL, _DENSE, _LENGTHS = range(1, 5)
# The paper's adjustment (arXiv 1906.00091, section 4.2): while there are unseen ids, they are at
# least this many times as likely, up to this probability. Drawn as they come, four ids in 100,000
# accesses leave most of the trace without the distances of a full list. Criteo's 26 columns,
# 101,989 rows: mean difference of the miss-ratio curves 0.018 without, 0.002 with it.
_NEW_SOONER, _NEW_AT_MOST = 50.0, 0.5


class TwinRows:
    """The endless stream of rows of one split.

    Each categorical column has one trace over the whole stream, so that the distance between two
    uses of an id is that of the original. Unseen ids come sooner than there, and once all were
    seen, repetitions follow only; where the distributions were profiled with padding, as in the
    reference instead. Labels and dense values are drawn for each row by itself; columns don't
    depend on each other.

    Args:
        twin: What the rows are to be like.
        split: Name of the split; another one has another stream.
        seed: Whole numbers; other ones give another stream.
    """

    def __init__(self, twin: Twin, split: str, *seed: int) -> None:
        self._twin = twin
        name = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "little")
        self._key = hash_number(*seed, name)
        self._rate = twin.label_rate(split)
        self._row = 0
        self._generators = {
            column.name: TraceGenerator(
                distribution if twin.padding else _with_new_sooner(distribution),
                hash_number(self._key, _TRACE),
                table,
                padding=twin.padding,
                new_after_all=False,
            )
            for table, column in enumerate(twin.schema.categorical)
            if (distribution := twin.distributions[column.name]) is not None
        }

    def take(self, count: int) -> dict[str, np.ndarray]:
        """The next rows, as columns of a record (see `block.decode`): row lengths apart."""
        rows = np.arange(self._row, self._row + count)
        self._row += count
        schema = self._twin.schema
        uniform = self._uniform(rows, _LABEL)
        columns: dict[str, np.ndarray] = {
            schema.label: (uniform < self._rate).astype(np.float32),
        }
        if schema.dense:
            dense: np.ndarray = np.empty((count, len(schema.dense)), np.float32)
            for number, name in enumerate(schema.dense):
                quantiles = self._twin.dense_quantiles[name]
                place: np.ndarray = self._uniform(rows, _DENSE, number) * (len(quantiles) - 1)
                dense[:, number] = np.interp(place, np.arange(len(quantiles)), quantiles)
            columns[block.DENSE] = dense
        for table, column in enumerate(schema.categorical):
            columns.update(self._ids(table, column, rows))
        return columns

    def skip(self, count: int) -> None:
        """Goes on `count` rows later; the ids of these are drawn, the rest is not."""
        end = self._row + count
        for table, column in enumerate(self._twin.schema.categorical):
            if column.name not in self._generators:
                continue
            ids = count * (column.hotness or 0)
            if column.hotness is None:
                for start in range(self._row, end, 1 << 18):
                    rows = np.arange(start, min(start + (1 << 18), end))
                    ids += int(self._row_lengths(table, column, rows).sum())
            self._generators[column.name].skip(ids)
        self._row = end

    def _ids(
        self, table: int, column: CategoricalColumn, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        ids = len(rows) * (column.hotness or 0)
        if column.hotness is None:
            lengths = self._row_lengths(table, column, rows)
            columns[column.name + block.LENGTHS] = lengths.astype(np.int32)
            ids = int(lengths.sum())
        made: np.ndarray = np.zeros(0, column.dtype)
        if column.name in self._generators:
            made = self._generators[column.name].generate(ids).astype(column.dtype)
        if column.hotness is not None and column.hotness > 1:
            made = made.reshape(len(rows), column.hotness)
        columns[column.name] = made
        return columns

    def _row_lengths(self, table: int, column: CategoricalColumn, rows: np.ndarray) -> np.ndarray:
        counts = self._twin.row_lengths[column.name]
        ends = np.cumsum(counts)
        uniform = self._uniform(rows, _LENGTHS, table)
        return np.asarray(np.searchsorted(ends / ends[-1], uniform, side="right"))

    def _uniform(self, rows: np.ndarray, *purpose: int) -> np.ndarray:
        key = hash_number(self._key, *purpose)
        return (hash_numbers(key, rows) >> np.uint64(11)) * 2.0**-53


def _with_new_sooner(distribution: Distribution) -> Distribution:
    wanted = min(_NEW_SOONER * float(distribution.cumulative[0]), _NEW_AT_MOST)
    return distribution.with_minimum_of_new(wanted)
