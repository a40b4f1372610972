"""The folder serving/: configuration that agrees with itself and the model, and clients."""

import base64
import contextlib
import dataclasses
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import portpicker
import pytest
import tensorflow as tf
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import client_options, grpc_client, rest_client
from tf_dlrm.embeddings import FeatureConfig, TableConfig
from tf_dlrm.errors import UserError
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.signatures import named_inputs
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "serving"
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


# ---- Models and rows.


def _model(schema, seed):
    features = tuple(
        FeatureConfig(c.name, TableConfig(c.name, c.vocabulary_size, 4)) for c in schema.categorical
    )
    return DLRM(DLRMConfig(2, features, (8, 4), (8, 1), seed=seed))


class Served:
    """A SavedModel as TensorFlow Serving has it: a session, fed by the names of tensors."""

    def __init__(self, folder):
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, ["serve"], folder)
        self.signatures = {
            name: signature
            for name, signature in loaded.signature_def.items()
            if not name.startswith("__")
        }

    def run(self, signature, inputs):
        definition = self.signatures[signature]
        return self._session.run(
            definition.outputs["probability"].name,
            {definition.inputs[name].name: value for name, value in inputs.items()},
        )


@dataclasses.dataclass
class Exported:
    model: DLRM
    folder: str
    served: Served


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data") / "rows")
    with DatasetWriter(folder, RAGGED, rows_per_record=4) as writer:
        writer.write("evaluation", _features(RAGGED, ROWS), np.arange(ROWS) % 2)
    return folder


@pytest.fixture(scope="module")
def expected(exported):
    """What each version says of the rows of the data set."""
    features = _tensors(_features(RAGGED, ROWS))
    return {
        version: tf.sigmoid(exported[version].model(features, training=False))[:, 0].numpy()
        for version in ("1", "2")
    }


# ---- Warm-up and batching.


@pytest.mark.parametrize("name", ["aligned", "1"])
def test_every_warmup_request_fits_its_signature_and_is_answered(exported, name):
    served = exported[name].served
    path = os.path.join(exported[name].folder, "assets.extra", "tf_serving_warmup_requests")
    seen = []
    for record in tf.data.TFRecordDataset(path):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        signature = request.model_spec.signature_name
        infos = served.signatures[signature].inputs
        assert request.inputs.keys() == infos.keys()
        for key, tensor in request.inputs.items():
            assert tensor.dtype == infos[key].dtype
            shape = tf.TensorShape(tensor.tensor_shape)
            assert tf.TensorShape(infos[key].tensor_shape).is_compatible_with(shape)
        inputs = {key: tf.make_ndarray(tensor) for key, tensor in request.inputs.items()}
        answer = served.run(signature, inputs)
        assert np.all((answer > 0) & (answer < 1))
        seen.append((signature, len(answer)))
    assert sorted(seen) == [
        (signature, n) for signature in sorted(served.signatures) for n in (1, 32)
    ]


def _rows(inputs):
    """Number of rows of a request as TensorFlow Serving's BatchingSession counts them."""
    first = {np.shape(value)[:1] for value in inputs.values()}
    if () in first:
        raise ValueError("input tensors must have at least one dimension")
    if len(first) > 1:
        raise ValueError("input tensors must have equal 0th-dimension size")
    return first.pop()[0]


def _requests(schema, signature):
    """Two requests, of 3 and of 2 rows."""
    for rows in (3, 2):
        features = _tensors(_features(schema, rows))
        if signature == "serve_examples":
            yield {"examples": np.array(client_options.examples(features, rows), object)}
        else:
            yield {name: value.numpy() for name, value in named_inputs(features).items()}


def _may_be_batched(served):
    def sizes(signature):
        return [info.tensor_shape.dim for info in signature.inputs.values()]

    return not any(
        not dims or dims[0].size != -1 or name.endswith("_row_lengths")
        for signature in served.signatures.values()
        for dims, name in zip(sizes(signature), signature.inputs, strict=True)
    )


