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
from tf_dlrm.embeddings.storage import MixedDimension, Part, storage_of


def stored_features(features: Sequence[FeatureConfig]) -> tuple[FeatureConfig, ...]:
    """Returns the lookups that are really made, each into a table that is really there.

    What a placement, a plan or a planner has to do with. Features of tables without a `storage` are
    themselves.
    """
    return tuple(
        FeatureConfig(feature.name + part.suffix, part.table)
        for feature in features
        for part in _parts(feature)
    )


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
        tf.errors.InvalidArgumentError: As `divided_bags`.
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
        for name, divided in divided_bags([feature], {feature.name: bags}).items():
            if isinstance(given, tf.RaggedTensor):
                stored[name] = given.with_values(divided.ids)
            else:
                shaped = tf.reshape(divided.ids, tf.shape(given))
                stored[name] = tf.ensure_shape(shaped, given.shape)
    return stored


def divided_bags(features: Sequence[FeatureConfig], bags: Mapping[str, Bags]) -> dict[str, Bags]:
    """Returns for each of `stored_features` its bags.

    Args:
        features: The features.
        bags: For each feature, its bags.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the table
            has no out-of-vocabulary row.
    """
    divided = {}
    for feature in features:
        own = bags[feature.name]
        ids = own.ids
        if not storage_of(feature.table).takes_any_id:
            wide = ids.dtype == tf.int64 or feature.table.vocabulary_size > tf.int32.max
            view = StackedFeature(feature.name, feature.table, 0)
            ids = check_pieces([view], [own], tf.int64 if wide else tf.int32)
        entry = own.singly() if _is_read_singly(feature, own) else own
        for part in _parts(feature):
            name = feature.name + part.suffix
            divided[name] = dataclasses.replace(entry, ids=part.rows_of(ids))
    return divided


def joined_vectors(
    features: Sequence[FeatureConfig],
    bags: Mapping[str, Bags],
    vectors: Mapping[str, tf.Tensor],
    projections: Mapping[str, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Returns for each feature its vectors [batch, dim].

    Args:
        features: The features.
        bags: For each feature, its bags.
        vectors: For each of `stored_features`, the vectors of its bags.
        projections: For each of `projected_tables`, the matrix.
    """
    joined = {}
    for feature in features:
        given, table = bags[feature.name], feature.table
        found = [vectors[feature.name + part.suffix] for part in _parts(feature)]
        whole = storage_of(table).put_together(found)
        if _is_read_singly(feature, given):
            whole = _combined(whole, given, table.combiner)
        if table.name in projections:
            whole = tf.matmul(whole, tf.cast(projections[table.name], whole.dtype))
        whole.set_shape([given.static_batch, table.dim])
        joined[feature.name] = whole
    return joined


def _parts(feature: FeatureConfig) -> list[Part]:
    return storage_of(feature.table).parts(feature.table)


def _is_read_singly(feature: FeatureConfig, bags: Bags) -> bool:
    """Returns whether each id needs a vector of its own before its bag is combined."""
    one_hot = bags.hotness == 1 and bags.weights is None
    return not storage_of(feature.table).pools_parts and not one_hot


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
