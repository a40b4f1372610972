"""Counts the values of spooled rows, on a thread of its own beside the parsing."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from tfrecords.conversion.encoding import EncodedColumn, count, value_mask
from tfrecords.conversion.formats import InputColumn
from tfrecords.conversion.memory import Memory
from tfrecords.conversion.options import Options
from tfrecords.conversion.plan import Plan
from tfrecords.conversion.sampling import kept
from tfrecords.conversion.spool import Spool, SpoolPiece
from tfrecords.conversion.vocabulary import Counts, NewVocabulary, VocabularyBuilder

_MOST_WAITING = 8
# Positions within a piece are below it.
PIECE_RANKS = 1 << 32


def counted(
    encoded: Sequence[EncodedColumn],
    columns: Sequence[InputColumn],
    rows: np.ndarray | None,
    rank: int,
) -> Iterator[tuple[int, Counts]]:
    """Counts the values of a piece: number and `Counts` of each column that needs it.

    Args:
        encoded: The categorical columns of the piece; of all its rows without codes.
        columns: What they are.
        rows: bool `[rows]`, the ones that count; None for all.
        rank: The rank of the piece's first value.
    """
    for index, (column, kind) in enumerate(zip(encoded, columns, strict=True)):
        if kind.vocabulary_size is not None:
            continue
        keys, counts, firsts = column.keys, column.counts, column.firsts
        if rows is not None:
            values = np.flatnonzero(value_mask(column, rows, kind.hotness or 1))
            counts, firsts = count(column.codes[values], len(column.keys), values)
            there = np.flatnonzero(counts)
            keys, counts, firsts = keys[there], counts[there], firsts[there]
        yield index, Counts(keys, counts.astype(np.int64), firsts.astype(np.int64) + rank)


class Counter:
    """Counts pieces one after the other.

    Args:
        folder: Where values go that memory has no room for; it is made.
        spool: The rows.
        columns: The categorical columns.
        options: How to convert.
        memory: How much may be used.
    """

    def __init__(
        self,
        folder: str,
        spool: Spool,
        columns: tuple[InputColumn, ...],
        options: Options,
        memory: Memory,
    ) -> None:
        os.makedirs(folder, exist_ok=True)
        self._spool = spool
        self._columns = columns
        self._memory = memory
        self._options = options
        self._builders = {
            number: VocabularyBuilder(os.path.join(folder, f"run-{number}"))
            for number, column in enumerate(columns)
            if column.vocabulary_size is None
        }
        self._pool = ThreadPoolExecutor(1)
        self._waiting: collections.deque[Future[None]] = collections.deque()
        self._next = 0

    def count_until(self, row: int) -> None:
        """Counts the pieces not counted yet that end before `row`; returns before it is done."""
        while self._next < len(self._spool.pieces):
            piece = self._spool.pieces[self._next]
            if piece.first_row + piece.rows > row:
                return
            self._submit(self._next, None)

    def count_rest(self, plan: Plan) -> None:
        """Counts what is left, now that it is known which rows count."""
        for number in range(self._next, len(self._spool.pieces)):
            if self._spool.pieces[number].first_row >= plan.counted:
                break
            self._submit(number, plan)
        while self._waiting:
            self._waiting.popleft().result()

    def _submit(self, number: int, plan: Plan | None) -> None:
        self._next = number + 1
        self._waiting.append(self._pool.submit(self._count, number, plan))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft().result()

    def _count(self, number: int, plan: Plan | None) -> None:
        piece = self._spool.pieces[number]
        rank = number * PIECE_RANKS
        for index, counts in self._counts(piece, rank, plan):
            self._builders[index].add(counts)
        if sum(builder.nbytes for builder in self._builders.values()) > self._memory.counting_bytes:
            for builder in self._builders.values():
                builder.spill()

    def _counts(
        self, piece: SpoolPiece, rank: int, plan: Plan | None
    ) -> Iterator[tuple[int, Counts]]:
        whole = plan is None or plan.counts_all(piece)
        if whole and self._options.keep_negatives >= 1:
            yield from counted(self._spool.read_dictionaries(piece), self._columns, None, rank)
            return
        rows = self._spool.read(piece)
        if plan is None:
            options = self._options
            mask: np.ndarray | None = kept(
                rows.label, piece.first_row, options.keep_negatives, options.seed
            )
        else:
            mask = plan.mask(piece, rows, plan.counted_part)
        yield from counted(rows.columns, self._columns, mask, rank)

    def finish(self, number: int, most_values: int) -> NewVocabulary:
        """The vocabulary of a column; of more values than `most_values` only their number."""
        min_count = self._columns[number].min_count
        return self._builders.pop(number).finish(
            self._options.min_count if min_count is None else min_count,
            self._memory.merging_bytes,
            most_values,
        )

    def close(self) -> None:
        """Ends the thread."""
        self._pool.shutdown(cancel_futures=True)
