"""What the report of `inspect` shows, gathered in one pass over the records of a data set."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords import block
from tfrecords.dataset_info import DatasetInfo
from tfrecords.progress import Progress
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.dataset_columns import read_blocks
from tfrecords.traces.miss_ratio import MissRatioCurve
from tfrecords.traces.stack_distance import stack_distances

ACCESSES = 1_000_000
_BINS = 120
_DENSE_SAMPLE = 1 << 18
# Counters of ids, 8 bytes each, over all columns.
_COUNTERS = 1 << 27


@dataclasses.dataclass(frozen=True, eq=False)
class LabelRate:
    """The label over the rows of a split, in pieces of about as many rows each.

    Attributes:
        rows: Rows of each piece, int64 `[pieces]`.
        label_sums: Sum of the labels of each piece, float64 `[pieces]`.
    """

    rows: np.ndarray
    label_sums: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """Mean label of each piece."""
        return self.label_sums / self.rows

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the true rate of each piece lies with 95% confidence (Wilson's interval)."""
        z2 = 1.959964**2
        centre = (self.rates + z2 / (2 * self.rows)) / (1 + z2 / self.rows)
        spread = self.rates * (1 - self.rates) / self.rows + z2 / (4 * self.rows**2)
        half = np.sqrt(z2 * spread) / (1 + z2 / self.rows)
        return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class DenseSummary:
    """A dense column: moments of all rows, quantiles of a sample.

    Attributes:
        name: Name of the column.
        mean: Mean.
        deviation: Standard deviation.
        smallest: Smallest value.
        largest: Largest value.
        zeros: Share of rows that are 0.
        sample: Rows evenly spaced over the split, ascending, float32.
    """

    name: str
    mean: float
    deviation: float
    smallest: float
    largest: float
    zeros: float
    sample: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class CategoricalSummary:
    """A column of ids.

    Attributes:
        column: Its entry in the schema.
        ids: Number of ids in the split.
        counted: How many of them `counts` counts: all, or the first ones where the vocabulary is
            too large.
        counts: How often each different id occurs, descending, int64 `[different ids]`.
        out_of_vocabulary: Share of the counted ids that stand for unknown values; None where the
            column has no such id.
        traced: How many ids, the first of the split, `curve` is made from.
        curve: Miss ratios by cache size; None where there are no ids.
    """

    column: CategoricalColumn
    ids: int
    counted: int
    counts: np.ndarray
    out_of_vocabulary: float | None
    traced: int
    curve: MissRatioCurve | None

    def share_of_most_frequent(self, number: int) -> float:
        """The share of the counted ids that are one of the most frequent so many; 0 if none."""
        return float(self.counts[:number].sum() / self.counted) if self.counted else 0.0

    def ids_for(self, share: float) -> int:
        """How many of the most frequent ids make up a share of all counted ones."""
        if not self.counted:
            return 0
        return int(np.searchsorted(np.cumsum(self.counts), share * self.counted)) + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """All of a report.

    Attributes:
        label_rates: For each split that has rows.
        split: The split that the columns are shown of: "train", or else the first with rows; None
            where no split has rows.
        dense: The dense columns of this split, in order.
        categorical: The categorical columns of this split, in order.
    """

    label_rates: dict[str, LabelRate]
    split: str | None
    dense: list[DenseSummary]
    categorical: list[CategoricalSummary]


def gather(
    data_dir: str, info: DatasetInfo, progress: Progress, accesses: int = ACCESSES
) -> Statistics:
    """Reads a data set once.

    Memory: a counter per id of the vocabularies, 1 GB at most, and `accesses` ids of each column.

    Args:
        data_dir: The folder.
        info: Its description.
        progress: Told how far it is.
        accesses: How many ids of each column, its first, to make miss-ratio curves from.

    Raises:
        DataError: If a record is broken.
    """
    splits = [name for name, split in info.splits.items() if split.rows]
    chosen = "train" if "train" in splits else next(iter(splits), None)
    rates = {}
    columns = _Columns(info.schema, info.splits[chosen].rows, accesses) if chosen else None
    for split in splits:
        labels = _Labels(info.splits[split].rows)
        for record in read_blocks(data_dir, info, split, progress, f"Reading {split}"):
            labels.add(record[info.schema.label])
            if split == chosen and columns is not None:
                columns.add(record)
        rates[split] = labels.result()
    if columns is None:
        return Statistics({}, None, [], [])
    return Statistics(rates, chosen, columns.dense(), columns.categorical(progress))


