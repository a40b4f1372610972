import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, MixedDimension, QuotientRemainder, TableConfig
from tf_dlrm.embeddings.row_format import row_format
from tf_dlrm.errors import UserError
from tf_dlrm.models import DLRM, DLRMConfig, Ensemble, WideAndDeep, WideAndDeepConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.signatures import named_inputs
from tfrecords.schema import CategoricalColumn, Schema

SCHEMA = Schema(
    dense=("age", "price", "hour"),
    categorical=(
        CategoricalColumn("user", 50, 1, out_of_vocabulary=0),
        CategoricalColumn("history", 40, None, out_of_vocabulary=0),
        CategoricalColumn("item", 40, 1),
        CategoricalColumn("words", 30, 3),
        CategoricalColumn("tags", 20, None),
    ),
)
# The user's dense column is the last, so that the columns are not back in their order by chance.
CANDIDATE = ("age", "price", "item", "words", "tags")


COMBINERS = {"user": "sum", "history": "mean", "item": "mean", "words": "sum", "tags": "mean"}


def config(combiner=None, **storages):
    tables = [
        FeatureConfig(
            c.name,
            TableConfig(
                c.name,
                c.vocabulary_size,
                4,
                combiner=combiner or COMBINERS[c.name],
                out_of_vocabulary=c.out_of_vocabulary,
                storage=storages.get(c.name),
                optimizer=SGD(0.01),
            ),
        )
        for c in SCHEMA.categorical
    ]
    return DLRMConfig(3, tuple(tables), (8, 4), (8, 1), seed=3)


def wide_and_deep(combiner=None):
    return WideAndDeepConfig(3, config(combiner).features, top_mlp=(8, 1), seed=3)


MODELS = {
    "plain": lambda: DLRM(config()),
    "ensemble_of_first_order": lambda: Ensemble(wide_and_deep(), 2, model=WideAndDeep),
    "stored": lambda: DLRM(
        config(
            history=QuotientRemainder(4, "multiply"),
            user=QuotientRemainder(4, "add"),
            item=MixedDimension(2),
            tags=QuotientRemainder(3, "multiply"),
        )
    ),
    "sum": lambda: DLRM(config("sum")),
    "mean": lambda: DLRM(config("mean")),
    "first_order": lambda: WideAndDeep(wide_and_deep("sum")),
    "ensemble": lambda: Ensemble(config(), 3),
}
# Each of what an export must bring along once; the other combinations if one asks for them.
QUICK = ("plain", "ensemble_of_first_order", "stored")


def _models(quick):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.exhaustive) for n in MODELS]


@pytest.fixture(scope="module", params=_models(QUICK))
def exported(request, tmp_path_factory):
    """A model and its signatures, as a SavedModel has them."""
    model = MODELS[request.param]()
    grow(model)
    folder = str(tmp_path_factory.mktemp(request.param) / "export")
    export_model(model, SCHEMA, folder, {"step": 1}, candidate_features=CANDIDATE)
    loaded = tf.saved_model.load(folder)
    yield model, loaded.signatures, loaded


# For what does not depend on the model.
ONE_MODEL = pytest.mark.parametrize("exported", _models(["plain"]), indirect=True)


def grow(model):
    """Makes rows as large as they are after training, so that predictions feel each of them."""
    rng = np.random.default_rng(7)
    for collection in model.collections:
        for name in collection.tables:
            table = collection.tables[name]
            table.assign_rows(rng.normal(size=tuple(table.shape())).astype(np.float32))


def ragged(rng, rows, size):
    ids = [rng.integers(0, size, rng.integers(0, 5)).tolist() for _ in range(rows)]
    return tf.ragged.constant(ids, tf.int64, ragged_rank=1)


def features(rows, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "dense": tf.constant(rng.normal(size=(rows, 3)), tf.float32),
        "user": tf.constant(rng.integers(0, 50, rows)),
        "history": ragged(rng, rows, 40),
        "item": tf.constant(rng.integers(0, 40, rows)),
        "words": tf.constant(rng.integers(0, 30, (rows, 3))),
        "tags": ragged(rng, rows, 20),
    }


def expected(model, inputs):
    """The sigmoid, written out, of the logits of the model as it is trained."""
    return 1 / (1 + np.exp(-model(inputs, training=False).numpy()[:, 0].astype("d")))


