"""Small tables, a copy on every core, looked up and updated with operations that XLA compiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import ROWS, Block
from tf_dlrm.embeddings.config import FeatureConfig, tables_of
from tf_dlrm.embeddings.stack import group_tables
from tf_dlrm.embeddings.tables import Table


class _Feature(NamedTuple):
    name: str
    combiner: str
    offset: int


class _StackOfCopies:
    """Small tables of equal dim and optimizer in one variable, and one for each slot."""

    def __init__(
        self, features: Sequence[FeatureConfig], offsets: Mapping[str, int], seed: int, name: str
    ) -> None:
        tables = tables_of(features)
        self.optimizer = tables[0].optimizer
        self.dim = tables[0].dim
        self.rows = sum(table.vocabulary_size for table in tables)
        self.features = [
            _Feature(f.name, f.table.combiner, offsets[f.table.name]) for f in features
        ]
        first = tf.concat([t.initial_rows(seed, 0, t.vocabulary_size) for t in tables], 0)
        self.variables = {ROWS: _variable(first, name)}
        for slot in self.optimizer.slots:
            shape = [self.rows] if slot.row_wise else [self.rows, self.dim]
            self.variables[slot.name] = _variable(tf.fill(shape, slot.initial_value), slot.name)


class ReplicatedTables:
    """Tables so small that every core has a copy, which all cores update alike.

    Lookup and update are matrix arithmetic on whole tables, with shapes that are known beforehand;
    the gradients of all cores are summed, so all copies stay equal.

    Attributes:
        tables: The logical tables.
        variables: The variables that hold them.
        row_variables: Those of them that hold rows, not slots.
    """

    def __init__(self, features: Sequence[FeatureConfig], seed: int = 0) -> None:
        """Creates the tables under the current strategy and draws their first values.

        Args:
            features: The features that look into small tables.
            seed: Seed of the first values.
        """
        self._stacks = []
        self.tables: list[Table] = []
        for k, group in enumerate(group_tables(tables_of(features)) if features else ()):
            offsets, total = {}, 0
            for table in group:
                offsets[table.name] = total
                total += table.vocabulary_size
            # In the order of the tables, which is that of the rows.
            own = sorted(
                (f for f in features if f.table.name in offsets),
                key=lambda f: offsets[f.table.name],
            )
            stack = _StackOfCopies(own, offsets, seed, f"rows_on_cores_{k}")
            self._stacks.append(stack)
            copies = {key: _copies(variable) for key, variable in stack.variables.items()}
            for table in group:
                blocks = [
                    Block.whole(
                        table,
                        device=core,
                        offset=offsets[table.name],
                        variables={key: found[core] for key, found in copies.items()},
                    )
                    for core in range(len(copies[ROWS]))
                ]
                self.tables.append(Table(table, blocks))
        self.variables = [v for stack in self._stacks for v in stack.variables.values()]
        self.row_variables = [stack.variables[ROWS] for stack in self._stacks]

    def lookup(self, bags: Mapping[str, Bags]) -> dict[str, tf.Tensor]:
        """Returns for each feature its vectors [batch, dim].

        Args:
            bags: For each feature bags of one fixed number of ids without weights; the ids are in
                range.

        Raises:
            ValueError: If bags are ragged, sparse or have weights.
        """
        vectors = {}
        for stack in self._stacks:
            rows = tf.convert_to_tensor(stack.variables[ROWS])
            for feature in stack.features:
                hotness = _hotness(feature, bags[feature.name])
                found = tf.gather(rows, bags[feature.name].ids + feature.offset)
                summed = tf.reduce_sum(tf.reshape(found, [-1, hotness, stack.dim]), 1)
                vector = summed * _factor(feature, hotness)
                vector.set_shape([bags[feature.name].static_batch, stack.dim])
                vectors[feature.name] = vector
        return vectors

    def update(
        self,
        bags: Mapping[str, Bags],
        gradients: Mapping[str, tf.Tensor],
        step: tf.Tensor,
        finite: tf.Tensor,
    ) -> None:
        """Updates the looked-up rows once, with the gradients of all replicas.

        Args:
            bags: What `lookup` was given.
            gradients: For each feature that was used the gradient [batch, dim] of its vectors.
            step: Scalar integer, the number of updates made before this one.
            finite: Bool scalar, the same on all replicas; where it is false, nothing is updated.
        """
        for stack in self._stacks:
            ids, parts = [], []
            used = [feature for feature in stack.features if feature.name in gradients]
            if not used:
                continue
            for feature in used:
                hotness = _hotness(feature, bags[feature.name])
                ids.append(tf.cast(bags[feature.name].ids, tf.int32) + feature.offset)
                gradient = gradients[feature.name] * _factor(feature, hotness)
                parts.append(tf.repeat(gradient, hotness, axis=0))
            # A column of ones counts how often each row was looked up.
            gradient = tf.pad(tf.concat(parts, 0), [[0, 0], [0, 1]], constant_values=1.0)
            summed = tf.math.unsorted_segment_sum(gradient, tf.concat(ids, 0), stack.rows)
            if tf.distribute.get_strategy().num_replicas_in_sync > 1:
                context = tf.distribute.get_replica_context()
                summed = context.all_reduce(tf.distribute.ReduceOp.SUM, summed)
            touched = (summed[:, -1] > 0) & finite
            slots = {key: tf.convert_to_tensor(v) for key, v in stack.variables.items()}
            rows = slots.pop(ROWS)
            rows, slots = stack.optimizer.apply_dense(rows, slots, summed[:, :-1], touched, step)
            for key, value in {ROWS: rows, **slots}.items():
                stack.variables[key].assign(value)


def _hotness(feature: _Feature, bags: Bags) -> int:
    if bags.weights is not None or bags.hotness is None:
        what = "weights" if bags.weights is not None else "bags of different sizes"
        raise ValueError(
            f"Feature '{feature.name}' has {what}, which a table that stays on the TPU's cores "
            "cannot have; lower small_table_rows to move it to the embedding hardware, or give all "
            "bags one fixed number of ids and no weights."
        )
    return bags.hotness


def _factor(feature: _Feature, hotness: int) -> float:
    return {"sum": 1.0, "mean": 1.0 / hotness, "sqrtn": hotness**-0.5}[feature.combiner]


def _variable(value: tf.Tensor, name: str) -> tf.Variable:
    # No aggregation: every replica assigns the same to its own copy.
    return tf.Variable(value, trainable=False, name=name, aggregation=tf.VariableAggregation.NONE)


def _copies(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """Returns the copies of a variable that a strategy has mirrored, or the variable itself."""
    if isinstance(variable, tf.distribute.DistributedValues):
        return tuple(tf.distribute.get_strategy().experimental_local_results(variable))
    return (variable,)
