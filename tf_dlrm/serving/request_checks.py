"""What makes a request an error: shapes, numbers of rows, row lengths and dense values.

Servers compare only the types of a request with a signature's. All checks are data-flow, but for
the one branch that words the complaint about rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.internals import raised_unless
from tf_dlrm.models import Ensemble, RankingModel
from tfrecords.schema import CategoricalColumn

Tensors = dict[str, tf.Tensor]

ROW_LENGTHS = "_row_lengths"
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

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if they have not.
    """
    inputs = {name: tf.ensure_shape(value, value.shape) for name, value in inputs.items()}
    if not names:
        return inputs
    shapes: list[tf.Tensor] = []
    sizes: list[tuple[str, int | None]] = []
    for dtype in dict.fromkeys(inputs[name].dtype for name in names):
        group = [name for name in names if inputs[name].dtype == dtype]
        shapes += tf.shape_n([inputs[name] for name in group])
        sizes += [(name, size) for name in group for size in inputs[name].shape]
    found = tf.concat(shapes, 0)
    rows = np.array([size is None for _, size in sizes])
    wanted = tf.where(rows, found[0], np.array([size or 0 for _, size in sizes], np.int32))
    fits = tf.equal(found, wanted)

    def message() -> tf.Tensor:
        place = tf.argmin(tf.cast(fits, tf.int32))
        return tf.strings.join(
            [
                "Input ",
                tf.constant([name for name, _ in sizes])[place],
                " has ",
                tf.strings.as_string(found[place]),
                tf.where(rows, " rows, but must have ", " columns, but must have ")[place],
                tf.strings.as_string(wanted[place]),
                tf.where(rows, f", as {sizes[0][0]} has.", ".")[place],
            ]
        )

    with tf.control_dependencies([raised_unless(tf.reduce_all(fits), message)]):
        held = tf.identity_n([inputs[name] for name in names])
    return inputs | dict(zip(names, held, strict=True))


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
    for member in model.members:

        def row(width: int, dtype: str = member.compute_dtype) -> tf.Tensor:
            return tf.cast(np.repeat(sizes[:, np.newaxis], width, 1), dtype)

        dense = row(member.config.dense_features)
        vectors = [row(feature.table.dim) for feature in member.config.features]
        # Before the clamp of predictions, which hides infinity.
        fits &= np.isfinite(tf.cast(member._logits(dense, vectors, False), tf.float32))[:, 0]
    model.set_weights(weights)
    return float(sizes[fits].max(initial=10.0**_ALWAYS_ALLOWED))
