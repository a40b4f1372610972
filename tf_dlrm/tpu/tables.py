"""Where the rows of tables are that a TPU has: on hosts, on cores, and dealt out to SparseCores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.block import ROWS, Block
from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.tables import Table


class HostTable(Table):
    """A table in variables of the hosts, which the TPU's memory is ahead of, or behind."""

    def __init__(
        self,
        config: TableConfig,
        blocks: Sequence[Block],
        before_read: Callable[[], None],
        before_write: Callable[[], None],
    ) -> None:
        """Describes where the rows are.

        Args:
            config: The table's config.
            blocks: The rows of each host.
            before_read: Called before rows are read, to bring the variables up to date.
            before_write: Called before rows are written.
        """
        super().__init__(config, blocks)
        self._to_read, self._to_write = before_read, before_write

    def _before_read(self) -> None:
        self._to_read()

    def _before_write(self) -> None:
        self._to_write()


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


@dataclasses.dataclass(frozen=True)
class DealtBlock(Block):
    """Rows of a table that are dealt out to the SparseCores of several chips.

    Each chip has one variable: the rows of its first SparseCore, of its second, and so on. Its
    columns may be padded. `variables` are those of all chips.

    Attributes:
        layout: How the rows are dealt out.
    """

    layout: DealtLayout = DealtLayout(1, 0, 0)

    def device_name(self, slot: str = ROWS) -> str:
        """See `Block.device_name`; that of the first chip."""
        return str(self._variable(slot)[0].device)

    def read(self, slot: str = ROWS) -> tf.Tensor:
        """See `Block.read`."""
        shards = self._variable(slot)
        chip, place = self._places()
        targets = tf.dynamic_partition(tf.range(self.rows), chip, len(shards))
        places = tf.dynamic_partition(place, chip, len(shards))
        found = [
            tf.gather(shard, wanted)[:, : self.columns]
            for shard, wanted in zip(shards, places, strict=True)
        ]
        return tf.ensure_shape(tf.dynamic_stitch(targets, found), [self.rows, self.columns])

    def assign(self, values: tf.Tensor, slot: str = ROWS) -> None:
        """See `Block.assign`."""
        shards = self._variable(slot)
        chip, place = self._places()
        padding = shards[0].shape[1] - self.columns
        values = tf.dynamic_partition(tf.pad(values, [[0, 0], [0, padding]]), chip, len(shards))
        places = tf.dynamic_partition(place, chip, len(shards))
        for shard, wanted, rows in zip(shards, places, values, strict=True):
            with tf.device(shard.device):
                tf.raw_ops.ResourceScatterUpdate(
                    resource=shard.handle, indices=wanted, updates=rows
                )

    def _places(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns for each row the chip that has it, and its place in the chip's variable."""
        layout, shards = self.layout, self._variable(ROWS)
        cores_of_chip = layout.cores // len(shards)
        rows_of_core = shards[0].shape[0] // cores_of_chip
        row = tf.range(self.first_row, self.first_row + self.rows)
        core = (row + layout.rotation) % layout.cores
        place = core % cores_of_chip * rows_of_core + layout.offset + row // layout.cores
        return core // cores_of_chip, place
