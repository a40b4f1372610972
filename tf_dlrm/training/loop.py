"""The training loop: steps, and what happens between them."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.checkpoints import Checkpoints, Position
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.history import History
from tf_dlrm.training.memory import said_when_it_runs_out
from tf_dlrm.training.options.config import RunOptions
from tf_dlrm.training.progress import Progress
from tf_dlrm.training.sources import Source, readable_errors, rows_or_none
from tfrecords import data_service
from tfrecords.fault import fault_point

_LOG = logging.getLogger(__name__)

# Steps run in compiled stretches of about this length: long enough that Python costs nothing, short
# enough for a SIGTERM and for a loss that is no number to be noticed at once.
_SECONDS_PER_STRETCH = 0.5
# SIGHUP comes when the terminal is closed.
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclasses.dataclass
class Loop:
    """Trains from a position to the end of the run.

    Attributes:
        options: When to evaluate, to checkpoint and to stop.
        source: The examples; their order is a function of (seed, epoch).
        shuffle: Whether training rows are shuffled.
        data_service: Address of the tf.data service that reads the training rows, or empty.
        distribute: Gives each replica its share of every batch.
        training_steps: See `make_training_steps`.
        evaluate: Returns the metrics of the model as it is now.
        find_non_finite: Returns the name of weights that are not finite, or None.
        checkpoints: None where no model directory is given.
        history: Where evaluations are kept.
        processes: Those that run this loop together; they stop at the same steps.
        skipped_updates: Returns how many updates of tables were skipped up to now, since some
            gradient was not finite.
    """

    options: RunOptions
    source: Source
    shuffle: bool
    data_service: str
    distribute: Callable[[tf.data.Dataset], Any]
    training_steps: Callable[[Any, tf.Tensor], tf.Tensor]
    evaluate: Callable[[], dict[str, Any]]
    find_non_finite: Callable[[], str | None]
    checkpoints: Checkpoints | None
    history: History
    processes: Processes
    skipped_updates: Callable[[], int]

    def run(self, position: Position) -> tuple[Position, float]:
        """Trains until the last step, or until the target AUC is reached.

        Returns:
            The position at the end, and the training rows a second of this call.

        Raises:
            UserError: if the loss or a weight is no longer finite, if the data can't be read, or if
                a checkpoint can't be written.
            SystemExit: with code 143 after SIGTERM, 130 after SIGINT, 129 after SIGHUP, once a
                checkpoint is written.
        """
        total = self._total_steps(position)
        if not position.step and total < 1:
            raise UserError(
                f"There is nothing to train: {self.source.rows('train')} training rows and "
                f"--epochs={self.options.epochs} make {total} steps."
            )
        progress = Progress(total)
        if position.step >= total:
            _LOG.info("step %d is reached: nothing is left to train", position.step)
        with _stop_signals() as stops, _profiler(self.options) as profile:
            # A run that was stopped just before an evaluation makes it up.
            self._between_steps(position, total, stops)
            while position.step < total and not self._target_reached(position):
                position = self._epoch(position, total, progress, stops, profile)
            # The checkpoint comes first: evaluations can be repeated, steps can't.
            self._save_once(position)
            if not self._evaluated(position):
                self._evaluate(position)
        return position, progress.rows_per_second

    def _total_steps(self, position: Position) -> int:
        rows = rows_or_none(self.source, "train")
        if rows < 1:
            raise UserError("The data has no training rows.")
        left = max(0, self.options.epochs - position.epoch) * rows - position.row
        # A changed batch size changes the steps that are left, not those done.
        partial = math.ceil((rows - position.row) / self.options.batch_size)
        whole = max(0, self.options.epochs - position.epoch - 1)
        steps = partial + whole * math.ceil(rows / self.options.batch_size) if left > 0 else 0
        total = position.step + steps
        return min(total, self.options.train_steps) if self.options.train_steps else total

    def _epoch(
        self,
        position: Position,
        total: int,
        progress: Progress,
        stops: list[int],
        profile: Callable[[int], None],
    ) -> Position:
        """Trains to the end of the epoch of `position`, or to the end of the run."""
        rows = self.source.rows("train")
        batch_size = self.options.batch_size
        start = time.perf_counter()
        with readable_errors(self.source):
            dataset = self.source.batches(
                "train",
                batch_size,
                shuffle_seed=self.options.seed if self.shuffle else None,
                epoch=position.epoch,
                first_row=position.row,
            )
            if self.data_service:
                dataset = data_service.through_service(dataset, self.data_service)
            batches = iter(self.distribute(dataset))
        skipped = self.skipped_updates()
        while position.row < rows and position.step < total:
            profile(position.step)
            count = min(
                math.ceil((rows - position.row) / batch_size),
                self._steps_to_next_stop(position.step, total),
                progress.steps_in(_SECONDS_PER_STRETCH),
            )
            count = self.processes.least(count)
            with (
                self._said_while_waiting(),
                self._lost_process(),
                readable_errors(self.source),
                said_when_it_runs_out("A smaller --batch_size may help."),
            ):
                loss = float(self.training_steps(batches, tf.constant(count))) / count
            seconds = time.perf_counter() - start
            row = min(position.row + count * batch_size, rows)
            step = position.step + count
            self._check_loss(loss, position.step, step)
            skipped_before, skipped = skipped, self.skipped_updates()
            if skipped > skipped_before:
                _LOG.warning(
                    "%d of the updates of the tables between steps %d and %d were skipped, since "
                    "some gradient was not finite",
                    skipped - skipped_before,
                    position.step + 1,
                    step,
                )
            progress.add(count, row - position.row, seconds, step, loss)
            self.history.add_scalars(
                step,
                {"train/loss": loss, "train/rows_per_second": (row - position.row) / seconds},
            )
            position = Position(step, position.epoch, row)
            if row == rows:
                position = Position(step, position.epoch + 1, 0)
            self._between_steps(position, total, stops)
            start = time.perf_counter()
            if position.row == 0 or self._target_reached(position):
                break
        profile(position.step)
        return position

    def _steps_to_next_stop(self, step: int, total: int) -> int:
        stops = [total]
        for every in (self.options.eval_every_steps, self.options.checkpoint_every_steps):
            if every:
                stops.append((step // every + 1) * every)
        if self.options.profile_steps:
            first, last = self.options.profile_steps
            stops += [stop for stop in (first - 1, last) if stop > step]
        return min(stops) - step

    def _between_steps(self, position: Position, total: int, stops: list[int]) -> None:
        # Before an evaluation, which may outlast whoever sent the signal.
        if self.processes.any(bool(stops)):
            # Another process of the run may be the one that got it.
            number = signal.Signals(stops[0] if stops else signal.SIGTERM)
            self._save_once(position)
            _LOG.info("stopped by %s after step %d of %d", number.name, position.step, total)
            raise SystemExit(128 + number)
        every = self.options.checkpoint_every_steps
        if every and position.step % every == 0:
            self._save_once(position)
        every = self.options.eval_every_steps
        if position.step and every and position.step % every == 0 and not self._evaluated(position):
            self._evaluate(position)

    def _check_loss(self, loss: float, first: int, last: int) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"The training loss became {loss} between steps {first + 1} and {last}, so "
                f"training stopped; {self._last_good()}. A lower --dense_learning_rate or "
                "--embedding_learning_rate may help."
            )

    def _last_good(self) -> str:
        latest = self.checkpoints.latest if self.checkpoints else None
        return f"the last good checkpoint is {latest}" if latest else "there is no checkpoint"

    def _lost_process(self) -> contextlib.AbstractContextManager[None]:
        return self.processes.readable_errors(
            f"Start all of them again to go on: {self._last_good()}."
        )

    def _said_while_waiting(self) -> contextlib.AbstractContextManager[None]:
        if not self.data_service:
            return contextlib.nullcontext()
        return data_service.said_while_waiting(
            f"for the tf.data service at {self.data_service}: no batch has come for "
            f"{data_service.SECONDS_OF_PATIENCE:.0f} seconds; has it a worker that runs?"
        )

    def _evaluate(self, position: Position) -> None:
        if not rows_or_none(self.source, "evaluation"):
            return
        start = time.perf_counter()
        with self._lost_process():
            metrics = self.evaluate()
        self.history.add_evaluation(
            {
                "step": position.step,
                "epoch": position.epoch + position.row / self.source.rows("train"),
            }
            | metrics
        )
        _LOG.info(
            "evaluation at step %d: AUC %s, log loss %.5f (%.1f s)",
            position.step,
            "undefined" if metrics["auc"] is None else f"{metrics['auc']:.5f}",
            metrics["log_loss"],
            time.perf_counter() - start,
        )
        fault_point("evaluation", position.step)

    def _evaluated(self, position: Position) -> bool:
        last = self.history.last
        rows = rows_or_none(self.source, "evaluation")
        if self.options.eval_steps:
            rows = min(rows, self.options.eval_steps * self.options.eval_batch_size)
        return bool(
            last and last["step"] == position.step and last.get("evaluation_examples") == rows
        )

    def _target_reached(self, position: Position) -> bool:
        if not self.options.target_auc or not self._evaluated(position):
            return False
        auc = self.history.last["auc"] if self.history.last else None
        return auc is not None and auc >= self.options.target_auc

    def _save_once(self, position: Position) -> None:
        """Writes a checkpoint of this step, unless there is one or no folder for it."""
        if not self.checkpoints or not position.step:
            return
        if (self.checkpoints.latest or "").endswith(f"-{position.step}"):
            return
        bad = "".join(self.processes.texts(self.find_non_finite() or ""))
        if bad:
            raise UserError(
                f"After step {position.step} {bad} has values that are not finite, so no "
                f"checkpoint of it was written; {self._last_good()}."
            )
        self.checkpoints.save(position)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Gives the list of stop signals that have come; a second SIGINT interrupts."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in _STOPS}

    def note(number: int, frame: object) -> None:
        received.append(number)
        if number == signal.SIGINT:
            _LOG.info("stopping after a checkpoint; a second SIGINT stops at once")
            signal.signal(number, signal.default_int_handler)

    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:  # as nohup and shells' background jobs ask for
                signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _profiler(options: RunOptions) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told every step and profiles the range of --profile_steps."""
    running = False

    def at(step: int) -> None:
        nonlocal running
        if not options.profile_steps:
            return
        first, last = options.profile_steps
        if not running and first - 1 <= step < last:
            tf.profiler.experimental.start(os.path.join(options.model_dir, "tensorboard"))
            running = True
        elif running and step >= last:
            tf.profiler.experimental.stop()
            running = False

    try:
        yield at
    finally:
        if running:
            tf.profiler.experimental.stop()