@pytest.mark.parametrize("signature", ["serving_default", "serve_examples"])
def test_requests_joined_by_the_server_are_answered_as_alone(exported, signature):
    served = exported["aligned"].served
    assert _may_be_batched(served)
    requests = list(_requests(ALIGNED, signature))
    assert [_rows(request) for request in requests] == [3, 2]
    joined = {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}
    alone = np.concatenate([served.run(signature, request) for request in requests])
    np.testing.assert_allclose(served.run(signature, joined), alone, rtol=1e-6)
    config = _config("batching.config", _batching_parameters())
    # Any sum of rows is a batch; padded ids would be ids.
    assert not config.allowed_batch_sizes and not config.pad_variable_length_inputs


def test_ragged_columns_and_rank_are_not_for_batching(exported):
    assert not _may_be_batched(exported["1"].served)
    for request in _requests(RAGGED, "serving_default"):
        with pytest.raises(ValueError, match="equal 0th-dimension"):
            _rows(request)
    with pytest.raises(ValueError, match="at least one dimension"):
        _rows(_ranking())
    # So the server must batch only what asks for it.
    assert _flags()["enable_per_model_batching_parameters"] == "true"


# ---- Configuration.


def _proto(name, fields):
    """A message type of TensorFlow Serving that its Python package does not bring along."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="t", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name=name)
    for number, (field, type_name) in fields.items():
        added = message.field.add(name=field, number=number, label=1)
        if type_name.startswith("."):
            added.type, added.type_name = added.TYPE_MESSAGE, type_name
        elif type_name == "repeated int64":
            added.type, added.label = added.TYPE_INT64, 3
        else:
            added.type = getattr(added, f"TYPE_{type_name.upper()}")
    return file


def _message_class(files, name):
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    for file in files:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))


def _batching_parameters():
    """Of tensorflow_serving/servables/tensorflow/session_bundle_config.proto."""
    fields = {
        1: ("max_batch_size", ".google.protobuf.Int64Value"),
        2: ("batch_timeout_micros", ".google.protobuf.Int64Value"),
        3: ("max_enqueued_batches", ".google.protobuf.Int64Value"),
        4: ("num_batch_threads", ".google.protobuf.Int64Value"),
        5: ("thread_pool_name", ".google.protobuf.StringValue"),
        6: ("allowed_batch_sizes", "repeated int64"),
        7: ("pad_variable_length_inputs", "bool"),
        8: ("enable_large_batch_splitting", ".google.protobuf.BoolValue"),
        9: ("max_execution_batch_size", ".google.protobuf.Int64Value"),
    }
    return _message_class([_proto("BatchingParameters", fields)], "BatchingParameters")


def _monitoring_config():
    """Of tensorflow_serving/config/monitoring_config.proto."""
    prometheus = _proto("PrometheusConfig", {1: ("enable", "bool"), 2: ("path", "string")})
    monitoring = _proto("MonitoringConfig", {1: ("prometheus_config", ".t.PrometheusConfig")})
    monitoring.dependency.append(prometheus.name)
    return _message_class([prometheus, monitoring], "MonitoringConfig")


def _config(name, kind):
    return text_format.Parse((FOLDER / name).read_text(), kind())


def _models():
    (model,) = _config("models.config", ModelServerConfig).model_config_list.config
    return model


def _dockerfile():
    """The instructions of the Dockerfile, as (name, rest)."""
    lines = [
        li for li in (FOLDER / "Dockerfile").read_text().splitlines() if not li.startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def _flags():
    (entry,) = [json.loads(rest) for name, rest in _dockerfile() if name == "ENTRYPOINT"]
    assert entry[0] == "tensorflow_model_server"
    return dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in entry[1:])


def _manifest():
    service, deployment = yaml.safe_load_all((FOLDER / "tensorflow_serving.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return service, deployment, container


def test_the_dockerfile_copies_what_its_flags_name():
    (copied,) = [rest.split() for name, rest in _dockerfile() if name == "COPY"]
    *names, target = copied
    assert all((FOLDER / name).is_file() for name in names)
    files = {flag: path for flag, path in _flags().items() if flag.endswith("_file")}
    assert files.keys() == {
        "model_config_file",
        "batching_parameters_file",
        "monitoring_config_file",
    }
    assert sorted(files.values()) == sorted(target + name for name in names)
    image = dict(_dockerfile())["FROM"]
    assert image == "tensorflow/serving:${TF_SERVING_VERSION}"
    # The server must be able to read what the newest TensorFlow of setup.py exports.
    newest = re.search(r'"tensorflow>=[\d.]+,<2\.(\d+)"', (ROOT / "setup.py").read_text())[1]
    version = dict(rest.split("=") for name, rest in _dockerfile() if name == "ARG")
    assert version["TF_SERVING_VERSION"].split(".")[:2] == ["2", str(int(newest) - 1)]


def test_the_manifest_agrees_with_the_image_and_the_configuration():
    service, deployment, container = _manifest()
    spec, pod = deployment["spec"], deployment["spec"]["template"]
    assert spec["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    ports = {"grpc": int(_flags()["port"]), "rest": int(_flags()["rest_api_port"])}
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == ports
    assert {p["name"]: p["port"] for p in service["spec"]["ports"]} == ports
    for client, name in ((grpc_client.GrpcOptions, "grpc"), (rest_client.RestOptions, "rest")):
        assert client().server == f"localhost:{ports[name]}"
        assert client().model == _models().name
    # The flags stand in the image alone.
    assert "args" not in container and "command" not in container

    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys() == {"data", "config"}
    assert _models().base_path == f"{mounts['data']['mountPath']}/{_models().name}"
    assert os.path.dirname(_flags()["model_config_file"]) == mounts["config"]["mountPath"]
    config_map = volumes["config"]["configMap"]["name"]
    for text in (
        (FOLDER / "tensorflow_serving.yaml").read_text(),
        (FOLDER / "README.md").read_text(),
    ):
        (command,) = re.findall(
            rf"kubectl create configmap {config_map} ((?:\s|[\\#]|--\S+)*)", text
        )
        files = {os.path.basename(path) for path in _flags().values() if path.startswith("/etc")}
        assert set(re.findall(r"--from-file=([\w.]+)", command)) == files


def test_the_probes_ask_for_the_model():
    _, _, container = _manifest()
    paths = {
        probe: container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    status = f"/v1/models/{_models().name}"
    assert paths == {
        "startupProbe": status,
        "livenessProbe": status,
        "readinessProbe": f"{status}/metadata",
    }
    assert {container[probe]["httpGet"]["port"] for probe in paths} == {"rest"}


def test_the_batching_configuration():
    config = _config("batching.config", _batching_parameters())
    _, _, container = _manifest()
    cpus = int(container["resources"]["requests"]["cpu"])
    assert config.num_batch_threads.value == cpus
    assert config.max_batch_size.value >= 32  # rows of the larger warm-up requests
    assert config.batch_timeout_micros.value == 0
    assert config.max_enqueued_batches.value >= config.num_batch_threads.value
    assert _flags()["enable_batching"] == "true"


def test_prometheus_finds_the_metrics():
    config = _config("monitoring.config", _monitoring_config()).prometheus_config
    _, deployment, container = _manifest()
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert config.enable and annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/path"] == config.path
    assert int(annotations["prometheus.io/port"]) == int(_flags()["rest_api_port"])


def test_models_config_serves_the_newest_version():
    assert _models().model_platform == "tensorflow"
    assert _models().model_version_policy.latest.num_versions == 1
    assert not _models().version_labels


def _labels():
    """The labels of the README's example."""
    (block,) = re.findall(r"```proto\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    (model,) = text_format.Parse(block, ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path) == (_models().name, _models().base_path)
    labels = dict(model.version_labels)
    assert set(labels.values()) <= set(model.model_version_policy.specific.versions)
    assert _flags()["allow_version_labels_for_unavailable_models"] == "true"
    return labels


def test_commands_of_the_readme_have_the_clients_flags():
    commands = re.findall(
        r"python -m serving\.(\w+) (.*)",
        "\n".join((FOLDER / name).read_text() for name in
                  ("README.md", "grpc_client.py", "rest_client.py")),
    )  # fmt: skip
    assert {name for name, _ in commands} == {"grpc_client", "rest_client"}
    known = {field.name for field in dataclasses.fields(client_options.ClientOptions)}
    for _, command in commands:
        assert set(re.findall(r"--(\w+)=", command)) <= known


# ---- Servers that speak the protocol.


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Models:
    """What both servers have: versions and labels of one model, errors as TensorFlow Serving's."""

    def __init__(self, versions, labels):
        self._versions, self._labels = versions, labels
        # Cleared: predictions wait until it is set again.
        self.go_on = threading.Event()
        self.go_on.set()

    def find(self, name, version=None, label=None):
        if label and label not in self._labels:
            message = f"Unrecognized servable version label: {label}"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        version = self._labels[label] if label else version
        if name != "dlrm" or (version or 1) not in self._versions:
            wanted = f"Specific({name}, {version})" if version else f"Latest({name})"
            message = f"Servable not found for request: {wanted}"
            raise Refused(grpc.StatusCode.NOT_FOUND, message)
        return self._versions[version or max(self._versions)]

    def predict(self, served, signature, inputs):
        self.go_on.wait(20)
        if signature not in served.signatures:
            message = f'Serving signature name: "{signature}" not found in signature def'
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
        if inputs.keys() != served.signatures[signature].inputs.keys():
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "input keys do not match the signature")
        try:
            return served.run(signature, inputs)
        except tf.errors.InvalidArgumentError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, error.message) from error


