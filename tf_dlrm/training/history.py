"""The history of a run: metrics.jsonl and TensorBoard's logs."""

from __future__ import annotations

import json
import time
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tfrecords import files

# Writing on into a file of an object store uploads all of it again.
_REMOTE_FLUSH_SECONDS = 60.0


class History:
    """Keeps all evaluations of a run in `metrics.jsonl`, one JSON object a line.

    Args:
        model_dir: The run's folder; None keeps the evaluations in memory only.
        tensorboard: Whether to write them for TensorBoard too, into `model_dir`/tensorboard.
        resumed_step: Evaluations after this step are forgotten: training goes on from here, so
            they will be made again.
        writes: Whether this process writes the files, or another one that has the same history.
    """

    def __init__(
        self, model_dir: str | None, tensorboard: bool, resumed_step: int, writes: bool = True
    ) -> None:
        self._path = files.join(model_dir, "metrics.jsonl") if model_dir else None
        self._entries = [e for e in self._read() if e["step"] <= resumed_step]
        self._writer = None
        self._pending: list[tuple[int, str, float]] = []
        self._flush_every = 0.0
        self._flushed = time.monotonic()
        if not writes:
            self._path = None
        if self._path:
            self._write_whole()
        if model_dir and tensorboard and writes:
            if files.is_remote(model_dir):
                self._flush_every = _REMOTE_FLUSH_SECONDS
            try:
                # A queue longer than what is written at once: else it writes every ten numbers.
                self._writer = tf.summary.create_file_writer(
                    files.join(model_dir, "tensorboard"), max_queue=1 << 20
                )
            except tf.errors.OpError as error:
                raise UserError(
                    f"TensorBoard's logs can't be written to {model_dir} ({first_line(error)}); "
                    "--notensorboard leaves them out."
                ) from error

    @property
    def last(self) -> dict[str, Any] | None:
        """The newest evaluation, or None."""
        return self._entries[-1] if self._entries else None

    def add_evaluation(self, entry: dict[str, Any]) -> None:
        """Appends an evaluation, which has a `step`."""
        self._entries.append(entry)
        if self._path:
            self._write_whole()
        self.add_scalars(
            entry["step"],
            {f"evaluation/{k}": v for k, v in entry.items() if isinstance(v, float)},
        )
        self.flush()  # evaluations are few and worth seeing at once

    def add_scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Writes numbers for TensorBoard."""
        if self._writer is not None:
            self._pending += [(step, name, value) for name, value in scalars.items()]
            if time.monotonic() - self._flushed >= self._flush_every:
                self.flush()

    def flush(self) -> None:
        """Writes out what TensorBoard has not been given yet."""
        if self._writer is not None:
            with self._writer.as_default():  # its end writes them out
                for step, name, value in self._pending:
                    tf.summary.scalar(name, value, step=step)
            self._pending = []
            self._flushed = time.monotonic()

    def _read(self) -> list[dict[str, Any]]:
        if not self._path:
            return []
        try:
            lines = files.read_bytes(self._path).splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                int(entry["step"])
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{self._path}, line {number}, is no evaluation ({error!r}); remove the "
                    "line to go on without it."
                ) from error
            entries.append(entry)
        return entries

    def _write_whole(self) -> None:
        assert self._path is not None
        # The file is small and a process may be killed at any time: whole or not at all.
        lines = [json.dumps(entry, allow_nan=False) + "\n" for entry in self._entries]
        files.write_bytes(self._path, "".join(lines).encode("utf-8"))
