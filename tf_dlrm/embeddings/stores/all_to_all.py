"""Every replica hands a piece of a tensor to every other one."""

from __future__ import annotations

import abc
import itertools
import math
import weakref
from typing import Any

import tensorflow as tf

from tf_dlrm.internals import all_to_all_v2, all_to_all_v3, initialize_communicator

# Group keys name communicators of the whole process, so there is one count of them. Processes that
# work together create their tables in one order, and thus agree on the keys. TensorFlow's own
# strategies have small keys. Each all-to-all has as many keys as it may need.
_SITES = 16
_DTYPES = (tf.int32, tf.int64, tf.float32, tf.bfloat16)
_GROUP_KEYS = itertools.count(700_001, _SITES * len(_DTYPES))


class AllToAll(abc.ABC):
    """How tensors move between the replicas of a strategy.

    Attributes:
        world: Number of replicas, those of all processes.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        """Prepares exchanges; call it outside of replica contexts, and in every process."""
        self.world: int = strategy.num_replicas_in_sync
        self._strategy = strategy

    def replica(self) -> int | None:
        """Returns the number of the replica in whose context this is called, or None."""
        context = tf.distribute.get_replica_context()
        # Without a strategy there is a replica context too, that of the default strategy.
        if context is None or context.strategy is not self._strategy:
            return None
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    def exchange(self, pieces: tf.Tensor) -> tf.Tensor:
        """Hands out pieces and returns those received.

        Args:
            pieces: Tensor [world, ...] of the same shape on every replica, not empty; piece `k`
                is for replica `k`.

        Returns:
            A tensor of that shape; piece `k` is from replica `k`.

        Raises:
            ValueError: Where TensorFlow runs eagerly: one replica would wait for the next for ever,
                or be paired with another step.
        """
        if self.world == 1:
            return pieces
        if tf.executing_eagerly():
            raise ValueError(
                "Tables that are cut over replicas need a compiled step: call strategy.run within "
                "a tf.function, and do not ask Keras to run eagerly."
            )
        return self._exchange(pieces)

    @abc.abstractmethod
    def _exchange(self, pieces: tf.Tensor) -> tf.Tensor: ...


class InProcessAllToAll(AllToAll):
    """All-to-all between the replicas of a `MirroredStrategy`."""

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        super().__init__(strategy)
        # For each replica, the last exchange that was traced and, weakly, in which graph.
        self._last: dict[int | None, tuple[weakref.ref[Any], tf.Tensor]] = {}
        group = next(_GROUP_KEYS)

        @tf.function(autograph=False)
        def initialize() -> tf.Tensor:
            return strategy.run(lambda: initialize_communicator(group, self.replica(), self.world))

        self._communicators = strategy.experimental_local_results(initialize())

    def _exchange(self, pieces: tf.Tensor) -> tf.Tensor:
        replica = self.replica()
        graph = tf.compat.v1.get_default_graph()
        # TensorFlow pairs exchanges by their order in time on each replica. Data alone does not
        # order them: the gradients of copied tables, for one, don't depend on the ids received.
        last = self._last.get(replica)
        after = [last[1]] if last and last[0]() is graph else []
        with tf.control_dependencies(after):
            received = all_to_all_v3(
                self._communicators[replica],
                pieces,
                # All replicas are one group. They are of one process, which knows their ranks.
                tf.zeros([0, 0], tf.int32),
            )
        self._last[replica] = (weakref.ref(graph), received)
        return received


class CrossProcessAllToAll(AllToAll):
    """All-to-all between the replicas of a `MultiWorkerMirroredStrategy`, over TensorFlow's gRPC.

    TensorFlow pairs exchanges by a group key and an instance key, and remembers the shape of each
    instance for ever. So the group key is the place of the exchange in its graph, and the
    instance key the number of elements, which is rounded up so that there are few of them.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        super().__init__(strategy)
        # Processes make them equally often, in the same order.
        self._first_key = next(_GROUP_KEYS)
        # For each replica, how many exchanges its newest graph has and, weakly, that graph.
        self._sites: dict[int | None, tuple[weakref.ref[Any], int]] = {}

    def _exchange(self, pieces: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(pieces)
        flat = tf.reshape(pieces, [self.world, -1])
        if pieces.shape[1:].is_fully_defined():
            size = padded = tf.constant(pieces.shape[1:].num_elements())
        else:
            size = tf.shape(flat)[1]
            padded = _rounded_up(size)
            flat = tf.pad(flat, [[0, 0], [0, padded - size]])
        received = all_to_all_v2(
            flat,
            group_size=self.world,
            group_key=self._first_key + self._site() * len(_DTYPES) + _DTYPES.index(pieces.dtype),
            instance_key=padded,
        )
        received = tf.reshape(received[:, :size], shape)
        return tf.ensure_shape(received, pieces.shape)

    def _site(self) -> int:
        """Returns the number of this exchange in the graph, the same in every process."""
        replica = self.replica()
        graph = tf.compat.v1.get_default_graph()
        last, count = self._sites.get(replica, (None, 0))
        if last is None or last() is not graph:
            count = 0
        self._sites[replica] = (weakref.ref(graph), count + 1)
        return count % _SITES


def _rounded_up(size: tf.Tensor) -> tf.Tensor:
    """Returns `size`, int32, rounded up to a number of at most four significant bits."""
    at_least_one = tf.maximum(size, 1)
    bits = tf.cast(tf.math.log(tf.cast(at_least_one, tf.float32)) / math.log(2.0), tf.int32)
    step = tf.bitwise.left_shift(1, tf.maximum(bits - 3, 0))
    return (at_least_one + step - 1) // step * step
