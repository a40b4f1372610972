"""What one replica asks of the others for one stack, they of it, and what they answer.

An exchange is one lookup of one replica into one stack, and its update. Tensors [world, size] are
pieces for each replica, or from each. All sizes are int32 scalars, the largest of all replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.plan import MANY_IDS
from tf_dlrm.embeddings.range_check import check_pieces
from tf_dlrm.embeddings.stack import Stack


class RowExchange:
    """Different rows of a stack, each by its number, and one gradient of each.

    Attributes:
        stack: The stack.
        ids: int32 or int64 [u], the number of each different row on its device.
        sizes: int32 [world] each: numbers of which all replicas must know the largest; the first
            is the number of ids for each owner.
        asked_size: Size of a piece of what is asked, known once replicas agreed.
        served_size: Size of a piece of what is answered, and of gradients.
    """

    def __init__(self, stack: Stack, ids: tf.Tensor, world: int) -> None:
        """Makes ids [n] unique, and finds their owners."""
        self.stack, self._world = stack, world
        # Of the different rows [u], which one each id is, [n].
        unique, self._index = tf.unique(ids)
        self._count = tf.size(unique)
        if stack.copied:
            self.ids = unique
            self.sizes = [tf.fill([world], self._count)]
            return
        route = stack.route(unique)
        self.ids = route.row
        self._device = route.device
        sent = tf.math.bincount(route.device, minlength=world, maxlength=world)
        self.sizes = [sent]
        # The number of each row among those of its device.
        order = tf.argsort(route.device, stable=True)
        begin = tf.cumsum(sent, exclusive=True)
        self._rank = tf.math.invert_permutation(order) - tf.gather(begin, route.device)

    def agree(self, largest: Sequence[tf.Tensor], counts: tf.Tensor) -> None:
        """Takes the largest of each of `sizes`, and the numbers of ids for this replica [world]."""
        (self.asked_size,), self._counts = largest, counts
        self.served_size = self.asked_size * self.stack.dim

    def asks(self, dtype: tf.DType) -> tf.Tensor:
        """Returns what each owner is asked, [world, asked_size]."""
        return self._to_owners(tf.cast(self.ids, dtype))

    def receive(self, asked: tf.Tensor, replica: int) -> None:
        """Takes what all replicas ask of this one, [world, asked_size]."""
        self._asked = asked

    def serve(self, replica: int, dtype: tf.DType) -> tf.Tensor:
        """Returns the answers for each replica, [world, served_size]."""
        shard = self.stack.shards[replica]
        size = [self._world, self.served_size]
        if shard is None:
            return tf.zeros(size, dtype)
        return tf.cast(tf.reshape(tf.gather(shard.variable, self._asked), size), dtype)

    def found(self, served: tf.Tensor) -> tf.Tensor:
        """Returns what `Tables.read` wants from the answers of all owners: rows [n, dim]."""
        flat = tf.reshape(served, [-1, self.stack.dim])
        return tf.cast(tf.gather(flat, tf.gather(self._place(), self._index)), tf.float32)

    def pulls(self, gradients: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns the gradients for each owner, [world, served_size], of gradients [n, dim]."""
        summed = tf.math.unsorted_segment_sum(gradients, self._index, self._count)
        return self._to_owners(tf.cast(summed, dtype))

    def of_rows(
        self, pulled: tf.Tensor, gradients: tf.Tensor, replica: int
    ) -> tuple[tf.Tensor, tf.Tensor] | None:
        """Returns this replica's rows [n] that were used, and their gradients [n, dim], if any.

        Args:
            pulled: What `pulls` of all replicas were, [world, served_size].
            gradients: What went into `pulls` here.
            replica: Number of this replica.
        """
        if self.stack.shards[replica] is None:
            return None
        there = tf.sequence_mask(self._counts, self.asked_size)
        pulled = tf.reshape(pulled, [-1, self.asked_size, self.stack.dim])
        own = tf.cast(tf.boolean_mask(pulled, there), tf.float32)
        return tf.boolean_mask(self._asked, there), own

    def _place(self) -> tf.Tensor:
        """Returns the place [u] of each unique row in what is sent and received, int32."""
        return self._device * self.asked_size + self._rank

    def _to_owners(self, values: tf.Tensor) -> tf.Tensor:
        """Lays out values of the unique ids in pieces, [world, size * width]."""
        width = values.shape[1:].num_elements()
        shape = [self._world, self.asked_size * width]
        if self.stack.copied:
            padding = [[0, self.asked_size - self._count]]
            padding += [[0, 0]] * (values.shape.rank - 1)
            return tf.tile(tf.reshape(tf.pad(values, padding), [1, -1]), [self._world, 1])
        size = [self._world * self.asked_size, *values.shape[1:]]
        return tf.reshape(tf.scatter_nd(self._place()[:, tf.newaxis], values, size), shape)


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
    """Bags of features that their owner pools, and one vector of each.

    Attributes and methods are those of `RowExchange`.

    Owner `k` has `features[k]`. What a replica sends to it are the lengths of their bags
    [most, width] and the ids of all of them one after the other [size], where `most` is the
    largest number of features of an owner, and `width` and `size` are the largest numbers of bags
    and of ids of all replicas. Bags that there are not have no ids.
    """

    def __init__(
        self,
        stack: Stack,
        features: Sequence[StackedFeature],
        bags: Mapping[str, Bags],
        world: int,
    ) -> None:
        """Checks the ids.

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the
                table has no out-of-vocabulary row.
        """
        self.stack, self._world = stack, world
        self._features: list[list[StackedFeature]] = [[] for _ in range(world)]
        for feature in features:
            home = stack.homes[feature.name]
            self._features[home.device].append(feature._replace(offset=home.offset))
        in_order = [feature for of_owner in self._features for feature in of_owner]
        self._entries = entries = {f.name: bags[f.name] for f in in_order}
        first = entries[in_order[0].name]
        self._batch, self._static_batch = first.batch, first.static_batch
        wide = stack.rows > tf.int32.max or any(
            entry.ids.dtype == tf.int64 for entry in entries.values()
        )
        dtype = tf.int64 if wide else tf.int32
        self.ids = check_pieces(in_order, list(entries.values()), dtype)
        sent = tf.stack(
            [
                tf.add_n([tf.constant(0), *(tf.size(entries[f.name].ids) for f in of_owner)])
                for of_owner in self._features
            ]
        )
        self.sizes = [sent, tf.fill([world], self._batch)]
        self._most = max(map(len, self._features))

    def agree(self, largest: Sequence[tf.Tensor], counts: tf.Tensor) -> None:
        """See `RowExchange.agree`."""
        (self._size, self._width), self._counts = largest, counts
        self.asked_size = self._most * self._width + self._size
        self.served_size = self._most * self._width * self.stack.dim

    def asks(self, dtype: tf.DType) -> tf.Tensor:
        """Returns lengths and ids for each owner, [world, asked_size]."""
        empty = tf.zeros([self._batch], dtype)
        lengths = [[tf.cast(self._lengths(f.name), dtype) for f in own] for own in self._features]
        padded = [own + [empty] * (self._most - len(own)) for own in lengths]
        by_owner = tf.pad(tf.stack(padded), [[0, 0], [0, 0], [0, self._width - self._batch]])
        ids = tf.split(tf.cast(self.ids, dtype), self.sizes[0], num=self._world)
        of_owner = tf.stack([tf.pad(own, [[0, self._size - tf.size(own)]]) for own in ids])
        return tf.concat([tf.reshape(by_owner, [self._world, -1]), of_owner], 1)

    def _lengths(self, name: str) -> tf.Tensor:
        entry = self._entries[name]
        if entry.splits is not None:
            return entry.splits[1:] - entry.splits[:-1]
        return tf.fill([self._batch], entry.hotness)

    def receive(self, asked: tf.Tensor, replica: int) -> None:
        """See `RowExchange.receive`."""
        self._own = self._features[replica]
        if not self._own:
            return
        bags = self._most * self._width
        lengths = tf.reshape(asked[:, :bags], [self._world, self._most, self._width])
        lengths = lengths[:, : len(self._own)]
        self._asked = tf.boolean_mask(asked[:, bags:], tf.sequence_mask(self._counts, self._size))
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
        """See `RowExchange.serve`."""
        if not self._own:
            return tf.zeros([self._world, self.served_size], dtype)
        shape = [self._world, len(self._own), self._width, self.stack.dim]
        summed = tf.math.unsorted_segment_sum(
            tf.gather(self.stack.on(replica).variable, self._asked),
            self._segments,
            tf.reduce_prod(shape[:-1]),
        )
        vectors = tf.reshape(summed, shape)
        if self._factors is not None:
            vectors = vectors * self._factors
        missing = self._most - len(self._own)
        vectors = tf.pad(vectors, [[0, 0], [0, missing], [0, 0], [0, 0]])
        return tf.cast(tf.reshape(vectors, [self._world, -1]), dtype)

    def found(self, served: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the vectors [batch, dim] of each feature."""
        shape = [self._world, self._most, self._width, self.stack.dim]
        served = tf.cast(tf.reshape(served, shape), tf.float32)
        found = {}
        for device, of_owner in enumerate(self._features):
            for number, feature in enumerate(of_owner):
                vector = served[device, number, : self._batch]
                found[feature.name] = tf.ensure_shape(vector, [self._static_batch, self.stack.dim])
        return found

    def pulls(self, gradients: Mapping[str, tf.Tensor], dtype: tf.DType) -> tf.Tensor:
        """See `RowExchange.pulls`; zeros for features that were not used."""
        none = tf.zeros([self._batch, self.stack.dim])
        of_owners = [[gradients.get(f.name, none) for f in own] for own in self._features]
        padded = [own + [none] * (self._most - len(own)) for own in of_owners]
        stacked = tf.cast(tf.stack(padded), dtype)
        missing = self._width - self._batch
        return tf.reshape(
            tf.pad(stacked, [[0, 0], [0, 0], [0, missing], [0, 0]]), [self._world, -1]
        )

    def of_rows(
        self, pulled: tf.Tensor, gradients: Mapping[str, tf.Tensor], replica: int
    ) -> tuple[tf.Tensor, tf.Tensor] | None:
        """See `RowExchange.of_rows`; the rows of features that were not used stay as they are."""
        are_used = [feature.name in gradients for feature in self._own]
        if not any(are_used):
            return None
        shape = [self._world, self._most, self._width, self.stack.dim]
        of_bags = tf.cast(tf.reshape(pulled, shape)[:, : len(self._own)], tf.float32)
        if self._factors is not None:
            of_bags = of_bags * self._factors
        ids, segments = self._asked, self._segments
        if not all(are_used):
            feature = segments // self._width % len(self._own)
            kept = tf.gather(tf.constant(are_used), feature)
            ids, segments = tf.boolean_mask(ids, kept), tf.boolean_mask(segments, kept)
        return ids, tf.gather(tf.reshape(of_bags, [-1, self.stack.dim]), segments)


Exchange = RowExchange | PooledExchange