def test_named_tensors_of_every_form(exported):
    model, signatures, _ = exported
    for rows in (1, 2, 17):
        inputs = features(rows)
        result = signatures["serving_default"](**named_inputs(inputs))["probability"]
        np.testing.assert_allclose(result, expected(model, inputs), atol=1e-6)
    assert np.std(result) > 0.01


def test_serialized_examples(exported):
    model, signatures, _ = exported
    inputs = features(9)
    examples = []
    for row in range(9):
        feature = {}
        for name, value in inputs.items():
            numbers = np.ravel(value[row].numpy()).tolist()
            feature[name] = (
                tf.train.Feature(float_list=tf.train.FloatList(value=numbers))
                if name == "dense"
                else tf.train.Feature(int64_list=tf.train.Int64List(value=numbers))
            )
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        examples.append(example.SerializeToString())
    result = signatures["serve_examples"](examples=tf.constant(examples))["probability"]
    np.testing.assert_allclose(result, expected(model, inputs), atol=1e-6)


@pytest.mark.parametrize("candidates", [0, 1, 13])
def test_ranking_is_scoring_rows_of_one_user(exported, candidates):
    model, signatures, _ = exported
    inputs = features(candidates, seed=5)
    user = features(1, seed=6)
    request = named_inputs({name: inputs[name] for name in ("item", "words", "tags")})
    request |= {
        "dense": user["dense"][0, 2:],
        "candidate_dense": inputs["dense"][:, :2],
        "user": user["user"][0],
        "history": user["history"][0],
    }
    result = signatures["rank"](**request)["probability"]
    assert result.shape == [candidates]
    if not candidates:
        return
    # The same as rows that repeat what is the user's.
    rows = {name: tf.repeat(user[name], candidates, 0) for name in ("user", "dense")}
    rows["history"] = tf.ragged.stack([user["history"][0]] * candidates)
    dense = rows["dense"].numpy()
    dense[:, :2] = inputs["dense"][:, :2]
    rows |= {name: inputs[name] for name in ("item", "words", "tags")} | {"dense": dense}
    np.testing.assert_allclose(result, expected(model, rows), atol=1e-6)


@ONE_MODEL
def test_nothing_sends_the_executor_on_its_slow_path(exported):
    _, signatures, _ = exported
    for name, function in signatures.items():
        graph = function.graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        assert any(node.op in ("If", "StatelessIf") for node in nodes), name  # the complaints
        slow = [node.op for node in nodes if node.attr["_lower_using_switch_merge"].b]
        assert not slow and not [node for node in nodes if node.op in ("Switch", "Merge")], name


def test_inputs_say_what_they_are(exported):
    _, signatures, _ = exported
    specs = {name: spec for name, spec in signatures["serving_default"].structured_input_signature[
        1].items()}  # fmt: skip
    shapes = {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()}
    assert shapes == {
        "dense": ("float32", [None, 3]),
        "user": ("int64", [None]),
        "history": ("int64", [None]),
        "history_row_lengths": ("int64", [None]),
        "item": ("int64", [None]),
        "words": ("int64", [None, 3]),
        "tags": ("int64", [None]),
        "tags_row_lengths": ("int64", [None]),
    }
    ranking = signatures["rank"].structured_input_signature[1]
    assert {name: spec.shape.as_list() for name, spec in ranking.items()} == {
        "dense": [1],
        "candidate_dense": [None, 2],
        "user": [],
        "history": [None],
        "item": [None],
        "words": [None, 3],
        "tags": [None],
        "tags_row_lengths": [None],
    }


