"""Logical tables over variables that a TPU's embedding API, or a strategy, has made."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.stack import Stack, chunks
from tf_dlrm.embeddings.tables import ROWS, Slice, Table


class HeldRows(NamedTuple):
    """Consecutive rows of a table in a variable, or in several equal ones.

    Attributes:
        copies: The variables, each with the same values.
        offset: Where in the variable the rows start.
        first_row: First row of the table.
        rows: Number of rows.
    """

    copies: tuple[tf.Variable, ...]
    offset: int
    first_row: int
    rows: int


def _nothing() -> None:
    """Does nothing."""


class _WholeTable(Table):
    """A table all of whose rows this process can read and write."""

    @abc.abstractmethod
    def _device(self) -> str:
        """Returns the device from which a checkpoint reads the table."""

    def slices(self, slot: str = ROWS) -> list[Slice]:
        """See `Table.slices`."""
        return [
            Slice(
                start,
                count,
                0,
                self.size()[1],
                self._device(),
                functools.partial(self.read_rows, start, count, slot),
                functools.partial(self.assign_rows, start=start, slot=slot),
            )
            for start, count in chunks(self.shape(slot))
        ]


class PartedTable(_WholeTable):
    """A table whose consecutive rows are in one variable after the other."""

    def __init__(
        self,
        config: TableConfig,
        parts: Mapping[str, Sequence[HeldRows]],
        before_read: Callable[[], None] = _nothing,
        before_write: Callable[[], None] = _nothing,
    ) -> None:
        """Describes where the rows are.

        Args:
            config: The table's config.
            parts: For "rows" and each slot, where its rows are, from the first to the last.
            before_read: Called before rows are read, to bring the variables up to date.
            before_write: Called before rows are written.
        """
        super().__init__(config)
        self._parts = {key: tuple(found) for key, found in parts.items()}
        self._before_read = before_read
        self._before_write = before_write

    def read_rows(self, start: int = 0, count: int | None = None, slot: str = ROWS) -> tf.Tensor:
        """See `Table.read_rows`."""
        count = self.size()[0] - start if count is None else count
        self._check_range(start, count)
        shape = self.shape(slot)
        self._before_read()
        found = []
        for part in self._parts[slot]:
            first, stop = _overlap(part, start, count)
            if first < stop:
                place = part.offset + first - part.first_row
                found.append(Stack.read(part.copies[0], place, stop - first))
        return tf.concat(found, 0) if found else tf.zeros((0, *shape[1:]))

    def assign_rows(self, values: Any, start: int = 0, slot: str = ROWS) -> None:
        """See `Table.assign_rows`.

        Raises:
            ValueError: If the rows are not in the table or `values` are not as wide as it.
        """
        values = self._as_rows(values, slot)
        self._check_range(start, values.shape[0])
        self._before_write()
        for part in self._parts[slot]:
            first, stop = _overlap(part, start, values.shape[0])
            if first < stop:
                for copy in part.copies:
                    place = part.offset + first - part.first_row
                    Stack.assign(copy, place, values[first - start : stop - start])

    def _device(self) -> str:
        return self._parts[ROWS][0].copies[0].device


def _overlap(part: HeldRows, start: int, count: int) -> tuple[int, int]:
    return max(part.first_row, start), min(part.first_row + part.rows, start + count)


class DealtLayout(NamedTuple):
    """Where the rows of a table are that are dealt out to SparseCores in turn.

    Row r is on core (r + rotation) mod cores, at place offset + r div cores of that core's rows.

    Attributes:
        cores: Number of SparseCores of all chips.
        offset: Where in each core's rows the table starts.
        rotation: By how many cores the first row is moved on.
    """

    cores: int
    offset: int
    rotation: int


class DealtTable(_WholeTable):
    """A table whose rows are dealt out to the SparseCores of several chips.

    Each chip has one variable: the rows of its first SparseCore, of its second, and so on. Its
    columns may be padded.
    """

    def __init__(
        self,
        config: TableConfig,
        shards: Mapping[str, Sequence[tf.Variable]],
        layout: DealtLayout,
    ) -> None:
        """Describes where the rows are.

        Args:
            config: The table's config.
            shards: For "rows" and each slot the variable of each chip, [rows, at least dim].
            layout: How the rows are dealt out.
        """
        super().__init__(config)
        self._shards = {key: tuple(found) for key, found in shards.items()}
        self._layout = layout

    def read_rows(self, start: int = 0, count: int | None = None, slot: str = ROWS) -> tf.Tensor:
        """See `Table.read_rows`."""
        count = self.size()[0] - start if count is None else count
        self._check_range(start, count)
        self.shape(slot)
        found = []
        chip, place = self._places(start, count)
        targets = tf.dynamic_partition(tf.range(count), chip, len(self._shards[slot]))
        places = tf.dynamic_partition(place, chip, len(self._shards[slot]))
        for shard, wanted in zip(self._shards[slot], places, strict=True):
            found.append(tf.gather(shard, wanted)[:, : self.config.dim])
        return tf.ensure_shape(tf.dynamic_stitch(targets, found), [count, self.config.dim])

    def assign_rows(self, values: Any, start: int = 0, slot: str = ROWS) -> None:
        """See `Table.assign_rows`.

        Raises:
            ValueError: If the rows are not in the table or `values` are not as wide as it.
        """
        values = self._as_rows(values, slot)
        count = values.shape[0]
        self._check_range(start, count)
        chip, place = self._places(start, count)
        shards = self._shards[slot]
        padding = shards[0].shape[1] - self.config.dim
        values = tf.dynamic_partition(tf.pad(values, [[0, 0], [0, padding]]), chip, len(shards))
        places = tf.dynamic_partition(place, chip, len(shards))
        for shard, wanted, rows in zip(shards, places, values, strict=True):
            with tf.device(shard.device):
                tf.raw_ops.ResourceScatterUpdate(
                    resource=shard.handle, indices=wanted, updates=rows
                )

    def _device(self) -> str:
        return self._shards[ROWS][0].device

    def _places(self, start: int, count: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns for each row the chip that has it, and its place in the chip's variable."""
        layout, shards = self._layout, self._shards[ROWS]
        cores_of_chip = layout.cores // len(shards)
        rows_of_core = shards[0].shape[0] // cores_of_chip
        row = tf.range(start, start + count)
        core = (row + layout.rotation) % layout.cores
        place = core % cores_of_chip * rows_of_core + layout.offset + row // layout.cores
        return core // cores_of_chip, place
