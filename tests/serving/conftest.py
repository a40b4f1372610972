"""Exported models as TensorFlow Serving has them, and rows to ask them for."""

import dataclasses
import types

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving import client_options
from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.signatures import named_inputs
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

ROWS = 11

ALIGNED = Schema(
    dense=("a", "b"),
    categorical=(CategoricalColumn("user", 50, 1), CategoricalColumn("words", 30, 3)),
)
RAGGED = Schema(
    dense=("a", "b"),
    categorical=(
        CategoricalColumn("user", 50, 1),
        CategoricalColumn("words", 30, 3),
        CategoricalColumn("tags", 20, None),
    ),
)


def _model(schema, seed):
    features = tuple(
        FeatureConfig(c.name, TableConfig(c.name, c.vocabulary_size, 4, optimizer=SGD(0.01)))
        for c in schema.categorical
    )
    return DLRM(DLRMConfig(2, features, (8, 4), (8, 1), seed=seed))


class Served:
    """A SavedModel as TensorFlow Serving has it: a session, fed by the names of tensors."""

    def __init__(self, folder):
        self._calls = {}
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], folder)
        self.signatures = {
            name: signature
            for name, signature in loaded.signature_def.items()
            if not name.startswith("__")
        }

    def call(self, signature, inputs):
        """As `run`, but no Python looks at shapes and types before TensorFlow does."""
        if signature not in self._calls:
            definition = self.signatures[signature]
            options = config_pb2.CallableOptions(
                feed=[info.name for info in definition.inputs.values()],
                fetch=[definition.outputs["probability"].name],
            )
            self._calls[signature] = self._session._make_callable_from_options(options)
        values = [inputs[name] for name in self.signatures[signature].inputs]
        return self._calls[signature](*values)[0]

    def run(self, signature, inputs):
        definition = self.signatures[signature]
        return self._session.run(
            definition.outputs["probability"].name,
            {definition.inputs[name].name: value for name, value in inputs.items()},
        )


@pytest.fixture(scope="session")
def as_served():
    """Returns a function that gives a SavedModel of a folder as TensorFlow Serving has it."""
    return Served


@dataclasses.dataclass
class Exported:
    model: DLRM
    folder: str
    served: Served


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """By name: a model whose requests the server may batch, and two versions of one it may not."""
    made = {}
    for name, schema, seed, candidates in (
        ("aligned", ALIGNED, 1, ()),
        ("1", RAGGED, 2, ("b", "words", "tags")),
        ("2", RAGGED, 3, ("b", "words", "tags")),
    ):
        folder = str(tmp_path_factory.mktemp("models") / name)
        model = _model(schema, seed)
        export_model(model, schema, folder, {"step": 1}, candidate_features=candidates)
        made[name] = Exported(model, folder, Served(folder))
    return made


def _features(schema, rows):
    rng = np.random.default_rng(5)
    features = {"dense": rng.normal(size=(rows, 2)).astype("float32")}
    for column in schema.categorical:
        size = column.vocabulary_size
        if column.hotness is None:
            lengths = (np.arange(rows) + 2) % 4  # never as many ids as rows
            features[column.name] = (rng.integers(0, size, lengths.sum()), lengths)
        else:
            shape = (rows,) if column.hotness == 1 else (rows, column.hotness)
            features[column.name] = rng.integers(0, size, shape)
    return features


def _tensors(features):
    return {
        name: tf.RaggedTensor.from_row_lengths(*value)
        if isinstance(value, tuple)
        else tf.constant(value)
        for name, value in features.items()
    }


@pytest.fixture(scope="session")
def search():
    """Calls a test, to which hypothesis gives values, so many times."""

    def call(test, count):
        settings = hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        settings(test)()

    return call


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data") / "rows")
    with DatasetWriter(folder, RAGGED, rows_per_record=4) as writer:
        writer.write("evaluation", _features(RAGGED, ROWS), np.arange(ROWS) % 2)
    return folder


@pytest.fixture(scope="session")
def expected(exported):
    """What each version says of the rows of the data set."""
    features = _tensors(_features(RAGGED, ROWS))
    return {
        version: tf.sigmoid(exported[version].model(features, training=False))[:, 0].numpy()
        for version in ("1", "2")
    }


def _requests(schema, signature):
    """Two requests, of 3 and of 2 rows."""
    for rows in (3, 2):
        features = _tensors(_features(schema, rows))
        if signature == "serve_examples":
            yield {"examples": np.array(client_options.examples(features, rows), object)}
        else:
            yield {name: value.numpy() for name, value in named_inputs(features).items()}


def _ranking():
    """One user and four candidates."""
    rng = np.random.default_rng(7)
    return {
        "dense": np.float32([0.25]),
        "candidate_dense": rng.normal(size=(4, 1)).astype("float32"),
        "user": np.int64(7),
        "words": rng.integers(0, 30, (4, 3)),
        "tags": np.int64([3, 1, 4]),
        "tags_row_lengths": np.int64([0, 2, 0, 1]),
    }


@pytest.fixture(scope="session")
def rows():
    """The schemas, the number of rows of the data set, and functions that make requests."""
    return types.SimpleNamespace(
        aligned=ALIGNED,
        ragged=RAGGED,
        count=ROWS,
        features=_features,
        tensors=_tensors,
        requests=_requests,
        ranking=_ranking,
    )
