"""Rows of a synthetic twin, one stream after another."""

from __future__ import annotations

import hashlib

import numpy as np

from tfrecords import block
from tfrecords.hashing import hash_number, hash_numbers
from tfrecords.schema import CategoricalColumn
from tfrecords.traces.generator import TraceGenerator
from tfrecords.traces.twin import Twin

_TRACE, _LABEL, _DENSE, _LENGTHS = range(1, 5)


class TwinRows:
    """The endless stream of rows of one split.

    Each categorical column has one trace over the whole stream, so that the distance between two
    uses of an id is that of the original. Labels and dense values are drawn for each row by
    itself; columns don't depend on each other.

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
                distribution,
                hash_number(self._key, _TRACE),
                table,
                padding=twin.padding,
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
            dense = np.empty((count, len(schema.dense)), np.float32)
            for number, name in enumerate(schema.dense):
                quantiles = self._twin.dense_quantiles[name]
                place = self._uniform(rows, _DENSE, number) * (len(quantiles) - 1)
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
        columns = {}
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
        return np.searchsorted(ends / ends[-1], self._uniform(rows, _LENGTHS, table), side="right")

    def _uniform(self, rows: np.ndarray, *purpose: int) -> np.ndarray:
        key = hash_number(self._key, *purpose)
        return (hash_numbers(key, rows) >> np.uint64(11)) * 2.0**-53
