"""The ids of many features in one stack of tables as one list, and the way back to bags.

One gather and one update serve all features of a stack. `StackBatch` lays the ids of the features
out in three groups: one-hot features of equal batch as a matrix [features, batch], whose vectors
need no arithmetic at all; features of fixed hotness, summed by a reshape; and everything else
(ragged, sparse, weighted), summed by one segment operation.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.range_check import check_matrix, check_pieces
from tf_dlrm.embeddings.restack import restack


class StackBatch:
    """One batch of ids of all features of a stack, each with a number of bags of its own.

    Attributes:
        features: The features.
        ids: int32 or int64 tensor [n] of rows of the stack, all in range.
    """

    def __init__(
        self,
        features: Sequence[StackedFeature],
        bags: Mapping[str, Bags],
        stack_rows: int,
        dim: int,
        axis: int = 0,
    ) -> None:
        """Lays out and checks the ids, of features in any order with bags by name.

        One-hot features of equal batch are a matrix: [features, batch], which updates want, or with
        `axis` 1 [batch, features], which the interaction of a small batch wants.

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the
                table has no out-of-vocabulary row.
        """
        self.features = tuple(features)
        self._dim = dim
        self._axis = axis
        self._bags = bags
        # By the tensor that is their batch.
        one_hot: dict[int, list[StackedFeature]] = {}
        self._fixed = []
        self._general = []
        for feature in features:
            entry = bags[feature.name]
            if entry.weights is not None or entry.hotness is None:
                self._general.append(feature)
            elif entry.hotness == 1:
                one_hot.setdefault(id(entry.batch), []).append(feature)
            else:
                self._fixed.append(feature)
        self._one_hot = list(one_hot.values())
        # Ids are compared with the table in their own type: a cast first could wrap them into it.
        wide = stack_rows > tf.int32.max or any(
            bags[f.name].ids.dtype == tf.int64 for f in features
        )
        dtype = tf.int64 if wide else tf.int32
        pieces = []
        for group in self._one_hot:
            # The sentence about unequal batches comes before what `stack` itself would say.
            with tf.control_dependencies([bags[group[0].name].batch]):
                matrix = restack([tf.cast(bags[f.name].ids, dtype) for f in group], axis)
            pieces.append(tf.reshape(check_matrix(group, matrix, axis), [-1]))
        rest = self._fixed + self._general
        if rest:
            pieces.append(check_pieces(rest, [bags[f.name] for f in rest], dtype))
        self.ids = pieces[0] if len(pieces) == 1 else tf.concat(pieces, 0)
        if self._general:
            self._prepare_general()

    def _prepare_general(self) -> None:
        """Computes segments, weights and the factor of each bag of the general group."""
        entries = [self._bags[f.name] for f in self._general]
        self._batches = [entry.batch for entry in entries]
        segments, self._bag_count = [], tf.constant(0)
        for entry in entries:
            segments.append(entry.bag_indices() + self._bag_count)
            self._bag_count += entry.batch
        self._segments = tf.concat(segments, 0)
        self._weights = None
        if any(entry.weights is not None for entry in entries):
            self._weights = tf.concat(
                [tf.ones(tf.shape(e.ids), tf.float32) if e.weights is None else e.weights
                 for e in entries], 0
            )  # fmt: skip
        combiners = [f.table.combiner for f in self._general]
        # [bags], or None: all ones.
        self._factors = None
        if all(combiner == "sum" for combiner in combiners):
            return
        ones = tf.ones(tf.shape(self._segments), tf.float32)
        weights = ones if self._weights is None else self._weights
        total = self._by_feature(self._segment_sum(weights))
        squares = self._by_feature(self._segment_sum(tf.square(weights)))
        self._factors = tf.concat(
            [
                tf.ones([batch])
                if combiner == "sum"
                else tf.math.divide_no_nan(1.0, whole if combiner == "mean" else tf.sqrt(square))
                for combiner, batch, whole, square in zip(
                    combiners, self._batches, total, squares, strict=True
                )
            ],
            0,
        )

    def _segment_sum(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the sum of each bag of the general group, [bags, ...]."""
        return tf.math.unsorted_segment_sum(values, self._segments, self._bag_count)

    def _by_feature(self, of_bags: tf.Tensor) -> list[tf.Tensor]:
        """Divides values of the bags of the general group among its features."""
        return tf.split(of_bags, tf.stack(self._batches), num=len(self._general))

    def _split(self, rows: tf.Tensor) -> list[tf.Tensor]:
        """Divides what is of ids among one-hot groups, fixed features, and all general ones."""
        sizes = [self._bags[group[0].name].batch * len(group) for group in self._one_hot]
        for feature in self._fixed:
            entry = self._bags[feature.name]
            sizes.append(entry.batch * entry.hotness)
        if self._general:
            sizes.append(tf.shape(self._segments)[0])
        return [rows] if len(sizes) == 1 else tf.split(rows, tf.stack(sizes), num=len(sizes))

    def _fixed_factor(self, feature: StackedFeature) -> float:
        hotness = self._bags[feature.name].hotness or 0
        return {"sum": 1.0, "mean": 1.0 / hotness, "sqrtn": hotness**-0.5}[feature.table.combiner]

    def pool(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns for each feature the vectors [batch, dim] of its bags, of the rows [n, dim]."""
        parts = self._split(rows)
        vectors: dict[str, tf.Tensor] = {}
        for group in self._one_hot:
            batch = self._bags[group[0].name].static_batch
            shape = [-1 if batch is None else batch, self._dim]
            shape.insert(self._axis, len(group))
            matrix = tf.unstack(tf.reshape(parts.pop(0), shape), num=len(group), axis=self._axis)
            vectors.update(zip((f.name for f in group), matrix, strict=True))
        for feature in self._fixed:
            entry = self._bags[feature.name]
            of_bags = tf.reshape(parts.pop(0), [entry.batch, entry.hotness, self._dim])
            summed = tf.reduce_sum(of_bags, 1)
            factor = self._fixed_factor(feature)
            vectors[feature.name] = summed if factor == 1.0 else summed * factor
        if self._general:
            values = parts.pop(0)
            if self._weights is not None:
                values = values * self._weights[:, tf.newaxis]
            values = tf.ensure_shape(values, [None, self._dim])
            summed = self._segment_sum(values)
            if self._factors is not None:
                summed = summed * self._factors[:, tf.newaxis]
            pooled = self._by_feature(summed)
            vectors.update(zip((f.name for f in self._general), pooled, strict=True))
        for name, vector in vectors.items():
            vector.set_shape([self._bags[name].static_batch, self._dim])
        return vectors

    def unpool(self, gradients: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the gradients [n, dim] of the rows from those of the vectors."""
        parts = []
        for group in self._one_hot:
            matrix = tf.stack([gradients[f.name] for f in group])
            parts.append(tf.reshape(matrix, [-1, self._dim]))
        for feature in self._fixed:
            gradient = gradients[feature.name] * self._fixed_factor(feature)
            hotness = self._bags[feature.name].hotness
            repeated = tf.tile(gradient[:, tf.newaxis, :], [1, hotness, 1])
            parts.append(tf.reshape(repeated, [-1, self._dim]))
        if self._general:
            values = tf.gather(self._bag_gradients(gradients), self._segments)
            if self._weights is not None:
                values = values * self._weights[:, tf.newaxis]
            parts.append(values)
        return parts[0] if len(parts) == 1 else tf.concat(parts, 0)

    def _bag_gradients(self, gradients: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the gradients [bags, dim] of the weighted sums of the general group."""
        of_bags = tf.concat([gradients[f.name] for f in self._general], 0)
        if self._factors is not None:
            of_bags = of_bags * self._factors[:, tf.newaxis]
        return of_bags

    def weight_gradients(
        self, rows: tf.Tensor, gradients: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns for each weighted feature the gradient [n of the feature] of its weights.

        With v = f * sum_i(w_i r_i): for "sum" f = 1; for "mean" f = 1 / sum(w), so df/dw_i = -f^2;
        for "sqrtn" f = 1 / sqrt(sum(w^2)), so df/dw_i = -f^3 w_i.

        Args:
            rows: float32 tensor [n, dim], the rows that were looked up.
            gradients: For each feature the gradient [batch, dim] of its vectors.
        """
        if not self._general or self._weights is None:
            return {}
        rows = self._split(rows)[-1]
        sizes = tf.stack([tf.size(self._bags[f.name].ids) for f in self._general])
        upstream = self._bag_gradients(gradients)
        result = tf.reduce_sum(tf.gather(upstream, self._segments) * rows, 1)
        if self._factors is not None:
            weighted = tf.ensure_shape(rows * self._weights[:, tf.newaxis], [None, self._dim])
            # <gradient of v, v> = <factor * gradient, sum>.
            inner = self._by_feature(tf.reduce_sum(upstream * self._segment_sum(weighted), 1))
            factors = self._by_feature(self._factors)
            powers = [{"sum": None, "mean": 1, "sqrtn": 2}[f.table.combiner] for f in self._general]
            pulls = [
                tf.zeros([batch]) if power is None else of_bag * factor**power
                for batch, power, of_bag, factor in zip(
                    self._batches, powers, inner, factors, strict=True
                )
            ]
            pull = tf.gather(tf.concat(pulls, 0), self._segments)
            if 2 in powers:
                squared = tf.repeat(tf.constant([power == 2 for power in powers]), sizes)
                pull = tf.where(squared, pull * self._weights, pull)
            result = result - pull
        pieces = tf.split(result, sizes, num=len(self._general))
        return {
            f.name: piece
            for f, piece in zip(self._general, pieces, strict=True)
            if self._bags[f.name].weights is not None
        }