class GrpcService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self._models = models

    def _served(self, spec):
        choice = spec.WhichOneof("version_choice")
        return self._models.find(
            spec.name,
            spec.version.value if choice == "version" else None,
            spec.version_label if choice == "version_label" else None,
        )

    def Predict(self, request, context):
        try:
            served = self._served(request.model_spec)
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            answer = self._models.predict(served, request.model_spec.signature_name, inputs)
        except Refused as error:
            context.abort(error.code, str(error))
        response = predict_pb2.PredictResponse()
        response.outputs["probability"].CopyFrom(tf.make_tensor_proto(answer))
        return response

    def GetModelMetadata(self, request, context):
        try:
            served = self._served(request.model_spec)
        except Refused as error:
            context.abort(error.code, str(error))
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in served.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response


def _rest_handler(models):
    path = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict")
    codes = {grpc.StatusCode.NOT_FOUND: 404, grpc.StatusCode.INVALID_ARGUMENT: 400}

    def tensor(value, info):
        """As FillTensorProto of TensorFlow Serving's json_tensor.cc."""
        dtype = tf.as_dtype(info.dtype)
        if dtype == tf.string:
            texts = [base64.b64decode(v["b64"]) if isinstance(v, dict) else v for v in value]
            return np.array(texts, object)
        if dtype.is_integer and np.array(value or [0]).dtype.kind != "i":
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{value} is not of expected type")
        return np.array(value, dtype.as_numpy_dtype)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                name, version, label = path.fullmatch(self.path).groups()
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served = models.find(name, version and int(version), label)
                infos = served.signatures[body["signature_name"]].inputs
                inputs = {key: tensor(body["inputs"][key], info) for key, info in infos.items()}
                answer = models.predict(served, body["signature_name"], inputs)
                # Nine digits, as TensorFlow Serving writes them.
                code, reply = 200, {"outputs": [float(f"{value:.9g}") for value in answer]}
            except Refused as error:
                code, reply = codes[error.code], {"error": str(error)}
            content = json.dumps(reply).encode()
            with contextlib.suppress(ConnectionError):  # a client that has not waited
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *args):
            pass

    return Handler


