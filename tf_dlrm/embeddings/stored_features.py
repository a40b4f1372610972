"""The tables that are really there, and the way from their vectors to those of the features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, make_bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.range_check import check_pieces
from tf_dlrm.embeddings.storage import MixedDimension, MultipleHashing


def stored_features(features: Sequence[FeatureConfig]) -> tuple[FeatureConfig, ...]:
    """Returns the lookups that are really made, each into a table that is really there.

    What a placement, a plan or a planner has to do with. Features of tables without a `storage` are
    themselves.
    """
    stored = []
    for feature in features:
        storage = feature.table.storage
        if storage is None:
            stored.append(feature)
        else:
            for part in storage.parts(feature.table):
                stored.append(FeatureConfig(feature.name + part.suffix, part.table))
    return tuple(stored)


def projected_tables(features: Sequence[FeatureConfig]) -> dict[str, tuple[int, int]]:
    """Returns the shape of the matrix behind each table that needs one, by the table's name."""
    return {
        f.table.name: (f.table.storage.dim, f.table.dim)
        for f in features
        if isinstance(f.table.storage, MixedDimension) and f.table.storage.dim != f.table.dim
    }


def stored_ids(features: Sequence[FeatureConfig], ids: Mapping[str, Any]) -> dict[str, Any]:
    """Returns for each of `stored_features` its ids, of the structure of its feature's ids.

    For placements whose ids go another way than through the layer, in the input pipeline.

    Args:
        features: The features.
        ids: For each feature dense or ragged ids.

    Raises:
        ValueError: If a bag of several ids needs vectors of single ones.
        tf.errors.InvalidArgumentError: As `StoredBags`.
    """
    stored = {}
    for feature in features:
        given = ids[feature.name]
        if feature.table.storage is None:
            stored[feature.name] = given
            continue
        bags = make_bags(feature.name, given)
        if _is_read_singly(feature, bags):
            raise ValueError(
                f"Feature '{feature.name}' may have several ids, whose vectors "
                f"{type(feature.table.storage).__name__} makes one by one; on a TPU only features "
                "of one id can be stored so."
            )
        checked = _checked(feature, bags)
        for part in feature.table.storage.parts(feature.table):
            rows = part.rows_of(checked)
            if isinstance(given, tf.RaggedTensor):
                stored[feature.name + part.suffix] = given.with_values(rows)
            else:
                shaped = tf.ensure_shape(tf.reshape(rows, tf.shape(given)), given.shape)
                stored[feature.name + part.suffix] = shaped
    return stored


class StoredBags:
    """The bags of one batch, as the tables that are really there want them.

    Attributes:
        bags: For each of `stored_features`, its bags.
    """

    @classmethod
    def of_stored(cls, features: Sequence[FeatureConfig], bags: Mapping[str, Bags]) -> StoredBags:
        """Returns bags that were divided before, by `stored_ids`.

        Args:
            features: The features.
            bags: For each of `stored_features`, its bags.
        """
        self = cls((), {})
        self._features = tuple(features)
        self._given = {f.name: bags[stored_features([f])[0].name] for f in features}
        self.bags = dict(bags)
        return self

    def __init__(self, features: Sequence[FeatureConfig], bags: Mapping[str, Bags]) -> None:
        """Divides the ids.

        Args:
            features: The features.
            bags: For each feature, its bags.

        Raises:
            tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the
                table has no out-of-vocabulary row.
        """
        self._features = tuple(features)
        self._given = dict(bags)
        self.bags: dict[str, Bags] = {}
        for feature in features:
            own = bags[feature.name]
            if feature.table.storage is None:
                self.bags[feature.name] = own
                continue
            ids = _checked(feature, own)
            entry = own.singly() if _is_read_singly(feature, own) else own
            for part in feature.table.storage.parts(feature.table):
                rows = part.rows_of(ids)
                self.bags[feature.name + part.suffix] = dataclasses.replace(entry, ids=rows)

    def join(
        self, vectors: Mapping[str, tf.Tensor], projections: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Returns for each feature its vectors [batch, dim].

        Args:
            vectors: For each of `stored_features`, the vectors of its bags.
            projections: For each of `projected_tables`, the matrix.
        """
        joined = {}
        for feature in self._features:
            given, table = self._given[feature.name], feature.table
            parts = [""]
            if table.storage is not None:
                parts = [part.suffix for part in table.storage.parts(table)]
            found = [vectors[feature.name + suffix] for suffix in parts]
            whole = found[0] if table.storage is None else table.storage.put_together(found)
            if _is_read_singly(feature, given):
                whole = _combined(whole, given, table.combiner)
            if table.name in projections:
                whole = tf.matmul(whole, tf.cast(projections[table.name], whole.dtype))
            whole.set_shape([given.static_batch, table.dim])
            joined[feature.name] = whole
        return joined


def _is_read_singly(feature: FeatureConfig, bags: Bags) -> bool:
    """Returns whether each id needs a vector of its own before its bag is combined."""
    storage = feature.table.storage
    one_hot = bags.hotness == 1 and bags.weights is None
    return storage is not None and not storage.pools_parts and not one_hot


def _checked(feature: FeatureConfig, bags: Bags) -> tf.Tensor:
    """Returns ids in the vocabulary, where there is one."""
    if isinstance(feature.table.storage, MultipleHashing):
        return bags.ids
    dtype = bags.ids.dtype
    if feature.table.vocabulary_size > tf.int32.max:
        dtype = tf.int64
    return check_pieces([StackedFeature(feature.name, feature.table, 0)], [bags], dtype)


def _combined(vectors: tf.Tensor, bags: Bags, combiner: str) -> tf.Tensor:
    """Returns the combined vectors [batch, dim] of vectors [n, dim] of single ids."""
    weights = bags.weights

    def summed(values: tf.Tensor) -> tf.Tensor:
        if bags.hotness is None:
            return tf.math.unsorted_segment_sum(values, bags.bag_indices(), bags.batch)
        # No list of the bag of each id, and on the way back no gather by it.
        return tf.reduce_sum(tf.reshape(values, [bags.batch, bags.hotness, values.shape[1]]), 1)

    found = summed(vectors if weights is None else vectors * weights[:, tf.newaxis])
    if combiner == "sum":
        return found
    total = tf.ones([tf.size(bags.ids), 1]) if weights is None else weights[:, tf.newaxis]
    divisor = summed(total if combiner == "mean" else tf.square(total))
    return tf.math.divide_no_nan(found, tf.sqrt(divisor) if combiner == "sqrtn" else divisor)
