"""Two versions of a small model as SavedModels, of which servers know nothing but the files."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.raw_table import RawTable
from tf_dlrm.serving.signatures import named_inputs
from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.options import Options
from tfrecords.dataset_info import DatasetInfo
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema

DENSE_NAMES = tuple(f"I{k}" for k in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{k}" for k in range(1, 27))
SCHEMA = Schema(
    dense=("age", "price", "hour"),
    categorical=(
        CategoricalColumn("user", 50, 1, out_of_vocabulary=0),
        CategoricalColumn("item", 40, 1),
        CategoricalColumn("words", 30, 3),
        CategoricalColumn("tags", 20, None),
    ),
)
CANDIDATE = ("price", "item", "words")


def _model(schema, seed):
    """Returns a model whose tables' rows are as large as after training."""
    tables = tuple(
        FeatureConfig(
            c.name,
            TableConfig(
                c.name,
                c.vocabulary_size,
                4,
                out_of_vocabulary=c.out_of_vocabulary,
                optimizer=SGD(0.01),
            ),
        )
        for c in schema.categorical
    )
    model = DLRM(DLRMConfig(len(schema.dense), tables, (8, 4), (8, 1), seed=seed))
    rng = np.random.default_rng(seed)
    for name in model.embeddings.tables:
        table = model.embeddings.tables[name]
        table.assign_rows(rng.normal(size=table.shape()).astype(np.float32))
    return model


def _probabilities(model, features):
    return tf.sigmoid(model(features, training=False))[:, 0].numpy()


def make_features(rows, seed):
    """Returns a batch as the model takes it; unknown users among it."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, rows)
    tags = rng.integers(0, 20, lengths.sum())
    return {
        "dense": tf.constant(rng.normal(size=(rows, 3)), tf.float32),
        "user": tf.constant(rng.integers(-5, 60, rows)),
        "item": tf.constant(rng.integers(0, 40, rows)),
        "words": tf.constant(rng.integers(0, 30, (rows, 3))),
        "tags": tf.RaggedTensor.from_row_lengths(tags, lengths),
    }


@dataclasses.dataclass(frozen=True)
class Request:
    """What a client sends: arrays by the names of the signature's inputs, and what is right."""

    inputs: dict
    probability: np.ndarray


def tensors_of(saved_model, signature):
    """Returns the names of tensors in the graph: {input: name}, and the output's."""
    content = (pathlib.Path(saved_model) / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
    described = graph.signature_def[signature]
    names = {name: tensor.name for name, tensor in described.inputs.items()}
    return names, described.outputs["probability"].name


class Version:
    """A SavedModel and the model that it was made of.

    Attributes:
        path: The SavedModel.
        model: The model.
        requests: For each signature the function that makes a request of `rows` rows.
    """

    def __init__(self, folder, seed):
        self.path = str(folder / f"model-{seed}")
        self.model = _model(SCHEMA, seed)
        export_model(self.model, SCHEMA, self.path, {"step": seed}, candidate_features=CANDIDATE)
        self.requests = {
            "serving_default": self.request,
            "serve_examples": self._examples,
            "rank": self._rank,
        }

    def request(self, rows, seed=1):
        """Returns a request to `serving_default`."""
        features = make_features(rows, seed)
        inputs = {name: value.numpy() for name, value in named_inputs(features).items()}
        return Request(inputs, _probabilities(self.model, features))

    def _examples(self, rows, seed=1):
        features = make_features(rows, seed)
        texts = []
        for row in range(rows):
            values = {name: np.ravel(value[row].numpy()) for name, value in features.items()}
            dense = tf.train.FloatList(value=values.pop("dense"))
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
                for name, ids in values.items()
            } | {"dense": tf.train.Feature(float_list=dense)}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            texts.append(example.SerializeToString())
        return Request({"examples": np.array(texts, object)}, _probabilities(self.model, features))

    def _rank(self, rows, seed=1):
        features = make_features(rows, seed)
        features["user"] = tf.repeat(features["user"][:1], rows)
        features["tags"] = tf.ragged.stack([features["tags"][0]] * rows)
        dense = features["dense"].numpy()
        dense[:, [0, 2]] = dense[0, [0, 2]]
        features["dense"] = dense
        inputs = {
            "dense": dense[0, [0, 2]],
            "candidate_dense": dense[:, 1:2],
            "user": features["user"].numpy()[0],
            "item": features["item"].numpy(),
            "words": features["words"].numpy(),
            "tags": features["tags"][0].numpy(),
        }
        return Request(inputs, _probabilities(self.model, features))


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """Two versions of one model, with other weights."""
    folder = tmp_path_factory.mktemp("versions")
    return [Version(folder, seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def tensor_names():
    return tensors_of


@dataclasses.dataclass(frozen=True)
class RawModel:
    """A SavedModel of Criteo's log with `serve_raw`, and a request to it."""

    path: str
    request: Request


@pytest.fixture(scope="session")
def raw_model(tmp_path_factory):
    """Made by the conversion of a log, which is also what is asked for."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        integers = [str(i) if rng.random() < 0.8 else "" for i in rng.integers(-2, 300, 13)]
        keys = [f"{i * 7919:x}" if rng.random() < 0.9 else "" for i in rng.integers(0, 9, 26)]
        rows.append([*integers, *keys])
    lines = ["\t".join([str(rng.integers(0, 2)), *row]) for row in rows]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    data = str(folder / "data")
    quiet = Progress(io.StringIO())
    convert([str(folder / "train.txt")], data, CriteoFormat(), Options(), quiet, threads=1)
    info = DatasetInfo.load(data)
    model = _model(info.schema, 1)
    path = str(folder / "model")
    export_model(model, info.schema, path, {"step": 1}, raw=RawTable(info, data))
    # The last seventh, whose values are not all in the vocabulary of the others.
    ((features, label),) = RecordSource(data).batches("evaluation", len(rows))
    names = (*DENSE_NAMES, *CATEGORICAL_NAMES)
    fields = np.array(rows[-len(label) :], object).T
    inputs = {
        name: np.array([text.encode() for text in column], object)
        for name, column in zip(names, fields, strict=True)
    }
    return RawModel(path, Request(inputs, _probabilities(model, features)))
