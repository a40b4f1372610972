"""The variables of a SavedModel as files that are written and read piece by piece.

A SavedModel's variables are a checkpoint: tensors by name, of which a large one may lie in several
files, each with some of its rows. So tables of any size can be written with the memory of one file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.internals import write_fingerprint
from tfrecords.progress import Progress

# Bytes of rows that are in memory at once, and in one file.
_FILE_BYTES = 1 << 28
# Where a SavedModel has its variables.
VARIABLES = os.path.join("variables", "variables")


@dataclasses.dataclass(frozen=True)
class Rows:
    """A tensor that is made piece by piece.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        read: Returns `count` rows from row `start` on.
    """

    shape: tuple[int, ...]
    dtype: tf.DType
    read: Callable[[int, int], np.ndarray]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yields (start, count) of the rows of each file."""
        row_bytes = int(np.prod(self.shape[1:])) * self.dtype.size
        step = max(1, _FILE_BYTES // row_bytes)
        for start in range(0, self.shape[0], step):
            yield start, min(step, self.shape[0] - start)


def replace_variables(saved_model: str, tensors: Mapping[str, Rows]) -> None:
    """Replaces variables of a SavedModel, whatever their shape was; all others stay.

    Equal tensors give equal files.

    Args:
        saved_model: The SavedModel's folder.
        tensors: The new ones by their keys in its checkpoint, see `key_of`.
    """
    prefix = os.path.join(saved_model, VARIABLES)
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    kept = {name: reader.get_tensor(name) for name in sorted(shapes) if name not in tensors}
    del reader

    def remove_old() -> None:
        folder = os.path.dirname(prefix)
        for file in os.listdir(folder):
            if file.startswith("variables."):
                os.remove(os.path.join(folder, file))

    write_tensors(prefix, kept, tensors, remove_old)
    # It has a checksum of the variables.
    write_fingerprint(saved_model)


def write_tensors(
    prefix: str,
    kept: Mapping[str, Any],
    tensors: Mapping[str, Rows],
    before_merge: Callable[[], None] = lambda: None,
) -> None:
    """Writes a checkpoint.

    Args:
        prefix: Its path prefix.
        kept: Tensors by their keys.
        tensors: Those that are made piece by piece.
        before_merge: Called when all is written, before it gets its name.
    """
    parts: list[str] = []

    def save(names: list[str], slices: list[str], values: list[np.ndarray]) -> None:
        parts.append(f"{prefix}_temp/part-{len(parts)}")
        tf.raw_ops.SaveV2(
            prefix=parts[-1], tensor_names=names, shape_and_slices=slices, tensors=values
        )

    save(list(kept), [""] * len(kept), list(kept.values()))
    progress = Progress()
    total = sum(rows.shape[0] for rows in tensors.values())
    progress.begin("Writing tables", total)
    done = 0
    for name, rows in tensors.items():
        for start, count in rows.pieces():
            save([name], [_slice(rows.shape, start, count)], [rows.read(start, count)])
            done += count
            progress.update(done, done)
    before_merge()
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=True
    )


def key_of(attribute: str, index: int) -> str:
    """Returns the key in the checkpoint of a variable in a list that is a module's attribute."""
    return f"{attribute}/{index}/.ATTRIBUTES/VARIABLE_VALUE"


class CheckpointRows:
    """The tensors of a checkpoint, by ranges of rows."""

    def __init__(self, prefix: str) -> None:
        """Opens it.

        Raises:
            tf.errors.OpError, ValueError: If there is none.
        """
        reader = tf.train.load_checkpoint(prefix)
        self._prefix = prefix
        self.shapes = {k: tuple(v) for k, v in reader.get_variable_to_shape_map().items()}
        self.dtypes = reader.get_variable_to_dtype_map()

    def whole(self, name: str) -> Any:
        """Returns a tensor, of any type and shape."""
        return tf.train.load_checkpoint(self._prefix).get_tensor(name)

    def read(self, name: str, start: int, count: int) -> np.ndarray:
        """Returns rows of a tensor."""
        shape = self.shapes[name]
        (rows,) = tf.raw_ops.RestoreV2(
            prefix=self._prefix,
            tensor_names=[name],
            shape_and_slices=[_slice(shape, start, count)],
            dtypes=[self.dtypes[name]],
        )
        values: np.ndarray = rows.numpy()
        return values


def _slice(shape: tuple[int, ...], start: int, count: int) -> str:
    """Returns TensorFlow's notation for rows of a tensor."""
    full = " ".join(map(str, shape))
    return f"{full} {':'.join([f'{start},{count}', *(f'0,{size}' for size in shape[1:])])}"
