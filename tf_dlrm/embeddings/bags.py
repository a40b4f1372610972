"""One feature's ids of a batch, whatever form they came in: dense, ragged or sparse."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Bags:
    """The ids of one feature: `batch` bags of rows to look up.

    Attributes:
        ids: int32 or int64 tensor [n], bag after bag.
        batch: int32 scalar, the number of bags.
        static_batch: `batch` where it is known while tracing, else None.
        hotness: The number of ids in every bag where it is one fixed number, else None.
        bag_of: int32 or int64 tensor [n], the bag of each id; None where `hotness` tells.
        weights: float32 tensor [n], or None: all ones.
        splits: int32 or int64 tensor [batch + 1], where each bag begins in `ids` and the last one
            ends; None where `hotness` tells or only `bag_of` is known.
        are_single: Whether these are the ids of other bags one by one, each as a bag of its own;
            then there are as many as there are ids, whatever other features have.
    """

    ids: tf.Tensor
    batch: tf.Tensor
    static_batch: int | None
    hotness: int | None
    bag_of: tf.Tensor | None
    weights: tf.Tensor | None = None
    splits: tf.Tensor | None = None
    are_single: bool = False

    def singly(self) -> "Bags":
        """Returns a bag for each id, without its weight."""
        number = tf.size(self.ids)
        return Bags(self.ids, number, self.ids.shape[0], 1, None, are_single=True)

    def bag_indices(self) -> tf.Tensor:
        """Returns an int32 tensor [n], the bag of each id."""
        if self.bag_of is not None:
            return tf.cast(self.bag_of, tf.int32)
        bags = tf.range(self.batch)
        if self.hotness == 1:
            return bags
        return tf.reshape(tf.tile(bags[:, tf.newaxis], [1, self.hotness]), [-1])


def make_bags(feature: str, ids: Any, weights: Any = None) -> Bags:
    """Returns the bags of one feature.

    Args:
        feature: Its name, for messages.
        ids: int32 or int64: dense [batch] or [batch, hotness] (tensor, array or list), a
            `tf.RaggedTensor` [batch, None], or a `tf.SparseTensor` [batch, places]. Id 0 is an id
            like any other; in a sparse tensor, only places that are not stored are empty.
        weights: None, or floats of the same structure as `ids`, one for each id.

    Raises:
        ValueError: If a type, rank or structure is none of these.
        tf.errors.InvalidArgumentError: When it runs, if a ragged or sparse structure of `weights`
            is not that of `ids`.
    """
    if not isinstance(ids, tf.RaggedTensor | tf.SparseTensor):
        try:
            ids = tf.convert_to_tensor(ids)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The ids of feature '{feature}' must be a dense, ragged or sparse tensor of int32 "
                f"or int64, but are {type(ids).__name__}: {error}"
            ) from error
    if ids.dtype not in (tf.int32, tf.int64):
        raise ValueError(
            f"The ids of feature '{feature}' must be int32 or int64, but are {ids.dtype.name}."
        )
    if isinstance(ids, tf.RaggedTensor):
        bags = _from_ragged(feature, ids)
    elif isinstance(ids, tf.SparseTensor):
        bags = _from_sparse(feature, ids)
    else:
        bags = _from_dense(feature, ids)
    if weights is None:
        return bags
    return dataclasses.replace(bags, weights=_flat_weights(feature, ids, weights))


def check_known_batches(bags: Mapping[str, Bags]) -> None:
    """Raises ValueError if two numbers of bags that are known while tracing differ."""
    batches = {name: entry.static_batch for name, entry in bags.items()}
    if len({batch for batch in batches.values() if batch is not None}) > 1:
        raise ValueError(f"All features must have one batch size, but have {batches}.")


def of_one_batch(bags: Mapping[str, Bags]) -> dict[str, Bags]:
    """Returns the bags of features that are equally many, all with the same `batch`.

    What has the same `batch` already is not compared again, and single ids are not compared at all.

    Raises:
        ValueError: If the numbers of bags differ, and that is known while tracing, or eagerly.
        tf.errors.InvalidArgumentError: When it runs, if they differ.
    """
    compared = {name: entry for name, entry in bags.items() if not entry.are_single}
    if len({id(entry.batch) for entry in compared.values()}) < 2:
        return dict(bags)
    check_known_batches(compared)
    known = [b.static_batch for b in compared.values() if b.static_batch is not None]
    if len(known) == len(compared):
        batch = next(iter(compared.values())).batch
    else:
        batch = _checked_batch(compared)
    static_batch = known[0] if known else None
    return {
        name: entry
        if entry.are_single
        else dataclasses.replace(entry, batch=batch, static_batch=static_batch)
        for name, entry in bags.items()
    }


def _checked_batch(bags: Mapping[str, Bags]) -> tf.Tensor:
    """Returns the number of bags of all features, once it was found to be one.

    The sizes are always computed, so they come from few operations, and the assertion is no branch.
    """
    names: list[str] = []
    sizes: list[tf.Tensor] = []
    for dtype in (tf.int32, tf.int64):
        group = [n for n, entry in bags.items() if entry.hotness == 1 and entry.ids.dtype == dtype]
        if group:
            names += group
            sizes += tf.shape_n([bags[name].ids for name in group])
    others = [name for name in bags if name not in names]
    if others:
        sizes.append(tf.stack([bags[name].batch for name in others]))
    found = tf.concat(sizes, 0)
    # Outside of the dependency: taken within, TensorFlow's optimizer would see where the first one
    # comes from, and take it from there without the assertion.
    first = found[0]
    listed = ", ".join([*names, *others])
    message = f"All features must have one batch size, but {listed} have, in this order:"
    check = tf.raw_ops.Assert(
        condition=tf.reduce_all(tf.equal(found, first)),
        data=[message, found],
        summarize=len(bags),
    )
    with tf.control_dependencies([check]):
        return tf.identity(first)


def _from_dense(feature: str, ids: tf.Tensor) -> Bags:
    if ids.shape.rank not in (1, 2):
        raise ValueError(
            f"The ids of feature '{feature}' must have the shape [batch] or [batch, hotness], but "
            f"have {ids.shape}."
        )
    hotness = 1 if ids.shape.rank == 1 else ids.shape[1]
    static_batch = ids.shape[0]
    batch = tf.shape(ids)[0]
    bag_of = splits = None
    if not hotness:  # None or zero: the number of ids does not tell the number of bags
        hotness = None
        width = tf.shape(ids)[1]
        bag_of = tf.reshape(tf.tile(tf.range(batch)[:, tf.newaxis], [1, width]), [-1])
        splits = tf.range(batch + 1) * width
    flat = ids if ids.shape.rank == 1 else tf.reshape(ids, [-1])
    return Bags(flat, batch, static_batch, hotness, bag_of, splits=splits)


def _from_ragged(feature: str, ids: tf.RaggedTensor) -> Bags:
    if ids.ragged_rank != 1 or ids.flat_values.shape.rank != 1:
        raise ValueError(
            f"Ragged ids of feature '{feature}' must have the shape [batch, None], but have "
            f"{ids.shape}."
        )
    return Bags(
        ids.values,
        tf.cast(ids.nrows(), tf.int32),
        ids.shape[0],
        None,
        ids.value_rowids(),
        splits=ids.row_splits,
    )


def _from_sparse(feature: str, ids: tf.SparseTensor) -> Bags:
    if ids.shape.rank != 2:
        raise ValueError(
            f"Sparse ids of feature '{feature}' must have the shape [batch, places], but have "
            f"{ids.shape}."
        )
    # A cast alone would wrap a number of rows that is too large into one that is not.
    rows = tf.cast(tf.minimum(ids.dense_shape[0], tf.int32.max), tf.int32)
    return Bags(ids.values, rows, ids.shape[0], None, ids.indices[:, 0])


def _flat_weights(feature: str, ids: Any, weights: Any) -> tf.Tensor:
    """Returns the weights [n] in the order of the ids, as float32."""
    composite = tf.RaggedTensor | tf.SparseTensor
    if not isinstance(weights, composite):
        weights = tf.convert_to_tensor(weights)
    if isinstance(ids, composite) or isinstance(weights, composite):
        if type(weights) is not type(ids):
            raise ValueError(
                f"The weights of feature '{feature}' must have the structure of its ids, a "
                f"{type(ids).__name__}, but are a {type(weights).__name__}."
            )
    if not weights.dtype.is_floating:
        raise ValueError(
            f"The weights of feature '{feature}' must be floats, but are {weights.dtype.name}."
        )
    if not ids.shape.is_compatible_with(weights.shape):
        raise ValueError(
            f"The weights of feature '{feature}' must have the shape of its ids, {ids.shape}, but "
            f"have {weights.shape}."
        )
    if isinstance(ids, tf.RaggedTensor):
        structures, flat = (ids.row_splits, weights.row_splits), weights.flat_values
    elif isinstance(ids, tf.SparseTensor):
        structures, flat = (ids.indices, weights.indices), weights.values
    else:
        structures, flat = (tf.shape(ids), tf.shape(weights)), tf.reshape(weights, [-1])
    message = f"The weights of feature '{feature}' must have one number for each of its ids."
    check = _equal(*structures, message)
    with tf.control_dependencies([] if check is None else [check]):
        return tf.cast(tf.identity(flat), tf.float32)


def _equal(first: tf.Tensor, second: tf.Tensor, message: str) -> Any:
    first, second = tf.cast(first, tf.int64), tf.cast(second, tf.int64)
    same_shape = tf.reduce_all(tf.equal(tf.shape(first), tf.shape(second)))
    return tf.debugging.Assert(
        tf.cond(same_shape, lambda: tf.reduce_all(tf.equal(first, second)), lambda: False),
        [message],
    )
