"""What the processes of a run tell each other, beside what the model's layers exchange."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tfrecords.tracing import traced_as_written

# What TensorFlow raises in the others when one process has ended.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)


class Processes:
    """The processes that run the same program together; mostly there is just one.

    Every method with a result is collective: all processes must call it, in the same order.

    Attributes:
        index: Number of this process; 0 is the one that writes the files of a run.
        count: Number of processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.index, self.count = 0, 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver = strategy.cluster_resolver
            self.index = int(resolver.task_id)
            self.count = len(resolver.cluster_spec().as_dict()["worker"])

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.index == 0

    def least(self, number: int) -> int:
        """Returns the least of the numbers that the processes give."""
        return number if self.count == 1 else int(np.min(self._gather([number])))

    def any(self, value: bool) -> bool:
        """Returns whether any process gives True."""
        return self.least(-int(value)) < 0

    def texts(self, text: str) -> list[str]:
        """Returns the texts that the processes give, by their number."""
        if self.count == 1:
            return [text]
        data = np.frombuffer(text.encode("utf-8"), np.uint8)
        sizes = self._gather([data.size])[:, 0]
        # At least one: TensorFlow 2.21 crashes where it gathers nothing.
        padded = np.pad(data, (0, max(1, int(sizes.max())) - data.size))
        rows = self._gather(padded)
        return [
            row[:size].astype(np.uint8).tobytes().decode("utf-8")
            for row, size in zip(rows, sizes, strict=True)
        ]

    def check_equal(self, values: Mapping[str, str]) -> None:
        """Refuses to go on where a value is not the same in all processes.

        Args:
            values: By what a message calls them, values such as those of the flags.

        Raises:
            UserError: in every process, with the name and both values.
        """
        everyones = [json.loads(text) for text in self.texts(json.dumps(dict(values)))]
        for index, theirs in enumerate(everyones):
            for name in {**everyones[0], **theirs}:
                first, other = everyones[0].get(name), theirs.get(name)
                if first != other:
                    raise UserError(
                        f"{name} is {first!r} in worker 0, but {other!r} in worker {index}; all "
                        "workers need the same."
                    )

    @contextlib.contextmanager
    def readable_errors(self, what_remains: str) -> Iterator[None]:
        """Turns the error that the end of another process causes into a sentence."""
        try:
            yield
        except LOST as error:
            if isinstance(self._strategy, tf.distribute.ParameterServerStrategy):
                raise UserError(
                    "The chief can no longer reach a parameter server, or no worker "
                    f"({first_line(error)}); their own last lines say why. {what_remains}"
                ) from error
            if self.count == 1:
                raise
            raise UserError(
                f"Worker {self.index} can no longer work with the other {self.count - 1} "
                f"({first_line(error)}); most likely one of them has ended, and its own last lines "
                f"say why. {what_remains}"
            ) from error

    def _gather(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns what the processes give, equally many numbers each: int64 [count, n]."""
        with self.readable_errors("Start all again."):
            return self._all_gather(tf.constant(numbers, tf.int64)).numpy()

    @tf.function(reduce_retracing=True)
    @traced_as_written
    def _all_gather(self, numbers: tf.Tensor) -> tf.Tensor:
        def gather() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_gather(numbers[tf.newaxis], axis=0)

        gathered = self._strategy.experimental_local_results(self._strategy.run(gather))[0]
        # A process may have several replicas, which all give its numbers.
        return gathered[:: self._strategy.num_replicas_in_sync // self.count]
