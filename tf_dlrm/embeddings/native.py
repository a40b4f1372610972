"""The native kernels of tables, as functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags, of_one_batch
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.optimizers import Frozen, Optimizer
from tf_dlrm.kernels.use import load

# As the C++ numbers them.
_COMBINERS = ("sum", "mean", "sqrtn")
_BY_SPLITS, _BY_BAG, _NO_ROW = 0, -1, -1


def are_used(optimizer: Optimizer, device: str) -> bool:
    """Returns whether tables of an optimizer on a device can be worked on by the kernels.

    Raises:
        ValueError: See `use.load`.
    """
    if not optimizer.native:
        return False
    spec = tf.DeviceSpec.from_string(device)
    # Servers of parameters have TensorFlow's operations only.
    if spec.device_type not in (None, "CPU") or spec.job == "ps":
        return False
    return load() is not None


def check() -> None:
    """Compiles the kernels, if they are wanted and were not.

    Raises:
        ValueError: See `use.load`.
    """
    load()


def lookup(
    table: tf.Variable, features: Sequence[StackedFeature], bags: Mapping[str, Bags]
) -> dict[str, tf.Tensor]:
    """Returns for each feature the combined rows of its bags, float32 [batch, dim].

    Args:
        table: Resource variable [rows, dim].
        features: The features, and where their tables begin in `table`.
        bags: The bags of each feature by name.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, if an id is outside its table and the table
            has no out-of-vocabulary row, or the ids do not make up the bags.
    """
    bags = of_one_batch({f.name: bags[f.name] for f in features})
    inputs = _inputs(features, bags)
    vectors = _ops().tf_dlrm_lookup(table=table.handle, N=len(features), **inputs)
    for feature, vector in zip(features, vectors, strict=True):
        vector.set_shape([bags[feature.name].static_batch, table.shape[1]])
    return dict(zip((f.name for f in features), vectors, strict=True))


def update(
    optimizer: Optimizer,
    table: tf.Variable,
    slots: Mapping[str, tf.Variable],
    features: Sequence[StackedFeature],
    bags: Mapping[str, Bags],
    gradients: Mapping[str, tf.Tensor],
    step: tf.Tensor,
    wanted: tf.Tensor | bool = True,
) -> None:
    """Updates each row that was looked up once, by the sum of its gradients.

    Args:
        optimizer: The optimizer of the table.
        table: Resource variable [rows, dim].
        slots: By name, those of the optimizer.
        features: Those of the lookup.
        bags: Those of the lookup.
        gradients: For each feature, the gradient [batch, dim] of its vectors.
        step: Scalar int64, the number of updates made before this one.
        wanted: Scalar bool; where it is false, nothing is updated.

    Raises:
        tf.errors.InvalidArgumentError: When it runs, as `lookup`; then nothing is updated.
    """
    if isinstance(optimizer, Frozen):
        return
    rate = optimizer.rate(step)
    _ops().tf_dlrm_update(
        table=table.handle,
        slots=[slots[spec.name].handle for spec in optimizer.slots],
        gradients=[gradients[f.name] for f in features],
        # A rate that is no number updates nothing.
        numbers=tf.stack([tf.where(wanted, rate, math.nan), *optimizer.numbers().values()]),
        kind=type(optimizer).__name__,
        **_inputs(features, bags),
    )


def update_rows(
    optimizer: Optimizer,
    table: tf.Variable,
    slots: Mapping[str, tf.Variable],
    rows: tf.Tensor,
    gradients: tf.Tensor,
    step: tf.Tensor,
) -> None:
    """Updates rows once each, by the sum of their gradients: what `Optimizer.apply` does.

    Args:
        optimizer: The optimizer of the table.
        table: Resource variable [rows, dim].
        slots: By name, those of the optimizer.
        rows: int32 or int64 [n], in any order, with repetitions.
        gradients: float32 [n, dim].
        step: Scalar int64, the number of updates made before this one.
    """
    feature = StackedFeature(
        "rows", TableConfig("stack", table.shape[0], table.shape[1], optimizer=optimizer), 0
    )
    bags = {"rows": Bags(rows, tf.size(rows), None, 1, None)}
    update(optimizer, table, slots, [feature], bags, {"rows": gradients}, step)


def filled(shape: Sequence[int], value: float) -> tf.Tensor:
    """Returns a float32 tensor of one value, in huge pages where the system has them."""
    return _ops().tf_dlrm_fill(tf.constant(shape, tf.int64), value)


def _inputs(features: Sequence[StackedFeature], bags: Mapping[str, Bags]) -> dict[str, Any]:
    """Returns what both operations are told about the ids."""
    entries = list(of_one_batch({f.name: bags[f.name] for f in features}).values())
    hotness, structures = [], []
    for entry in entries:
        if entry.hotness is not None:
            hotness.append(entry.hotness)
        elif entry.splits is not None:
            hotness.append(_BY_SPLITS)
            structures.append(entry.splits)
        else:
            hotness.append(_BY_BAG)
            structures.append(entry.bag_of)
    rows = [f.table.out_of_vocabulary for f in features]
    return {
        "ids": [entry.ids for entry in entries],
        "structures": structures,
        "weights": [entry.weights for entry in entries if entry.weights is not None],
        "batches": tf.stack([entry.batch for entry in entries]),
        "hotness": hotness,
        "weighted": [entry.weights is not None for entry in entries],
        "offsets": [f.offset for f in features],
        "sizes": [f.table.vocabulary_size for f in features],
        "out_of_vocabulary": [_NO_ROW if row is None else row for row in rows],
        "combiners": [_COMBINERS.index(f.table.combiner) for f in features],
        "names": [f.name for f in features],
        "tables": [f.table.name for f in features],
    }


def _ops() -> Any:
    operations = load()
    if operations is None:
        raise RuntimeError("There are no native kernels here.")
    return operations
