"""A checkpoint that several processes write together, each the rows that it holds."""

from __future__ import annotations

import enum
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.tables import Table
from tf_dlrm.internals import MultiDeviceSaver, tensors_to_save
from tf_dlrm.training.distribution.processes import Processes


class _PartState(enum.IntEnum):
    FAILED = 0
    EMPTY = 1
    WRITTEN = 2


class ShardedCheckpoint(tf.train.Checkpoint):
    """A `tf.train.Checkpoint` of tables that are cut over processes.

    Every process writes a part: the first all that every process has, and each the rows of tables
    that it alone holds. The first then joins the parts, by their indices alone, so that the result
    is one checkpoint like any other. It appears whole or not at all. All processes need the same
    file system.
    """

    def __init__(self, processes: Processes, **trackables: Any) -> None:
        super().__init__(**trackables)
        self._processes = processes

    def _write(self, file_prefix: str, options: Any = None) -> str:
        if self._processes.count == 1:
            return super()._write(file_prefix, options=options)
        own = self._part(file_prefix, self._processes.index)
        error: Exception | None = None
        state = _PartState.FAILED
        try:
            state = self._write_part(own)
        except (tf.errors.OpError, OSError) as caught:
            error = caught
        states = [int(text) for text in self._processes.texts(str(int(state)))]
        joined = False
        if self._processes.is_first and min(states) > _PartState.FAILED:
            try:
                self._join(file_prefix, states)
                for callback in (options and options.experimental_write_callbacks) or ():
                    callback(file_prefix)  # the manager's, which notes the newest checkpoint
                joined = True
            except (tf.errors.OpError, OSError) as caught:
                error = caught
        joined = self._processes.any(joined)
        if error is not None:
            raise error
        if not joined:
            failed = states.index(_PartState.FAILED) if _PartState.FAILED in states else 0
            raise OSError(f"worker {failed} could not write its part of {file_prefix}")
        return file_prefix

    def _write_part(self, prefix: str) -> _PartState:
        if self._processes.is_first:
            super()._write(prefix)
            return _PartState.WRITTEN
        tensors = {
            held: by_name for held, by_name in tensors_to_save(self).items() if _is_cut(held)
        }
        if not any(slices for by_name in tensors.values() for slices in by_name.values()):
            return _PartState.EMPTY
        MultiDeviceSaver(tensors).save(prefix)
        return _PartState.WRITTEN

    def _join(self, prefix: str, states: list[int]) -> None:
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=[
                self._part(prefix, k)
                for k, state in enumerate(states)
                if state == _PartState.WRITTEN
            ],
            destination_prefix=prefix,
            delete_old_dirs=True,
        )

    @staticmethod
    def _part(prefix: str, index: int) -> str:
        return f"{prefix}_temp/part_{index}"


def _is_cut(held: Any) -> bool:
    # Tables come wrapped, since they describe themselves as TensorFlow's older SaveableObjects.
    held = getattr(held, "obj", held)
    return isinstance(held, Table) and not held.held_by_all
