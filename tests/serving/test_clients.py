"""The clients in the folder serving/, against servers that speak TensorFlow Serving's protocols."""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import client_options, grpc_client, rest_client
from tf_dlrm.errors import UserError
from tf_dlrm.serving.signatures import named_inputs

ROOT = pathlib.Path(__file__).parents[2]
# Of versions, as in serving/README.md.
LABELS = {"stable": 1, "canary": 2}


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
    return Models({1: exported["1"].served, 2: exported["2"].served}, LABELS)


@pytest.fixture(scope="module")
def servers(models):
    """The addresses of both by their client."""
    before = dict(os.environ)
    os.environ["no_proxy"] = os.environ["no_grpc_proxy"] = "127.0.0.1"
    grpc_server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        GrpcService(models), grpc_server
    )
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    rest_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _rest_handler(models))
    thread = threading.Thread(target=rest_server.serve_forever, args=(0.02,))
    thread.start()
    yield {"grpc": f"127.0.0.1:{grpc_port}", "rest": f"127.0.0.1:{rest_server.server_port}"}
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


@pytest.fixture(scope="module")
def inputs(rows):
    """A request of the rows of the data set."""
    named = named_inputs(rows.tensors(rows.features(rows.ragged, rows.count)))
    return {name: value.numpy() for name, value in named.items()}


BOTH = pytest.mark.parametrize("client", ["grpc", "rest"])


@BOTH
@pytest.mark.parametrize("signature", ["serving_default", "serve_examples"])
def test_predictions_are_the_models(client, signature, servers, data_dir, expected, rows):
    result = _ask(
        client,
        server=servers[client],
        data_dir=data_dir,
        signature=signature,
        batch_size=4,
        requests=9,
    )
    np.testing.assert_allclose(result["predictions"], expected["2"], atol=1e-6)
    assert result["labels"] == [k % 2 for k in range(rows.count)]


@BOTH
def test_versions_and_labels(client, servers, expected, inputs):
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
def test_requests_from_a_file(client, signature, servers, exported, tmp_path, rows):
    if signature == "rank":
        requests = [rows.ranking()]
    else:
        requests = list(rows.requests(rows.ragged, signature))
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
def test_nobody_at_the_address(client, servers, inputs):
    # Bound, so that nobody else gets the port, but nobody listens there.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(
            UserError, match=f"--server={server} .*can't be reached: .*refused.*[.]$"
        ):
            _ask(client, inputs, server=server)


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "other"}, r"Servable not found for request: Latest\(other\)\.$"),
        ({"version": 9}, r"Servable not found for request: Specific\(dlrm, 9\)\.$"),
        ({"label": "none"}, r"Unrecognized servable version label: none\.$"),
    ],
)
def test_what_the_server_does_not_have(client, options, message, servers, inputs):
    with pytest.raises(UserError, match="refused the request .*" + message):
        _ask(client, inputs, server=servers[client], **options)


@BOTH
def test_an_answer_that_does_not_come(client, servers, models, inputs):
    models.go_on.clear()
    try:
        with pytest.raises(UserError, match=r"did not answer within --timeout_seconds=0\.5\.$"):
            _ask(client, inputs, server=servers[client], timeout_seconds=0.5)
    finally:
        models.go_on.set()


@BOTH
def test_an_id_outside_its_vocabulary(client, servers, exported, rows):
    inputs = rows.ranking() | {"user": np.int64(50)}
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


def test_rest_at_the_port_of_grpc(servers, inputs):
    with pytest.raises(UserError, match="does not speak HTTP, or the connection broke"):
        _ask("rest", inputs, server=servers["grpc"])


def _process(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@BOTH
def test_the_command(client, servers, data_dir, expected, run_command):
    result = run_command(
        f"serving.{client}_client",
        f"--server={servers[client]}",
        f"--data_dir={data_dir}",
        "--batch_size=5",
    )
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    np.testing.assert_allclose(answer["predictions"], expected["2"][:5], atol=1e-6)


@pytest.mark.process
@BOTH
def test_the_command_in_a_process_of_its_own(client, servers, data_dir, expected):
    flags = f"--server={servers[client]}", f"--data_dir={data_dir}", "--batch_size=5"
    result = _process("-m", f"serving.{client}_client", *flags)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    np.testing.assert_allclose(answer["predictions"], expected["2"][:5], atol=1e-6)


def test_the_command_ends_with_a_sentence(servers, tmp_path):
    # In a process of its own, which is cheap: this client needs no TensorFlow.
    path = tmp_path / "requests.jsonl"
    path.write_text("{}")
    flags = f"--server={servers['rest']}", f"--inputs_file={path}", "--model=no"
    result = _process("-m", "serving.rest_client", *flags)
    assert result.returncode == 2 and not result.stdout
    assert result.stderr == (
        f"rest_client: http://{servers['rest']}/v1/models/no:predict refused the request (404): "
        "Servable not found for request: Latest(no).\n"
    )


def test_rest_needs_neither_tensorflow_nor_numpy():
    code = (
        "import serving.rest_client, sys; print({'numpy', 'tensorflow', 'grpc'} & {*sys.modules})"
    )
    result = _process("-c", code)
    assert result.stdout == "set()\n", result.stderr