class _Labels:
    def __init__(self, rows: int) -> None:
        self._total = rows
        self._pieces = min(_BINS, rows)
        self._sums: np.ndarray = np.zeros(self._pieces)
        self._rows: np.ndarray = np.zeros(self._pieces, np.int64)
        self._done = 0

    def add(self, label: np.ndarray) -> None:
        piece: np.ndarray = (
            np.arange(self._done, self._done + len(label)) * self._pieces // self._total
        )
        self._sums += np.bincount(piece, label.astype(np.float64), self._pieces)
        self._rows += np.bincount(piece, minlength=self._pieces)
        self._done += len(label)

    def result(self) -> LabelRate:
        return LabelRate(self._rows, self._sums)


class _Columns:
    """The columns of one split."""

    def __init__(self, schema: Schema, rows: int, accesses: int) -> None:
        self._schema = schema
        self._step = max(1, -(-rows // _DENSE_SAMPLE))
        self._rows = 0
        self._sample: list[np.ndarray] = []
        self._moments: np.ndarray = np.zeros((3, len(schema.dense)))
        self._extremes: np.ndarray = np.array([[np.inf], [-np.inf]]) * np.ones(len(schema.dense))
        self._ids = [_Ids(column, accesses) for column in schema.categorical]
        left = _COUNTERS
        for ids in sorted(self._ids, key=lambda ids: ids.column.vocabulary_size):
            left -= ids.column.vocabulary_size
            if left >= 0:
                ids.count_all()

    def add(self, record: dict[str, np.ndarray]) -> None:
        if self._schema.dense:
            dense = record[block.DENSE]
            exact: np.ndarray = dense.astype(np.float64)
            self._sample.append(dense[-self._rows % self._step :: self._step].copy())
            self._moments += [exact.sum(0), (exact**2).sum(0), (exact == 0).sum(0)]
            np.minimum(self._extremes[0], exact.min(0), out=self._extremes[0])
            np.maximum(self._extremes[1], exact.max(0), out=self._extremes[1])
        self._rows += len(record[self._schema.label])
        for ids in self._ids:
            ids.add(record[ids.column.name].reshape(-1))

    def dense(self) -> list[DenseSummary]:
        if not self._schema.dense:
            return []
        sample = np.sort(np.concatenate(self._sample), axis=0)
        mean, square, zeros = self._moments / self._rows
        return [
            DenseSummary(
                name=name,
                mean=float(mean[index]),
                deviation=float(np.sqrt(max(square[index] - mean[index] ** 2, 0))),
                smallest=float(self._extremes[0, index]),
                largest=float(self._extremes[1, index]),
                zeros=float(zeros[index]),
                sample=sample[:, index],
            )
            for index, name in enumerate(self._schema.dense)
        ]

    def categorical(self, progress: Progress) -> list[CategoricalSummary]:
        progress.begin("Tracing columns", len(self._ids))
        summaries = []
        traced = 0
        for number, ids in enumerate(self._ids):
            summaries.append(ids.result())
            traced += summaries[-1].traced
            progress.update(number + 1, traced)
        return summaries


class _Ids:
    """One categorical column."""

    def __init__(self, column: CategoricalColumn, accesses: int) -> None:
        self.column = column
        self._left = accesses
        self._first: list[np.ndarray] = []
        self._ids = 0
        self._counts: np.ndarray | None = None

    def count_all(self) -> None:
        """Counts every id, not only those at the beginning of the split."""
        self._counts = np.zeros(self.column.vocabulary_size, np.int64)

    def add(self, ids: np.ndarray) -> None:
        self._ids += len(ids)
        if self._left:
            self._first.append(ids[: self._left].copy())
            self._left -= len(self._first[-1])
        if self._counts is not None:
            # Adding up a whole vocabulary for each record would take longer than sorting it.
            if len(self._counts) > 8 * len(ids):
                different, counts = np.unique(ids, return_counts=True)
                self._counts[different] += counts
            else:
                self._counts += np.bincount(ids, minlength=len(self._counts))

    def result(self) -> CategoricalSummary:
        first: np.ndarray = np.concatenate(self._first) if self._first else np.zeros(0, np.int64)
        self._first = []
        oov = self.column.out_of_vocabulary
        counted, unknown = self._ids, 0
        if self._counts is not None:
            counts = self._counts[self._counts > 0]
            unknown = 0 if oov is None else int(self._counts[oov])
            self._counts = None
        else:
            counted = len(first)
            _, counts = np.unique(first, return_counts=True)
            unknown = 0 if oov is None else int((first == oov).sum())
        curve = MissRatioCurve.of_distances(stack_distances(first)) if len(first) else None
        return CategoricalSummary(
            column=self.column,
            ids=self._ids,
            counted=counted,
            counts=np.sort(counts)[::-1],
            out_of_vocabulary=None if oov is None or not counted else unknown / counted,
            traced=len(first),
            curve=curve,
        )
