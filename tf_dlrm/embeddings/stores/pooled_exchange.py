"""Bags whose owner pools them: their ids travel there and one vector of each comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.plan import MANY_IDS
from tf_dlrm.embeddings.range_check import check_pieces
from tf_dlrm.embeddings.requests import RowGradients
from tf_dlrm.embeddings.stack import Stack


def pooled_by_owner(stack: Stack, bags: Mapping[str, Bags]) -> list[str]:
    """Returns the names of the views of a stack whose bags their owner pools.

    These have many ids, and a table of which one device has all rows. Weighted bags are pooled
    where their weights are, whose gradients need the rows; those of sparse tensors too, which may
    be in any order.
    """
    names = []
    for view in stack.features:
        own = bags[view.name]
        many = own.splits is not None if own.hotness is None else own.hotness >= MANY_IDS
        if many and own.weights is None and view.name in stack.homes:
            names.append(view.name)
    return names


class PooledExchange:
    """The bags of some features of one stack, in one lookup of one replica.

    Owner `k` has `features[k]`. What a replica sends to it are the lengths of their bags
    [most, width] and the ids of all of them one after the other [size], where `most` is the
    largest number of features of an owner, and `width` and `size` are the largest numbers of bags
    and of ids of all replicas. Bags that there are not have no ids.

    Attributes:
        stack: The stack.
        names: Names of the views.
        sent: Number of ids for each owner, int32 [world].
        bags: Number of bags of each feature, int32 [world], all equal.
    """

    def __init__(
        self, stack: Stack, names: Sequence[str], bags: Mapping[str, Bags], world: int
    ) -> None:
        """Checks the ids.

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the
                table has no out-of-vocabulary row.
        """
        self.stack, self.names, self._world = stack, tuple(names), world
        self._features: list[list[StackedFeature]] = [[] for _ in range(world)]
        for feature in stack.features:
            if feature.name in names:
                home = stack.homes[feature.name]
                self._features[home.device].append(feature._replace(offset=home.offset))
        in_order = [feature for of_owner in self._features for feature in of_owner]
        entries = {f.name: bags[f.name] for f in in_order}
        self._entries = entries
        first = entries[in_order[0].name]
        self._batch, self._static_batch = first.batch, first.static_batch
        wide = stack.rows > tf.int32.max or any(
            entry.ids.dtype == tf.int64 for entry in entries.values()
        )
        dtype = tf.int64 if wide else tf.int32
        self.ids = check_pieces(in_order, list(entries.values()), dtype)
        self.sent = tf.stack(
            [
                tf.add_n([tf.constant(0), *(tf.size(entries[f.name].ids) for f in of_owner)])
                for of_owner in self._features
            ]
        )
        self.bags = tf.fill([world], self._batch)
        self._most = max(map(len, self._features))

    def set_sizes(self, size: tf.Tensor, width: tf.Tensor, counts: tf.Tensor) -> None:
        """Takes what all replicas agreed on.

        Args:
            size: int32 scalar, the largest number of ids of a piece.
            width: int32 scalar, the largest number of bags.
            counts: int32 [world], the number of ids that each replica sends to this one.
        """
        self._size, self._width, self._counts = size, width, counts

    @property
    def asked_size(self) -> tf.Tensor:
        """Elements of a piece of what is asked, int32 scalar."""
        return self._most * self._width + self._size

    @property
    def vectors_size(self) -> tf.Tensor:
        """Elements of a piece of vectors or gradients, int32 scalar."""
        return self._most * self._width * self.stack.dim

    def asks(self, dtype: tf.DType) -> tf.Tensor:
        """Returns lengths and ids for each owner, [world, asked_size]."""
        empty = tf.zeros([self._batch], dtype)
        lengths = [[tf.cast(self._lengths(f.name), dtype) for f in own] for own in self._features]
        padded = [own + [empty] * (self._most - len(own)) for own in lengths]
        by_owner = tf.pad(tf.stack(padded), [[0, 0], [0, 0], [0, self._width - self._batch]])
        ids = tf.split(tf.cast(self.ids, dtype), self.sent, num=self._world)
        of_owner = tf.stack([tf.pad(own, [[0, self._size - tf.size(own)]]) for own in ids])
        return tf.concat([tf.reshape(by_owner, [self._world, -1]), of_owner], 1)

    def _lengths(self, name: str) -> tf.Tensor:
        entry = self._entries[name]
        if entry.splits is not None:
            return entry.splits[1:] - entry.splits[:-1]
        return tf.fill([self._batch], entry.hotness)

    def receive(self, asked: tf.Tensor, replica: int) -> None:
        """Takes what all replicas ask of this one, [world, asked_size]."""
        self._own = self._features[replica]
        if not self._own:
            return
        bags = self._most * self._width
        lengths = tf.reshape(asked[:, :bags], [self._world, self._most, self._width])
        lengths = lengths[:, : len(self._own)]
        self.asked = tf.boolean_mask(asked[:, bags:], tf.sequence_mask(self._counts, self._size))
        self._segments = tf.repeat(
            tf.range(self._world * len(self._own) * self._width), tf.reshape(lengths, [-1])
        )
        self._factors = None
        if any(f.table.combiner != "sum" for f in self._own):
            counts = tf.cast(lengths, tf.float32)
            powers = {"sum": 0.0, "mean": -1.0, "sqrtn": -0.5}
            exponents = tf.constant([powers[f.table.combiner] for f in self._own])
            # Bags without ids are zeros whatever their factor.
            factors = tf.pow(tf.maximum(counts, 1.0), exponents[:, tf.newaxis])
            self._factors = factors[..., tf.newaxis]

    def serve(self, replica: int, dtype: tf.DType) -> tf.Tensor:
        """Returns the vectors for each replica, [world, vectors_size], of this one's rows."""
        if not self._own:
            return tf.zeros([self._world, self.vectors_size], dtype)
        shape = [self._world, len(self._own), self._width, self.stack.dim]
        summed = tf.math.unsorted_segment_sum(
            tf.gather(self.stack.on(replica).variable, self.asked),
            self._segments,
            tf.reduce_prod(shape[:-1]),
        )
        vectors = tf.reshape(summed, shape)
        if self._factors is not None:
            vectors = vectors * self._factors
        missing = self._most - len(self._own)
        vectors = tf.pad(vectors, [[0, 0], [0, missing], [0, 0], [0, 0]])
        return tf.cast(tf.reshape(vectors, [self._world, -1]), dtype)

    def vectors(self, served: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the vectors [batch, dim] of each feature from those of each owner."""
        shape = [self._world, self._most, self._width, self.stack.dim]
        served = tf.cast(tf.reshape(served, shape), tf.float32)
        found = {}
        for device, of_owner in enumerate(self._features):
            for number, feature in enumerate(of_owner):
                vector = served[device, number, : self._batch]
                found[feature.name] = tf.ensure_shape(vector, [self._static_batch, self.stack.dim])
        return found

    def pulls(self, gradients: Mapping[str, tf.Tensor], dtype: tf.DType) -> tf.Tensor:
        """Returns the gradients for each owner, [world, vectors_size], zeros where unused."""
        none = tf.zeros([self._batch, self.stack.dim])
        of_owners = [[gradients.get(f.name, none) for f in own] for own in self._features]
        padded = [own + [none] * (self._most - len(own)) for own in of_owners]
        stacked = tf.cast(tf.stack(padded), dtype)
        missing = self._width - self._batch
        return tf.reshape(
            tf.pad(stacked, [[0, 0], [0, 0], [0, missing], [0, 0]]), [self._world, -1]
        )

    def of_rows(self, pulled: tf.Tensor, used: Mapping[str, tf.Tensor]) -> list[RowGradients]:
        """Returns which rows of this replica were used, and their gradients; or an empty list.

        Args:
            pulled: What `pulls` of all replicas were, [world, vectors_size].
            used: By the names of the features that were used. The rows of others stay as they are.
        """
        are_used = [feature.name in used for feature in self._own]
        if not any(are_used):
            return []
        shape = [self._world, self._most, self._width, self.stack.dim]
        gradients = tf.cast(tf.reshape(pulled, shape)[:, : len(self._own)], tf.float32)
        if self._factors is not None:
            gradients = gradients * self._factors
        ids, segments = self.asked, self._segments
        if not all(are_used):
            feature = segments // self._width % len(self._own)
            kept = tf.gather(tf.constant(are_used), feature)
            ids, segments = tf.boolean_mask(ids, kept), tf.boolean_mask(segments, kept)
        of_bags = tf.reshape(gradients, [-1, self.stack.dim])
        return [RowGradients(self.stack, ids, tf.gather(of_bags, segments))]