@pytest.fixture(scope="module")
def models(exported):
    return Models({1: exported["1"].served, 2: exported["2"].served}, _labels())


@pytest.fixture(scope="module")
def servers(models):
    """The addresses of both by their client."""
    before = dict(os.environ)
    os.environ["no_proxy"] = os.environ["no_grpc_proxy"] = "127.0.0.1"
    grpc_server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        GrpcService(models), grpc_server
    )
    grpc_address = f"127.0.0.1:{portpicker.pick_unused_port()}"
    grpc_server.add_insecure_port(grpc_address)
    grpc_server.start()
    rest_address = ("127.0.0.1", portpicker.pick_unused_port())
    rest_server = http.server.ThreadingHTTPServer(rest_address, _rest_handler(models))
    thread = threading.Thread(target=rest_server.serve_forever)
    thread.start()
    yield {"grpc": grpc_address, "rest": "{}:{}".format(*rest_address)}
    models.go_on.set()
    rest_server.shutdown()
    thread.join()
    rest_server.server_close()
    grpc_server.stop(None).wait()
    os.environ.clear()
    os.environ.update(before)


# ---- Clients.


def _ask(client, inputs=None, **options):
    """Calls a client within this process."""
    if client == "rest":
        options = rest_client.RestOptions(**options)

        def ask(inputs):
            return rest_client.ask(options, inputs)

        connection = contextlib.nullcontext()
    else:
        options = grpc_client.GrpcOptions(**options)
        connection = grpc_client.Connection(options)
        ask = connection.ask
    with connection:
        return ask(inputs) if inputs is not None else client_options.score(options, ask)


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


