"""Requests of one tensor of ids, and what candidates of one user share, in every model."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.signatures import named_inputs
from tf_dlrm.training.build import build_model
from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
from tfrecords.schema import CategoricalColumn, Schema

DENSE = ("age", "price", "hour")
COLUMNS = (
    CategoricalColumn("user", 50, 1, out_of_vocabulary=0),
    CategoricalColumn("item", 40, 1),
    CategoricalColumn("words", 30, 3),
    CategoricalColumn("shop", 9, 1),
    CategoricalColumn("city", 7, 1),
)
SINGLE = tuple(column for column in COLUMNS if column.hotness == 1)
MLPS = {"bottom_mlp": (8, 4), "top_mlp": (8, 1), "embedding_dim": 4}
# Model, its schema, and which columns are a candidate's.
CASES = {
    "dlrm": (MLPS, Schema(DENSE, COLUMNS), ("item", "words")),
    "dlrm, single": (MLPS, Schema(DENSE, SINGLE), ("item", "shop")),
    "dlrm, dense of both": (MLPS, Schema(DENSE, SINGLE), ("price", "item")),
    "dlrm, dense of candidates": (MLPS, Schema(DENSE, SINGLE), DENSE),
    "dlrm, one of the user": (MLPS, Schema(DENSE, SINGLE), (*DENSE, "item", "shop", "city")),
    "dlrm, one layer on top": (MLPS | {"top_mlp": (1,)}, Schema(DENSE, SINGLE), ("item",)),
    "dlrm, itself": (MLPS | {"interaction_itself": True}, Schema(DENSE, SINGLE), ("item", "shop")),
    "dlrm, no dense": (MLPS | {"bottom_mlp": ()}, Schema((), SINGLE), ("item",)),
    "dlrm, concat": (MLPS | {"interaction": "concat"}, Schema(DENSE, SINGLE), ("item",)),
    "dlrm, two dims": (
        MLPS | {"table_storage": "mixed_dimensions", "mixed_dimensions_temperature": 0.5},
        Schema(DENSE, (*SINGLE, CategoricalColumn("many", 4000, 1))),
        ("item", "many"),
    ),
    "wide_and_deep": (
        {"model": "wide_and_deep", "top_mlp": (8, 1), "embedding_dim": 4},
        Schema(DENSE, COLUMNS),
        ("price", "item"),
    ),
    "dcn": (
        {"model": "dcn", "top_mlp": (8, 1), "embedding_dim": 4},
        Schema(DENSE, SINGLE),
        ("item",),
    ),
    "deepfm": (
        {"model": "deepfm", "top_mlp": (8, 1), "embedding_dim": 4},
        Schema(DENSE, SINGLE),
        ("hour", "shop"),
    ),
    "matrix_factorization": (
        {"model": "matrix_factorization", "embedding_dim": 4},
        Schema((), SINGLE[:2]),
        ("item",),
    ),
}


@pytest.fixture(scope="module", params=CASES)
def served(request, tmp_path_factory):
    """A model, its schema, its candidates' columns and its loaded signatures."""
    options, schema, candidates = CASES[request.param]
    model = build_model(ModelOptions(**options), OptimizerOptions(), schema, seed=3)
    rng = np.random.default_rng(7)
    for collection in model.collections:
        for name in collection.tables:
            table = collection.tables[name]
            table.assign_rows(rng.normal(size=tuple(table.shape())).astype(np.float32))
    folder = str(tmp_path_factory.mktemp("packed") / "export")
    export_model(model, schema, folder, {"step": 1}, candidate_features=candidates)
    return model, schema, candidates, tf.saved_model.load(folder).signatures


def _features(schema, rows, seed=0):
    rng = np.random.default_rng(seed)
    found = {}
    if schema.dense:
        found["dense"] = rng.normal(size=(rows, len(schema.dense))).astype(np.float32)
    for column in schema.categorical:
        shape = (rows,) if column.hotness == 1 else (rows, column.hotness)
        found[column.name] = rng.integers(0, column.vocabulary_size, shape)
    return found


def _expected(model, features):
    return 1 / (1 + np.exp(-model(features, training=False).numpy()[:, 0].astype("d")))


def _packed(schema, features):
    columns = [features[name].reshape(len(features[name]), -1) for name in schema.categorical_names]
    packed = {"ids": np.concatenate(columns, 1)}
    return packed | ({"dense": features["dense"]} if schema.dense else {})


def _call(function, inputs):
    return function(**{name: tf.constant(value) for name, value in inputs.items()})["probability"]


def test_packed_ids_are_the_models(served):
    model, schema, _, signatures = served
    for rows in (1, 17):
        features = _features(schema, rows)
        result = _call(signatures["serve_packed"], _packed(schema, features))
        np.testing.assert_allclose(result, _expected(model, features), atol=1e-6)
        named = _call(signatures["serving_default"], named_inputs(features))
        np.testing.assert_allclose(result, named, atol=1e-6)
    assert np.std(result) > 0.01


def test_a_user_is_computed_once(served):
    model, schema, candidates, signatures = served
    user, rows = _features(schema, 1, seed=5), _features(schema, 13, seed=6)
    request = {}
    for column in schema.categorical:
        own = column.name in candidates
        request[column.name] = rows[column.name] if own else user[column.name][0]
        if not own:
            rows[column.name] = np.repeat(user[column.name], 13, 0)
    of_candidates = [k for k, name in enumerate(schema.dense) if name in candidates]
    of_user = [k for k, name in enumerate(schema.dense) if name not in candidates]
    if of_user:
        request["dense"] = user["dense"][0, of_user]
        rows["dense"][:, of_user] = user["dense"][:, of_user]
    if of_candidates:
        request["candidate_dense"] = rows["dense"][:, of_candidates]
    result = _call(signatures["rank"], request)
    np.testing.assert_allclose(result, _expected(model, rows), atol=1e-6)
    named = _call(signatures["serving_default"], named_inputs(rows))
    np.testing.assert_allclose(result, named, atol=1e-6)
    assert np.std(result) > 0.001


@pytest.mark.parametrize("served", ["dlrm, single"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.full((2, 4), 8)}, "Feature city has the id 8 at row 0 of the batch"),
        ({"ids": np.zeros((2, 3), int)}, r"\[2,3\] is not compatible with expected shape \[\?,4\]"),
        ({"ids": np.zeros((3, 4), int)}, r"one number of rows, but dense, ids have:\] \[2\] \[3\]"),
        ({"dense": np.full((2, 3), np.inf, "f")}, "The dense features of the request"),
    ],
)
def test_bad_packs_are_errors_of_the_request(served, change, message):
    _, schema, _, signatures = served
    good = _packed(schema, _features(schema, 2))
    before = _call(signatures["serve_packed"], good)
    function = signatures["serve_packed"]
    bad = good | change
    with pytest.raises((tf.errors.InvalidArgumentError, UserError), match=message):
        _call(function, bad)
    np.testing.assert_array_equal(_call(function, good), before)


@pytest.mark.parametrize("served", ["dlrm, single"], indirect=True)
def test_one_gather_gives_what_an_interaction_wants(served):
    *_, signatures = served
    graph = signatures["serve_packed"].graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert any(node.op == "BatchMatMulV2" for node in nodes)
    lookups = [f for f in graph.library.function if "serve_packed" in f.signature.name]
    of_lookup = [node.op for node in lookups[0].node_def]
    assert of_lookup.count("ResourceGather") == 1
    assert not [node for node in nodes if node.op == "Pack" and "interaction" in node.name]
