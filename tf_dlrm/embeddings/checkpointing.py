"""How TensorFlow's checkpoints see a table: one logical tensor a key, in slices where it is cut."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.block import Block
from tf_dlrm.internals import SaveableObject, SaveSpec


class SlicedTensor(SaveableObject):
    """One key of a table in a checkpoint.

    Each slice is read when it is written, so that describing a table, which restoring does too,
    copies nothing. Where several processes hold a table, each writes and reads its own slices.
    """

    def __init__(
        self,
        what: str,
        shape: Sequence[int],
        blocks: Sequence[Block],
        slot: str,
        read: Callable[[Block, str], tf.Tensor],
        assign: Callable[[tf.Tensor, Block, str], None],
        name: str,
    ) -> None:
        """Describes the tensor.

        Args:
            what: What it is, for messages.
            shape: Shape of all of it.
            blocks: What this process holds of it.
            slot: "rows" or the name of a slot.
            read: Returns a block of the slot.
            assign: Writes a block of the slot.
            name: Its key, given by TensorFlow.
        """
        self._what, self._shape, self._blocks = what, tuple(shape), blocks
        self._slot, self._assign = slot, assign
        specs = [
            SaveSpec(
                functools.partial(read, block, slot),
                _slice_spec(shape, block),
                name,
                tf.float32,
                block.device_name(slot),
            )
            for block in blocks
        ]
        super().__init__(None, specs, name)

    def restore(self, restored_tensors: Sequence[tf.Tensor], restored_shapes: Any) -> tf.Operation:
        """Writes the slices into the table."""
        del restored_shapes
        for block, value in zip(self._blocks, restored_tensors, strict=True):
            wanted = (block.rows, block.columns)[: len(self._shape)]
            if value.shape.rank is None:  # read by another machine
                value = tf.ensure_shape(value, wanted)
            # A sliced tensor of another shape has been refused by TensorFlow, naming both shapes.
            if tuple(value.shape) != wanted:
                raise ValueError(
                    f"The checkpoint holds {self._what} with the shape {list(value.shape)}, but "
                    f"the model's has {list(self._shape)}."
                )
            self._assign(value, block, self._slot)
        return tf.no_op()


def _slice_spec(shape: Sequence[int], block: Block) -> str:
    """Returns TensorFlow's notation for a slice of a tensor of `shape`; "" for all of it."""
    ranges = [(block.first_row, block.rows), (block.first_column, block.columns)][: len(shape)]
    if ranges == [(0, size) for size in shape]:
        return ""
    full = " ".join(str(size) for size in shape)
    return f"{full} " + ":".join(f"{first},{count}" for first, count in ranges)
