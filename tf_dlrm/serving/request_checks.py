"""What makes a request an error: shapes, numbers of rows, row lengths and dense values.

Servers compare only the types of a request with a signature's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.models.ensemble import members_of
from tfrecords.schema import CategoricalColumn

Tensors = dict[str, tf.Tensor]

ROW_LENGTHS = "_row_lengths"
_EQUAL_ROWS = "inputs_must_have_equal_numbers_of_rows"
# No model refuses dense values up to this one, so that amounts that are not scaled can be served.
_ALWAYS_ALLOWED = 6


def input_name(column: str) -> str:
    """Returns the name of a column as an input, which TensorFlow wants to be an identifier."""
    name = "".join(character if character.isalnum() else "_" for character in column)
    return name if name[0].isalpha() else f"arg_{name}"


def row_inputs(dense: str | None, columns: Sequence[CategoricalColumn]) -> list[str]:
    """Returns the names of the inputs whose first dimension is the rows of the request."""
    names = [input_name(c.name) + (ROW_LENGTHS if c.hotness is None else "") for c in columns]
    return [dense, *names] if dense else names


def checked_shapes(inputs: Tensors, names: Sequence[str] = ()) -> Tensors:
    """Returns the inputs, all of the shapes that they should have, and `names` of the same rows.

    Row lengths of too few rows would be taken for empty bags, and inputs of wrong ranks can have as
    many elements as those of the right ones.

    Inputs of one number a row are packed into one tensor, and taken from it: that compares them,
    and lookups want them so (see `restack`). A comparison of each one's shape would take a fifth of
    the time of a request of one row.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if they have not.
    """
    groups: dict[Any, list[str]] = {}
    for name, value in inputs.items():
        packs = value.shape.rank == 0 or (value.shape.rank == 1 and name in names)
        groups.setdefault((value.dtype, value.shape.rank) if packs else name, []).append(name)
    whole: Tensors = {}
    for group in groups.values():
        first = inputs[group[0]]
        if len(group) == 1:
            whole[group[0]] = tf.ensure_shape(first, first.shape)
            continue
        # TensorFlow's own message has two places of the list and ends with the operation's name.
        name = ".".join([_EQUAL_ROWS, *(re.sub("[^A-Za-z0-9_]", "_", own) for own in group)])
        packed = tf.stack([inputs[own] for own in group], -1, name=name)
        whole[group[0]] = tf.ensure_shape(packed, [*first.shape, len(group)])
    compared = [name for name in whole if name in names]
    if len(compared) > 1:
        with tf.control_dependencies([_of_equal_rows({name: whole[name] for name in compared})]):
            held = tf.identity_n([whole[name] for name in compared])
        whole |= dict(zip(compared, held, strict=True))
    checked: Tensors = {}
    for group in groups.values():
        value = whole[group[0]]
        of_group = [value] if len(group) == 1 else tf.unstack(value, axis=len(value.shape) - 1)
        checked |= dict(zip(group, of_group, strict=True))
    return checked


def _of_equal_rows(inputs: Tensors) -> tf.Operation:
    """Returns an operation that fails where the numbers of rows differ."""
    rows = [tf.shape(value)[0] for value in inputs.values()]
    fits = [tf.equal(count, rows[0]) for count in rows[1:]]
    message = f"All inputs must have one number of rows, but {', '.join(inputs)} have:"
    # No branch: what it says is there anyway.
    return tf.raw_ops.Assert(
        condition=functools.reduce(tf.logical_and, fits), data=[message, *rows]
    )


def checked_ids(column: CategoricalColumn, inputs: Tensors) -> Any:
    """Returns the ids of a column of a batch, [batch], [batch, hotness] or ragged.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if row lengths do not divide the ids.
    """
    name = input_name(column.name)
    values = inputs[name]
    if column.hotness is not None:
        return values
    lengths = inputs[name + ROW_LENGTHS]
    count = tf.size(values, tf.int64)
    # Lengths that are each possible cannot wrap their sum around.
    possible = tf.reduce_all((lengths >= 0) & (lengths <= count))
    fits = possible & tf.equal(tf.reduce_sum(lengths), count)
    message = (
        f"{name}{ROW_LENGTHS} must be whole numbers of at least 0 whose sum is the number of ids "
        f"in {name}."
    )
    with tf.control_dependencies([tf.debugging.Assert(fits, [message])]):
        lengths = tf.identity(lengths)
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)


def check_dense(dense: tf.Tensor, largest: float) -> tf.Operation:
    """Returns an operation that fails unless the magnitudes of all dense features are allowed."""
    fits = tf.reduce_all(tf.abs(dense) <= largest)  # a NaN is not
    message = (
        f"The dense features of the request must be numbers from -{largest:g} to {largest:g}; "
        "beyond them the model's own numbers could overflow."
    )
    return tf.debugging.Assert(fits, [message])


def largest_dense(model: RankingModel | Ensemble) -> float:
    """Returns how large dense features may be such that nothing inside the model overflows.

    What is infinite inside can leave a model as any probability: a ReLU makes 0 of minus infinity,
    and on some processors of NaN. All layers are sums, products and activations that grow with
    their input. So with the magnitudes of the weights, and inputs as large as the largest, nothing
    cancels out, and every number is a bound of what it is in any request. That holds for vectors of
    features up to that size too.

    Args:
        model: A model, whose weights are changed and put back.

    Returns:
        A power of ten, at least a million.
    """
    sizes = 10.0 ** np.arange(_ALWAYS_ALLOWED, 39)
    fits: np.ndarray = np.ones(len(sizes), bool)
    weights = model.get_weights()
    # No weight is 0, which would make NaN of infinity.
    model.set_weights([np.abs(value) + np.finfo(np.float32).tiny for value in weights])
    for member in members_of(model):

        def row(width: int, dtype: str = member.compute_dtype) -> tf.Tensor:
            return tf.cast(np.repeat(sizes[:, np.newaxis], width, 1), dtype)

        dense = row(member.config.dense_features)
        vectors = [row(feature.table.dim) for feature in member.config.features]
        # Before the clamp of predictions, which hides infinity.
        fits &= np.isfinite(tf.cast(member._logits(dense, vectors, False), tf.float32))[:, 0]
    model.set_weights(weights)
    return float(sizes[fits].max(initial=10.0**_ALWAYS_ALLOWED))