@ONE_MODEL
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags_row_lengths": [1, 1]}, "tags_row_lengths must be whole numbers of at least 0"),
        ({"tags_row_lengths": [-1, 4]}, "tags_row_lengths must be whole numbers of at least 0"),
        ({"tags": [1, 2, 20]}, "Feature tags has the id 20"),
        ({"item": [3, -1]}, "Feature item has the id -1 at row 1"),
        ({"dense": [[0, 0, 0], [0, float("nan"), 0]]}, "The dense features of the request"),
        ({"item": [3]}, "Input item has 1 rows, but must have 2, as dense has"),
        ({"words": [[1, 2, 3]]}, "Input words has 1 rows, but must have 2, as dense has"),
        # Row lengths that fit the ids, but not the batch.
        ({"tags_row_lengths": [3]}, "Input tags_row_lengths has 1 rows, but must have 2"),
        ({"tags_row_lengths": [1, 1, 1]}, "Input tags_row_lengths has 3 rows, but must have 2"),
    ],
)
def test_bad_values_are_errors_of_the_request(exported, change, message):
    model, signatures, _ = exported
    good = named_inputs(features(2)) | {
        "tags": tf.constant([1, 2, 3], tf.int64),
        "tags_row_lengths": tf.constant([1, 2], tf.int64),
    }
    before = signatures["serving_default"](**good)["probability"]
    bad = {name: tf.constant(value, good[name].dtype) for name, value in change.items()}
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        signatures["serving_default"](**good | bad)
    # And the next request is answered as before.
    np.testing.assert_array_equal(signatures["serving_default"](**good)["probability"], before)


@ONE_MODEL
def test_candidates_of_other_numbers_are_errors_of_the_request(exported):
    _, signatures, _ = exported
    inputs = features(2)
    request = named_inputs({name: inputs[name] for name in ("item", "words")}) | {
        "dense": tf.zeros(1),
        "candidate_dense": tf.zeros((2, 2)),
        "user": tf.constant(3, tf.int64),
        "history": tf.constant([1, 2], tf.int64),
        "tags": tf.constant([1, 2, 3], tf.int64),
        "tags_row_lengths": tf.constant([1, 2], tf.int64),
    }
    assert len(signatures["rank"](**request)["probability"]) == 2
    for name in ("item", "words", "tags_row_lengths"):
        message = f"Input {name} has 3 rows, but must have 2, as candidate_dense has"
        more = tf.concat([request[name], tf.zeros_like(request[name][:1])], 0)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signatures["rank"](**request | {name: more})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("item", "colour"), "--candidate_features names colour, but the model's columns are"),
        (
            ("age", "price", "hour", "user", "history", "item", "words", "tags"),
            "names all columns of the model, so none is the user's",
        ),
    ],
)
def test_candidate_features_that_can_not_be(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        export_model(
            DLRM(config()), SCHEMA, str(tmp_path / "x"), {"step": 1}, candidate_features=columns
        )


def test_names_that_collide(tmp_path):
    columns = (CategoricalColumn("a", 5, None), CategoricalColumn("a_row_lengths", 5, 1))
    schema = Schema(dense=(), categorical=columns)
    tables = tuple(
        FeatureConfig(c.name, TableConfig(c.name, 5, 4, optimizer=SGD(0.01))) for c in columns
    )
    model = DLRM(DLRMConfig(0, tables, (), (4, 1)))
    with pytest.raises(UserError, match="two inputs named 'a_row_lengths'"):
        export_model(model, schema, str(tmp_path / "x"), {"step": 1})


SMALL = Schema(dense=("age",), categorical=SCHEMA.categorical[3:])


@pytest.mark.parametrize(
    "dtype",
    [
        "int8",
        "int4",
        *(pytest.param(d, marks=pytest.mark.exhaustive) for d in ("bfloat16", "float16")),
    ],
)
def test_small_tables_change_predictions_by_their_rounding_only(tmp_path, dtype):
    dim = 5  # of 4 bits: the last byte is half empty
    tables = tuple(
        FeatureConfig(
            c.name,
            TableConfig(c.name, c.vocabulary_size, dim, combiner="mean", optimizer=SGD(0.01)),
        )
        for c in SMALL.categorical
    )
    model = DLRM(DLRMConfig(1, tables, (dim,), (8, 1), seed=3))
    grow(model)
    export_model(model, SMALL, str(tmp_path / "export"), {"step": 1}, table_dtype=dtype)
    serve = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    inputs = {name: features(200)[name] for name in ("dense", *SMALL.categorical_names)}
    inputs["dense"] = inputs["dense"][:, :1]
    exact = expected(model, inputs)
    result = serve(**named_inputs(inputs))["probability"]
    # The same model with rows rounded by hand.
    format = row_format(dtype)
    for name in model.embeddings.tables:
        table = model.embeddings.tables[name]
        rows = tf.constant(format.encode(table.read_rows().numpy()), format.dtype)
        table.assign_rows(format.decode(rows, dim))
    np.testing.assert_allclose(result, expected(model, inputs), atol=1e-6)
    assert 1e-5 < np.abs(result - exact).max() < 0.2
