"""The functions that a SavedModel offers: what goes in, under which names, and what comes out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings.restack import restack, runs
from tf_dlrm.embeddings.stores.frozen import FrozenPlacement
from tf_dlrm.errors import UserError
from tf_dlrm.internals import convert_variables_to_constants_v2
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.models.ensemble import members_of
from tf_dlrm.models.ranking_model import DENSE
from tf_dlrm.serving.request_checks import (
    ROW_LENGTHS,
    Tensors,
    check_dense,
    checked_ids,
    checked_shapes,
    input_name,
    largest_dense,
    row_inputs,
)
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.tracing import traced_as_written

_CANDIDATE_DENSE = "candidate_dense"
_IDS = "ids"


class RawFeatures(Protocol):
    """From the values of a log to the features of the model, as they were converted for training.

    Attributes:
        specs: Name, type and shape of each value.
    """

    specs: dict[str, tf.TensorSpec]

    def features(self, values: Tensors) -> Tensors:
        """Returns the features [batch, ...] of values of `specs`."""


class Signatures(tf.Module):
    """A model as functions of tensors.

    The Keras model itself stays outside: were it an attribute, its configuration would be saved
    along.

    Attributes:
        tables: The variables that hold the tables' rows.
        weights: All other variables that lookups read. The weights of the dense part are constants.
        raw: The variables behind raw features.
        functions: The functions by the name of their signature.
    """

    def __init__(
        self,
        model: RankingModel | Ensemble,
        schema: Schema,
        candidate_features: Collection[str] = (),
        raw: RawFeatures | None = None,
    ) -> None:
        """Traces the functions.

        Args:
            model: A model that was built with `FrozenTables`.
            schema: The columns it was trained on.
            candidate_features: The columns, dense and categorical, that differ from candidate to
                candidate of one request; all others are the user's. None: no signature for ranking.
            raw: What the values of a log are; None: no signature for them.

        Raises:
            UserError: If names contradict each other.
        """
        super().__init__()
        self._schema = schema
        self._collections = _Untracked(model.collections)
        self._dense_part = _Untracked(_DensePart(model))
        self._largest_dense = largest_dense(model) if schema.dense else 0.0
        self.tables = [
            shard.variable for placement in placements(model) for shard in placement.shards
        ]
        self.functions = {
            "serving_default": self._of_features(),
            "serve_examples": self._of_examples(),
        }
        if all(column.hotness for column in schema.categorical):
            self.functions["serve_packed"] = self._of_packed()
        if candidate_features:
            self.functions["rank"] = self._of_candidates(candidate_features)
        self.raw = raw
        if raw is not None:
            self.functions["serve_raw"] = self._of_raw(raw)
        default = self.functions["serving_default"].get_concrete_function()
        known = {id(variable) for variable in self.tables}
        # A graph has them in any order; equal models are to be saved alike.
        # What became a constant was seen too, but is not held.
        held = {id(handle) for handle in default.captured_inputs}
        weights = [v for v in default.variables if id(v.handle) in held and id(v) not in known]
        self.weights = sorted(weights, key=lambda variable: variable.name)

    def _of_features(self) -> Any:
        rows = row_inputs(DENSE if self._schema.dense else None, self._schema.categorical)

        def serving_default(inputs: Tensors) -> Tensors:
            inputs = checked_shapes(inputs, rows)
            ids = {column.name: checked_ids(column, inputs) for column in self._schema.categorical}
            return self._score(inputs.get(DENSE), ids)

        specs = _dense_spec(DENSE, [None, len(self._schema.dense)])
        for column in self._schema.categorical:
            _add(specs, _specs(column))
        return tf.function(traced_as_written(serving_default), input_signature=[specs])

    def _of_packed(self) -> Any:
        columns = self._schema.categorical
        widths = [column.hotness or 1 for column in columns]

        def serve_packed(inputs: Tensors) -> Tensors:
            inputs = checked_shapes(inputs, list(specs))
            if max(widths) == 1:
                parts = tf.unstack(inputs[_IDS], axis=1)
            else:
                parts = tf.split(inputs[_IDS], widths, axis=1)
            ids = dict(zip(self._schema.categorical_names, parts, strict=True))
            return self._score(inputs.get(DENSE), ids)

        specs = _dense_spec(DENSE, [None, len(self._schema.dense)])
        specs[_IDS] = tf.TensorSpec([None, sum(widths)], tf.int64, _IDS)
        return tf.function(traced_as_written(serve_packed), input_signature=[specs])

    def _of_examples(self) -> Any:
        parsed: dict[str, Any] = {}
        if self._schema.dense:
            parsed[DENSE] = tf.io.FixedLenFeature([len(self._schema.dense)], tf.float32)
        for column in self._schema.categorical:
            if column.hotness is None:
                parsed[column.name] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
            else:
                shape = [] if column.hotness == 1 else [column.hotness]
                parsed[column.name] = tf.io.FixedLenFeature(shape, tf.int64)

        def serve_examples(inputs: Tensors) -> Tensors:
            ids = tf.io.parse_example(checked_shapes(inputs)["examples"], parsed)
            return self._score(ids.pop(DENSE, None), ids)

        specs = {"examples": tf.TensorSpec([None], tf.string, name="examples")}
        return tf.function(traced_as_written(serve_examples), input_signature=[specs])

    def _of_raw(self, raw: RawFeatures) -> Any:
        def serve_raw(inputs: Tensors) -> Tensors:
            features = raw.features(checked_shapes(inputs, list(raw.specs)))
            return self._score(features.pop(DENSE, None), features)

        return tf.function(traced_as_written(serve_raw), input_signature=[raw.specs])

    def _of_candidates(self, chosen: Collection[str]) -> Any:
        schema = self._schema
        names = (*schema.dense, *schema.categorical_names)
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise UserError(
                f"--candidate_features names {', '.join(unknown)}, but the model's columns are "
                f"{', '.join(names)}."
            )
        if all(name in chosen for name in names):
            raise UserError(
                "--candidate_features names all columns of the model, so none is the user's; "
                "serving_default scores such rows."
            )
        candidates = [column for column in schema.categorical if column.name in chosen]
        users = [column for column in schema.categorical if column.name not in chosen]
        # The dense columns of user and candidates one after the other, and back to their order.
        of_user = [k for k, name in enumerate(schema.dense) if name not in chosen]
        of_candidate = [k for k, name in enumerate(schema.dense) if name in chosen]
        order = np.argsort(of_user + of_candidate)
        rows = row_inputs(_CANDIDATE_DENSE if of_candidate else None, candidates)

        def rank(inputs: Tensors) -> Tensors:
            inputs = checked_shapes(inputs, rows)
            ids: dict[str, Any] = {}
            single = [column.name for column in users if column.hotness == 1]
            if single:
                of_single = restack([inputs[input_name(name)] for name in single], 0)
                own = tf.unstack(of_single[tf.newaxis], axis=1)
                ids = dict(zip(single, own, strict=True))
            for column in users:
                if column.hotness != 1:
                    ids[column.name] = inputs[input_name(column.name)][tf.newaxis]
            ids |= {column.name: checked_ids(column, inputs) for column in candidates}
            dense = inputs[DENSE][tf.newaxis] if of_user else None
            if of_candidate:
                dense_of_each = inputs[_CANDIDATE_DENSE]
                if of_user:
                    size = [tf.shape(dense_of_each)[0], len(of_user)]
                    both = tf.concat([tf.broadcast_to(dense, size), dense_of_each], 1)
                    dense_of_each = tf.gather(both, order, axis=1)
                dense = dense_of_each
            return self._score(dense, ids)

        specs = _dense_spec(DENSE, [len(of_user)])
        _add(specs, _dense_spec(_CANDIDATE_DENSE, [None, len(of_candidate)]))
        for column in users:
            shape = {None: [None], 1: []}.get(column.hotness, [column.hotness])
            name = input_name(column.name)
            _add(specs, {name: tf.TensorSpec(shape, tf.int64, name)})
        for column in candidates:
            _add(specs, _specs(column))
        return tf.function(traced_as_written(rank), input_signature=[specs])

    def _score(self, dense: tf.Tensor | None, ids: Mapping[str, Any]) -> Tensors:
        """Returns probabilities.

        Args:
            dense: float32 [rows, dense columns], or [1, ...] for what is the same in all rows; or
                None.
            ids: For each feature the ids of all rows, or of one that stands for all.
        """
        checks = [] if dense is None else [check_dense(dense, self._largest_dense)]
        of_members = []
        for collection in self._collections.value:
            vectors = collection(ids, training=False)
            of_members.append([vectors[feature.name] for feature in collection.features])
        logits = self._dense_part.value(dense, of_members)
        with tf.control_dependencies(checks):
            logits = tf.debugging.check_numerics(logits, "The model's logits for the request")
        return {"probability": tf.sigmoid(logits)}


class _DensePart:
    """All of a model above its tables, as functions whose weights are constants.

    As constants they are laid out for the processor once and not in every request. Signatures
    whose vectors come alike share one function.
    """

    def __init__(self, model: RankingModel | Ensemble) -> None:
        self._members = members_of(model)
        self._functions: dict[Any, Any] = {}

    def __call__(
        self, dense: tf.Tensor | None, vectors: Sequence[Sequence[tf.Tensor]]
    ) -> tf.Tensor:
        """Returns logits [rows].

        Args:
            dense: float32 [rows or 1, dense columns], or None.
            vectors: For each member the vectors [rows or 1, dim] of its features.
        """
        of_members = [list(runs(own, 1)) for own in vectors]
        tensors = [part for own in of_members for _, part in own]
        counts = tuple(tuple(count for count, _ in own) for own in of_members)
        if dense is not None:
            tensors.insert(0, dense)
        specs = tuple(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors)
        key = (counts, specs)
        if key not in self._functions:
            with tf.init_scope():
                self._functions[key] = self._traced(counts, specs, dense is not None)
        (logits,) = tf.nest.flatten(self._functions[key](*tensors))
        return logits

    def _traced(
        self, counts: Sequence[Sequence[int]], specs: Sequence[tf.TensorSpec], has_dense: bool
    ) -> Any:
        def mean_logits(*tensors: tf.Tensor) -> tf.Tensor:
            rest = iter(tensors)
            dense = next(rest) if has_dense else None
            logits = []
            for member, own in zip(self._members, counts, strict=True):
                vectors: list[tf.Tensor] = []
                for count in own:
                    part = next(rest)
                    vectors += [part] if count == 1 else tf.unstack(part, axis=1)
                names = [feature.name for feature in member.embeddings.features]
                by_name = dict(zip(names, vectors, strict=True))
                logits.append(member.logits_of(dense, by_name, training=False))
            mean = logits[0] if len(logits) == 1 else tf.reduce_mean(tf.concat(logits, 1), 1)
            return tf.reshape(mean, [-1])

        function = tf.function(traced_as_written(mean_logits), input_signature=specs)
        return convert_variables_to_constants_v2(function.get_concrete_function())


class _Untracked:
    """Hides a value from tf.Module, which would save it along."""

    def __init__(self, value: Any) -> None:
        self.value = value


def placements(model: RankingModel | Ensemble) -> list[FrozenPlacement]:
    """Returns where each collection of tables of a model is, which was built with `FrozenTables`.

    Raises:
        ValueError: If it was not.
    """
    found = []
    for collection in model.collections:
        if not isinstance(collection.placement, FrozenPlacement):
            raise ValueError("The model must be one that was built with FrozenTables.")
        found.append(collection.placement)
    return found


def named_inputs(features: Mapping[str, Any]) -> Tensors:
    """Returns a batch of features, as a source of examples gives it, as inputs by name.

    Ids become int64; those of a feature of any number of ids a row become two tensors.
    """
    inputs: Tensors = {}
    for name, value in features.items():
        if name == DENSE:
            inputs[name] = value
            continue
        name = input_name(name)
        if isinstance(value, tf.RaggedTensor):
            inputs[name] = tf.cast(value.values, tf.int64)
            inputs[name + ROW_LENGTHS] = tf.cast(value.row_lengths(), tf.int64)
        else:
            inputs[name] = tf.cast(value, tf.int64)
    return inputs


def example_of_zeros(schema: Schema) -> bytes:
    """Returns a serialized tf.train.Example with all features of one row, zeros and ids 0."""
    features = {}
    if schema.dense:
        numbers = tf.train.FloatList(value=[0.0] * len(schema.dense))
        features[DENSE] = tf.train.Feature(float_list=numbers)
    for column in schema.categorical:
        ids = tf.train.Int64List(value=[0] * (column.hotness or 1))
        features[column.name] = tf.train.Feature(int64_list=ids)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return bytes(example.SerializeToString(deterministic=True))


def _dense_spec(name: str, shape: list[int | None]) -> dict[str, tf.TensorSpec]:
    return {name: tf.TensorSpec(shape, tf.float32, name)} if shape[-1] else {}


def _specs(column: CategoricalColumn) -> dict[str, tf.TensorSpec]:
    """Returns the tensors of a feature of a batch.

    Any number of ids a row: all ids of the batch, row after row, and the number of each row's.
    """
    name = input_name(column.name)
    if column.hotness is None:
        lengths = name + ROW_LENGTHS
        return {
            name: tf.TensorSpec([None], tf.int64, name),
            lengths: tf.TensorSpec([None], tf.int64, lengths),
        }
    shape = [None] if column.hotness == 1 else [None, column.hotness]
    return {name: tf.TensorSpec(shape, tf.int64, name)}


def check_inputs(schema: Schema) -> dict[str, str]:
    """Checks that the columns of a schema can be the inputs of one signature.

    Returns:
        The names of those inputs that are not called as their column is, by column.

    Raises:
        UserError: If two would have one name.
    """
    specs = _dense_spec(DENSE, [None, len(schema.dense)])
    for column in schema.categorical:
        _add(specs, _specs(column))
    names = {name: input_name(name) for name in schema.categorical_names}
    return {column: name for column, name in names.items() if name != column}


def _add(specs: dict[str, tf.TensorSpec], more: dict[str, tf.TensorSpec]) -> None:
    for name, spec in more.items():
        if name in specs:
            raise UserError(
                f"A signature would have two inputs named {name!r}; rename the column of that name "
                "to export the model. What is neither letter nor digit becomes _ in inputs."
            )
        specs[name] = spec