BOTH = pytest.mark.parametrize("client", ["grpc", "rest"])


@BOTH
@pytest.mark.parametrize("signature", ["serving_default", "serve_examples"])
def test_predictions_are_the_models(client, signature, servers, data_dir, expected):
    result = _ask(
        client,
        server=servers[client],
        data_dir=data_dir,
        signature=signature,
        batch_size=4,
        requests=9,
    )
    np.testing.assert_allclose(result["predictions"], expected["2"], atol=1e-6)
    assert result["labels"] == [k % 2 for k in range(ROWS)]


@BOTH
def test_versions_and_labels(client, servers, expected):
    inputs = named_inputs(_tensors(_features(RAGGED, ROWS)))
    inputs = {name: value.numpy() for name, value in inputs.items()}
    for choice, version in (
        ({"version": 1}, "1"),
        ({"label": "stable"}, "1"),
        ({"version": 2}, "2"),
        ({"label": "canary"}, "2"),
    ):
        answer = _ask(client, inputs, server=servers[client], **choice)
        np.testing.assert_allclose(answer, expected[version], atol=1e-6)
    assert not np.allclose(expected["1"], expected["2"], atol=1e-4)


@BOTH
@pytest.mark.parametrize("signature", ["rank", "serve_examples"])
def test_requests_from_a_file(client, signature, servers, exported, tmp_path):
    if signature == "rank":
        requests = [_ranking()]
    else:
        requests = list(_requests(RAGGED, signature))
    path = tmp_path / "requests.jsonl"
    lines = [json.dumps({k: v.tolist() for k, v in r.items()}, default=rest_client._plain) for r in
             requests]  # fmt: skip
    path.write_text("\n".join(lines))
    result = _ask(client, server=servers[client], inputs_file=str(path), signature=signature)
    served = exported["2"].served
    answers = np.concatenate([served.run(signature, request) for request in requests])
    np.testing.assert_allclose(result["predictions"], answers, rtol=1e-6)
    assert result.keys() == {"predictions"}


@BOTH
def test_nobody_at_the_address(client, servers, data_dir):
    server = f"127.0.0.1:{portpicker.pick_unused_port()}"
    with pytest.raises(UserError, match=f"--server={server} .*can't be reached: .*refused.*[.]$"):
        _ask(client, server=server, data_dir=data_dir)


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "other"}, r"Servable not found for request: Latest\(other\)\.$"),
        ({"version": 9}, r"Servable not found for request: Specific\(dlrm, 9\)\.$"),
        ({"label": "none"}, r"Unrecognized servable version label: none\.$"),
    ],
)
def test_what_the_server_does_not_have(client, options, message, servers, data_dir):
    with pytest.raises(UserError, match="refused the request .*" + message):
        _ask(client, server=servers[client], data_dir=data_dir, **options)


