"""Every replica hands a piece of a tensor to every other one."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import tensorflow as tf
from tensorflow.python.ops import collective_ops

# Group keys name communicators of the whole process, so there is one count of them. Processes that
# work together create their tables in one order, and thus agree on the keys. TensorFlow's own
# strategies have small keys.
_GROUP_KEYS = itertools.count(700_001)


class AllToAll(Protocol):
    """How tensors move between replicas.

    Attributes:
        world: Number of replicas.
    """

    world: int

    def replica(self) -> int | None:
        """Returns the number of the replica in whose context this is called, or None."""
        ...

    def exchange(self, pieces: tf.Tensor) -> tf.Tensor:
        """Hands out pieces and returns those received.

        Args:
            pieces: Tensor [world, ...] of the same shape on every replica; piece `k` is for
                replica `k`.

        Returns:
            A tensor of that shape; piece `k` is from replica `k`.
        """
        ...


class InProcessAllToAll:
    """All-to-all between the replicas of a `MirroredStrategy`.

    Attributes:
        world: Number of replicas.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        """Creates one communicator for each replica; call it outside of replica contexts."""
        self.world: int = strategy.num_replicas_in_sync
        self._strategy = strategy
        # For each replica, the last exchange that was traced and, weakly, in which graph.
        self._last: dict[int | None, tuple[weakref.ref[Any], tf.Tensor]] = {}
        group = next(_GROUP_KEYS)

        @tf.function
        def initialize() -> tf.Tensor:
            return strategy.run(
                lambda: collective_ops.initialize_communicator(group, self.replica(), self.world)
            )

        self._communicators = strategy.experimental_local_results(initialize())

    def replica(self) -> int | None:
        """See `AllToAll.replica`."""
        context = tf.distribute.get_replica_context()
        # Without a strategy there is a replica context too, that of the default strategy.
        if context is None or context.strategy is not self._strategy:
            return None
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    def exchange(self, pieces: tf.Tensor) -> tf.Tensor:
        """See `AllToAll.exchange`.

        Raises:
            ValueError: Where TensorFlow runs eagerly: one replica would wait for the next for ever.
        """
        if self.world == 1:
            return pieces
        if tf.executing_eagerly():
            raise ValueError(
                "Tables that are cut over replicas need a compiled step: call strategy.run within "
                "a tf.function, and do not ask Keras to run eagerly."
            )
        replica = self.replica()
        graph = tf.compat.v1.get_default_graph()
        # TensorFlow pairs exchanges by their order in time on each replica. Data alone does not
        # order them: the gradients of copied tables, for one, don't depend on the ids received.
        last = self._last.get(replica)
        after = [last[1]] if last and last[0]() is graph else []
        with tf.control_dependencies(after):
            received = collective_ops.all_to_all_v3(
                self._communicators[replica],
                pieces,
                # All replicas are one group. They are of one process, which knows their ranks.
                tf.zeros([0, 0], tf.int32),
            )
        self._last[replica] = (weakref.ref(graph), received)
        return received
