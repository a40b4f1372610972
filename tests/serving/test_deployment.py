"""The folder serving/: configuration that agrees with itself and with the model."""

import dataclasses
import json
import os
import pathlib
import re

import numpy as np
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
    prediction_log_pb2,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import client_options, grpc_client, rest_client

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "serving"


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


def _may_be_batched(served):
    def sizes(signature):
        return [info.tensor_shape.dim for info in signature.inputs.values()]

    return not any(
        not dims or dims[0].size != -1 or name.endswith("_row_lengths")
        for signature in served.signatures.values()
        for dims, name in zip(sizes(signature), signature.inputs, strict=True)
    )


@pytest.mark.parametrize("signature", ["serving_default", "serve_examples"])
def test_requests_joined_by_the_server_are_answered_as_alone(exported, signature, rows):
    served = exported["aligned"].served
    assert _may_be_batched(served)
    requests = list(rows.requests(rows.aligned, signature))
    assert [_rows(request) for request in requests] == [3, 2]
    joined = {name: np.concatenate([r[name] for r in requests]) for name in requests[0]}
    alone = np.concatenate([served.run(signature, request) for request in requests])
    np.testing.assert_allclose(served.run(signature, joined), alone, rtol=1e-6)
    config = _config("batching.config", _batching_parameters())
    # Any sum of rows is a batch; padded ids would be ids.
    assert not config.allowed_batch_sizes and not config.pad_variable_length_inputs


def test_ragged_columns_and_rank_are_not_for_batching(exported, rows):
    assert not _may_be_batched(exported["1"].served)
    for request in rows.requests(rows.ragged, "serving_default"):
        with pytest.raises(ValueError, match="equal 0th-dimension"):
            _rows(request)
    with pytest.raises(ValueError, match="at least one dimension"):
        _rows(rows.ranking())
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


def test_labels_of_the_readme():
    (block,) = re.findall(r"```proto\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    (model,) = text_format.Parse(block, ModelServerConfig()).model_config_list.config
    assert (model.name, model.base_path) == (_models().name, _models().base_path)
    labels = dict(model.version_labels)
    # Those of test_clients.py.
    assert labels == {"stable": 1, "canary": 2}
    assert set(labels.values()) <= set(model.model_version_policy.specific.versions)
    assert _flags()["allow_version_labels_for_unavailable_models"] == "true"


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
