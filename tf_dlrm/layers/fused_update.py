"""The update of tables as a part of the backward pass: one, however often they were looked up.

Each vector that a lookup returns goes through an operation whose gradient function keeps the
gradient that comes back. All of these operations also hang on one scalar, the anchor, and a tape,
as TensorFlow's gradients of graphs, asks for the gradient of a tensor once all of its uses have had
theirs. So the anchor's gradient function runs last, and once: it makes the update. A feature that
nobody used is never heard of and not updated.

Where another tape may have been opened since the anchor was made, the next lookups hang on a tensor
that is made of the anchor and of a new read of the scalar. A tape that knows the anchor asks for
its gradient later; for one that does not, that tensor is the anchor.
"""

from __future__ import annotations

import collections
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.lookup import Lookup, Placement, Pulled
from tf_dlrm.internals import (
    AskedGradient,
    asked_gradients,
    is_in_branch_or_loop,
    knows,
    tapes_that_record,
)
from tf_dlrm.kernels.use import is_saving


class FusedUpdate:
    """Joins lookups to the backward passes that will update what they found."""

    def __init__(self, name: str) -> None:
        """Joins nothing yet; `name` is that of the layer, for messages."""
        self._name = name
        # The newest anchor of each thread; tapes and graphs keep it alive. Each replica of a
        # MirroredStrategy is a thread.
        self._newest: weakref.WeakValueDictionary[int, _Anchor] = weakref.WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, as of the layer, begins without any lookup."""
        return FusedUpdate, (self._name,)

    def lookup(
        self,
        placement: Placement,
        bags: Mapping[str, Bags],
        trap: tf.Tensor,
        variable: Any,
        rates: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, tf.Tensor]:
        """Looks up bags, so that the next gradient by the scalar weight updates what was found.

        Args:
            placement: The tables.
            bags: The bags of each feature by name.
            trap: A fresh read of the scalar weight that makes tapes record what depends on it.
            variable: The weight. A tape that is asked for other gradients only updates nothing.
            rates: Returns the context of an update, which may change learning rates; that of the
                first of several lookups counts.

        Returns:
            For each feature, float32 [batch, dim].
        """
        if tf.executing_eagerly() and not tapes_that_record(trap):
            return placement.lookup(bags).vectors
        anchor = self._newest.get(threading.get_ident())
        if anchor is None or not anchor.serves():
            anchor = _Anchor(self._name, placement, trap, variable, rates)
            self._newest[threading.get_ident()] = anchor
        else:
            anchor.meet(trap)
        return anchor.join(placement.lookup(bags))


class _Anchor:
    """What all lookups hang on whose gradients go into one update."""

    def __init__(
        self,
        name: str,
        placement: Placement,
        trap: tf.Tensor,
        variable: Any,
        rates: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._name = name
        self._placement = placement
        self._variable = variable
        self._rates = rates
        self._graph = weakref.ref(tf.compat.v1.get_default_graph())
        self._lookups: list[Lookup] = []
        # The gradients of a graph may be traced several times, each time into a graph of their own;
        # eager ones are all in one that never has operations.
        self._passes: weakref.WeakKeyDictionary[Any, _BackwardPass] = weakref.WeakKeyDictionary()

        self._tensor = self._hung(self._update, trap)

    def serves(self) -> bool:
        """Returns whether a backward pass may still come by this anchor and by what is new."""
        graph = tf.compat.v1.get_default_graph()
        if self._graph() is not graph:
            return False
        if graph in self._passes and len(self._passes[graph].done) == len(self._lookups):
            return False
        # Who calls a graph may have a tape that cannot be seen here.
        return not tf.executing_eagerly() or tapes_that_record(self._tensor) > 0

    def meet(self, trap: tf.Tensor) -> None:
        """Lets tapes that were opened since, and see this read, come by this anchor too."""
        before = self._tensor
        if tapes_that_record(before) == tapes_that_record(trap) < 2:
            return  # the same one, or none

        def gradient(upstream: tf.Tensor) -> Sequence[tf.Tensor | None]:
            asked = asked_gradients()
            if not asked or knows(asked[0].tape, before):
                return upstream, None
            return upstream, self._update(upstream)

        self._tensor = self._hung(gradient, before, trap)

    def join(self, lookup: Lookup) -> dict[str, tf.Tensor]:
        """Returns the vectors of a lookup, hanging on the anchor."""
        number = len(self._lookups)
        self._lookups.append(lookup)
        anchor = self._tensor
        weighted = {n: b.weights for n, b in lookup.bags.items() if b.weights is not None}
        if weighted:
            anchor = self._join_weights(lookup, number, weighted)

        def joined(name: str) -> tf.Tensor:
            @tf.custom_gradient
            def used(anchor: tf.Tensor, vector: tf.Tensor) -> tuple[tf.Tensor, Any]:
                def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
                    if is_saving():
                        return tf.zeros(()), None
                    current = self._pass()
                    current.pulled[number][name] = tf.convert_to_tensor(upstream)
                    return current.zero, None

                return tf.identity(vector), gradient

            return used(anchor, lookup.vectors[name])

        return {name: joined(name) for name in lookup.vectors}

    def _join_weights(
        self, lookup: Lookup, number: int, weighted: Mapping[str, tf.Tensor]
    ) -> tf.Tensor:
        """Returns an anchor of the lookup's own, whose gradient function is that of the weights."""

        def gradient(upstream: tf.Tensor) -> Sequence[tf.Tensor | None]:
            found = self._placement.weight_gradients(lookup, self._pass().pulled[number])
            with tf.control_dependencies(list(found.values())):  # rows before the update
                upstream = tf.identity(upstream)
            return (upstream, *(found.get(name) for name in weighted))

        return self._hung(gradient, self._tensor, *weighted.values())

    def _hung(self, gradient: Callable[[tf.Tensor], Any], *tensors: tf.Tensor) -> tf.Tensor:
        """Returns the first tensor, with a function of the gradients of all.

        SavedModels hold the gradients of what they compute. The real ones would update the tables,
        by variables that are not part of every export, so those fail.
        """

        @tf.custom_gradient
        def hung(*tensors: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def pulled(upstream: tf.Tensor) -> Any:
                return self._refused(tensors) if is_saving() else gradient(upstream)

            return tf.identity(tensors[0]), pulled

        return hung(*tensors)

    def _refused(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        refusal = tf.debugging.Assert(
            False,
            [
                f"The tables of '{self._name}' cannot be trained in a SavedModel. Train the Keras "
                "model, which .keras files hold whole, or take no gradient with respect to its "
                "weights."
            ],
        )
        with tf.control_dependencies([refusal]):
            return [tf.zeros_like(tensor) for tensor in tensors]

    def _pass(self) -> _BackwardPass:
        """Returns the backward pass whose gradients are computed now."""
        graph = tf.compat.v1.get_default_graph()
        if graph not in self._passes:
            self._passes[graph] = _BackwardPass()
        return self._passes[graph]

    def _update(self, upstream: tf.Tensor) -> tf.Tensor:
        """Makes the update, and returns the anchor's gradient, 0, once it is made."""
        current = self._pass()
        pulled, current.pulled = current.pulled, collections.defaultdict(dict)
        asked = asked_gradients()
        if not all(_is_among(self._variable, entry.sources) for entry in asked):
            return tf.zeros(())
        self._check(asked, current, pulled)
        current.done |= set(pulled)
        parts = [Pulled(self._lookups[number], pulled[number]) for number in sorted(pulled)]
        if tf.compat.v1.get_default_graph() is self._graph():
            with tf.control_dependencies([upstream]), self._rates():
                self._placement.update(parts)
            return tf.zeros(())

        if is_in_branch_or_loop():
            raise NotImplementedError(
                f"Layer '{self._name}' was called in a branch or a loop of a graph (tf.cond, "
                "tf.while_loop, tf.map_fn, or an `if` or `for` that AutoGraph made one of), whose "
                "gradient was taken outside, where tables cannot be updated. Call the layer before "
                "the branch or loop, on all ids; or take the gradient within it; or call the layer "
                "with training=False."
            )

        # A function whose caller has the tape: nothing runs in the graph of its gradients but what
        # a gradient needs, in any order. In a function of its own the update is whole.
        @tf.function(autograph=False)
        def update() -> tf.Tensor:
            with self._rates():
                self._placement.update(parts)
            return tf.zeros(())

        with tf.control_dependencies([upstream]):
            return update()

    def _check(
        self,
        asked: Sequence[AskedGradient],
        current: _BackwardPass,
        pulled: Mapping[int, Mapping[str, tf.Tensor]],
    ) -> None:
        """Refuses what would update the same rows several times."""
        if any(entry.is_jacobian for entry in asked):
            # Of a ValueError, TensorFlow makes one that tells nothing.
            raise NotImplementedError(
                f"The jacobian by the weights of layer '{self._name}' would update its tables once "
                "for each element of the target. Take the jacobian by other things only, or call "
                "the layer with training=False."
            )
        if current.done.intersection(pulled):
            raise ValueError(
                f"The tables of layer '{self._name}' have been updated by the backward pass "
                "through this call already, and another one would update them again. Ask the tape "
                "once, for the gradients of all variables, of the sum of the losses; or call the "
                "layer again before the second gradient, or leave the layer's weights out of what "
                "the second gradient is taken by."
            )


class _BackwardPass:
    """What has come back to the lookups of an anchor.

    Attributes:
        pulled: By number of the lookup, the gradient of each feature that was used.
        zero: The anchor's gradient.
        done: Numbers of the lookups that have had their update.
    """

    def __init__(self) -> None:
        self.pulled: dict[int, dict[str, tf.Tensor]] = collections.defaultdict(dict)
        self.zero = tf.zeros(())
        self.done: set[int] = set()


def _is_among(variable: Any, sources: Sequence[Any]) -> bool:
    """Returns whether a variable is one of the sources of a gradient, as a tape takes them."""
    handle = getattr(variable, "handle", variable)
    return any(
        source is variable or getattr(source, "handle", source) is handle for source in sources
    )
