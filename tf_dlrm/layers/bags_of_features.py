"""What a layer of tables is called with, as bags of its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, check_known_batches, make_bags, of_one_batch
from tf_dlrm.embeddings.config import FeatureConfig
from tf_dlrm.embeddings.stored_features import divided_bags, stored_features
from tf_dlrm.keras_internals import only_shapes_are_wanted


def bags_of_features(
    layer: str, features: Sequence[FeatureConfig], ids: Any, weights: Any, one_batch: bool
) -> tuple[dict[str, Bags], dict[str, Bags]]:
    """Returns the bags of features, and of those that are stored.

    Args:
        layer: Name of the layer, for messages.
        features: The features.
        ids: `{feature: ids}`, or what `stored_ids` made of them.
        weights: `{feature: weights}` for any of the features.
        one_batch: Whether all features must have equally many bags.

    Raises:
        ValueError: If a feature is missing, unknown, or of a wrong type or rank, or if numbers of
            bags that are known differ.
        tf.errors.InvalidArgumentError: As `of_one_batch` and `divided_bags`.
    """
    stored = stored_features(features)
    # Were they divided already?
    divided = stored != features and not weights and set(ids) == {f.name for f in stored}
    names = [feature.name for feature in (stored if divided else features)]
    _check_names(layer, names, ids, weights)
    if only_shapes_are_wanted():
        # Under a strategy, fit of Keras 3 does this with means over the replicas' batches,
        # which turns ids into floats.
        ids = {name: tf.cast(ids[name], tf.int64) for name in names}
    bags = {name: make_bags(name, ids[name], weights.get(name)) for name in names}
    if one_batch:
        bags = of_one_batch(bags)
    else:
        check_known_batches(bags)
    if divided:
        return {f.name: bags[stored_features([f])[0].name] for f in features}, bags
    return bags, divided_bags(features, bags)


def _check_names(layer: str, names: Sequence[str], ids: Any, weights: Any) -> None:
    """Raises ValueError unless ids and weights are dicts of features, ids of all of them."""
    for what, given in (("ids", ids), ("weights", weights)):
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{what} must be a dict from feature names to tensors, but is a "
                f"{type(given).__name__}."
            )
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(
                f"{what} has entries {unknown}, but the features of layer '{layer}' are {names}."
            )
    missing = [name for name in names if name not in ids]
    if missing:
        raise ValueError(
            f"ids has no entries {missing}; layer '{layer}' needs all of its features, {names}."
        )