@BOTH
def test_an_answer_that_does_not_come(client, servers, models, data_dir):
    models.go_on.clear()
    try:
        with pytest.raises(UserError, match=r"did not answer within --timeout_seconds=0\.5\.$"):
            _ask(client, server=servers[client], data_dir=data_dir, timeout_seconds=0.5)
    finally:
        models.go_on.set()


@BOTH
def test_an_id_outside_its_vocabulary(client, servers, exported):
    inputs = _ranking() | {"user": np.int64(50)}
    with pytest.raises(UserError, match="refused the request .*Feature user has the id 50"):
        _ask(client, inputs, server=servers[client], inputs_file="-", signature="rank")


def test_grpc_names_the_inputs_and_signatures_that_there_are(servers):
    common = {"server": servers["grpc"], "inputs_file": "-"}
    with pytest.raises(UserError, match="has no input 'item'; its inputs are candidate_dense, "):
        _ask("grpc", {"item": [1]}, signature="rank", **common)
    with pytest.raises(UserError, match="no --signature=other; it has rank, serve_examples, "):
        _ask("grpc", {"item": [1]}, signature="other", **common)
    with pytest.raises(UserError, match="Input 'user' is of the wrong type: "):
        _ask("grpc", {"user": 1.5}, signature="rank", **common)


def test_rest_at_the_port_of_grpc(servers, data_dir):
    with pytest.raises(UserError, match="does not speak HTTP, or the connection broke"):
        _ask("rest", server=servers["grpc"], data_dir=data_dir)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of --data_dir and --inputs_file"),
        ({"data_dir": "a", "inputs_file": "b"}, "one of --data_dir and --inputs_file"),
        ({"data_dir": "a", "version": 1, "label": "b"}, "one of --version and --label"),
        ({"data_dir": "a", "signature": "rank"}, "no inputs of --signature=rank"),
        ({"data_dir": "a", "timeout_seconds": 0.0}, "--timeout_seconds=0.0 must be above 0"),
        ({"data_dir": "a", "batch_size": 0}, "--batch_size=0 must be 1 or more"),
        ({"data_dir": "a", "model": ""}, "--model is missing"),
        ({"data_dir": "a", "split": "other"}, "--split=other must be one of"),
    ],
)
def test_flags_that_contradict_each_other(options, message):
    with pytest.raises(UserError, match=message):
        rest_client.RestOptions(**options).validate()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[1]", "line 2 is no object"),
        ('{"a": {"b64": "?"}}', "line 2 is no JSON"),
    ],
)
def test_a_file_that_is_none(line, message, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text("{}\n" + line)
    with pytest.raises(UserError, match=message):
        client_options.score(rest_client.RestOptions(inputs_file=str(path)), lambda inputs: [])


def _command(client, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"serving.{client}_client", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@BOTH
def test_the_command(client, servers, data_dir, expected):
    result = _command(
        client, f"--server={servers[client]}", f"--data_dir={data_dir}", "--batch_size=5"
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    np.testing.assert_allclose(answer["predictions"], expected["2"][:5], atol=1e-6)


def test_the_command_ends_with_a_sentence(servers, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text("{}")
    result = _command("rest", f"--server={servers['rest']}", f"--inputs_file={path}", "--model=no")
    assert result.returncode == 2 and not result.stdout
    assert result.stderr == (
        f"rest_client: http://{servers['rest']}/v1/models/no:predict refused the request (404): "
        "Servable not found for request: Latest(no).\n"
    )


def test_rest_needs_neither_tensorflow_nor_numpy():
    code = (
        "import serving.rest_client, sys; print({'numpy', 'tensorflow', 'grpc'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr
