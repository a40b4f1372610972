"""Triton, a server that is not ours, with SavedModels in processes that cannot import tf_dlrm."""

import contextlib
import dataclasses
import json
import threading
import time

import numpy as np
import pytest
from tritonclient import grpc

from benchmarks.serving_triton import Client, Triton, probabilities, request_body

# For what takes a few seconds on an idle machine.
_SECONDS_TO_LOAD = 120
_ROWS = (1, 2, 33)
# The end of the complaint about numbers of rows: the inputs of one number a row, in its order.
_EQUAL_ROWS = "inputs_must_have_equal_numbers_of_rows.user.item.tags_row_lengths"


@pytest.fixture(scope="module")
def triton(versions, raw_model, tmp_path_factory):
    """The server with a model for each signature; `dlrm` is `serving_default`."""
    server = Triton(tmp_path_factory.mktemp("triton"))
    server.publish(versions[0].path, "dlrm", 1)
    for signature in ("serve_examples", "rank"):
        server.publish(versions[0].path, signature, 1, signature)
    server.publish(raw_model.path, "serve_raw", 1, "serve_raw")
    with server:
        yield server


@pytest.fixture
def client(triton):
    with contextlib.closing(Client(triton.http)) as connection:
        yield connection


@pytest.fixture
def grpc_client(triton):
    with grpc.InferenceServerClient(f"127.0.0.1:{triton.grpc}") as connection:
        yield connection


def _ask_by_grpc(grpc_client, model, inputs):
    tensors = []
    for name, value in inputs.items():
        array = np.atleast_1d(value)
        kind = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}[array.dtype.name]
        tensors.append(grpc.InferInput(name, list(array.shape), kind))
        tensors[-1].set_data_from_numpy(array)
    return grpc_client.infer(model, tensors).as_numpy("probability")


def _wait_for(client, model, versions):
    end = time.monotonic() + _SECONDS_TO_LOAD
    while client.versions(model) != versions:
        assert time.monotonic() < end, f"{model} does not have the versions {versions}."
        time.sleep(0.05)


def _state(client, model, version):
    status, answer = client.post("/v2/repository/index", b"{}")
    assert status == 200
    states = {(m["name"], m.get("version")): m.get("state") for m in json.loads(answer)}
    return states.get((model, str(version)))


@pytest.mark.parametrize(("model", "signature"), [("dlrm", "serving_default"), ("rank", "rank")])
def test_probabilities_over_http(client, versions, model, signature):
    for rows in _ROWS:
        request = versions[0].requests[signature](rows)
        status, answer = client.infer(model, request_body(request.inputs))
        assert status == 200, answer
        np.testing.assert_allclose(probabilities(answer), request.probability, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "signature"),
    [("dlrm", "serving_default"), ("rank", "rank"), ("serve_examples", "serve_examples")],
)
def test_probabilities_over_grpc(grpc_client, versions, model, signature):
    for rows in _ROWS:
        request = versions[0].requests[signature](rows)
        result = _ask_by_grpc(grpc_client, model, request.inputs)
        np.testing.assert_allclose(result, request.probability, atol=1e-6)


def test_fields_of_the_log_over_grpc(grpc_client, raw_model):
    result = _ask_by_grpc(grpc_client, "serve_raw", raw_model.request.inputs)
    np.testing.assert_allclose(result, raw_model.request.probability, atol=1e-6)


def _without(name):
    return lambda body: body["inputs"].pop(_place(body, name))


def _place(body, name):
    return [entry["name"] for entry in body["inputs"]].index(name)


def _with(name, **change):
    return lambda body: body["inputs"][_place(body, name)].update(change)


def _more(**tensor):
    return lambda body: body["inputs"].append(tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # A missing feature, and one that is none of the model's.
        (_without("item"), "missing required input(s) ['item']"),
        (_more(name="colour", datatype="INT64", shape=[1], data=[1]), "'colour'"),
        # Wrong types.
        (_with("item", datatype="FP32", data=[1.0, 2.0]), "input 'item' data-type is 'FP32'"),
        (_with("item", data=["a", "b"]), "Unable to parse 'data'"),
        # Ragged where dense is meant, and shapes that do not fit.
        (_with("words", data=[[1, 2, 3], [1]]), "Shape does not match"),
        (_with("words", shape=[2, 2], data=[1, 2, 3, 4]), "'words'"),
        (_with("item", shape=[1], data=[1]), _EQUAL_ROWS),
        (_with("tags_row_lengths", shape=[0], data=[]), _EQUAL_ROWS),
        (_with("tags_row_lengths", data=[9, 9]), "tags_row_lengths must be whole numbers"),
        # An id of another vocabulary.
        (_with("item", data=[3, 40]), "Feature item has the id 40 at row 1"),
        (_with("dense", data=[1e39] + [0.0] * 5), "The dense features of the request"),
    ],
)
def test_bad_input_is_an_error_of_the_request(client, versions, change, message):
    good = versions[0].request(2)
    body = json.loads(request_body(good.inputs))
    change(body)
    status, answer = client.infer("dlrm", json.dumps(body).encode())
    assert status in (400, 500) and message in answer["error"], (status, answer)
    _check_good(client, good)


def test_requests_of_ten_megabytes(client, grpc_client, versions):
    good = versions[0].request(2)
    # Text that is no request, one that is cut off, and one that lies about its shape.
    large = versions[0].request(120_000)
    body = request_body(large.inputs)
    assert len(body) > 10_000_000
    wrong = json.loads(body)
    wrong["inputs"][0]["shape"][0] += 1
    for bad, message in (
        (b"x" * 10_000_000, "failed to parse the request JSON"),
        (body[:-1000], "failed to parse the request JSON"),
        (json.dumps(wrong).encode(), "Shape does not match"),
    ):
        status, answer = client.infer("dlrm", bad)
        assert status in (400, 500) and message in answer["error"], (status, answer)
        _check_good(client, good)
    garbage = {"examples": np.array([b"\x0f" * 10_000_000], object)}
    with pytest.raises(grpc.InferenceServerException, match="Could not parse example input"):
        _ask_by_grpc(grpc_client, "serve_examples", garbage)
    # A good one of that size is answered.
    status, answer = client.infer("dlrm", body)
    assert status == 200
    np.testing.assert_allclose(probabilities(answer), large.probability, atol=1e-6)
    _check_good(client, good)


def _check_good(client, request):
    status, answer = client.infer("dlrm", request_body(request.inputs))
    assert status == 200, answer
    np.testing.assert_allclose(probabilities(answer), request.probability, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes:
        asked: When, by `time.monotonic`.
        given: The probabilities as bytes, or what the server said in their place.
    """

    asked: float
    rows: int
    status: int
    version: str | None
    given: object


class Load:
    """Clients that ask all the time.

    Attributes:
        answers: What came of each request.
        errors: What was raised instead.
    """

    def __init__(self, triton, model, bodies, clients=6):
        self.answers, self.errors = [], []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(triton.http, model, bodies, k))
            for k in range(clients)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count=60):
        """Waits until so many requests that are sent from now on are answered."""
        start = time.monotonic()
        with self._changed:
            enough = self._changed.wait_for(
                lambda: self.errors or sum(a.asked > start for a in self.answers) >= count,
                _SECONDS_TO_LOAD,
            )
        assert enough and not self.errors, self.errors

    def _ask(self, port, model, bodies, turn):
        with contextlib.closing(Client(port)) as client:
            while not self._stop.is_set():
                rows = _ROWS[turn % len(_ROWS)]
                turn += 1
                start = time.monotonic()
                error = result = None
                try:
                    status, answer = client.infer(model, bodies[rows])
                    given = probabilities(answer).tobytes() if status == 200 else answer
                    result = Answer(start, rows, status, answer.get("model_version"), given)
                except Exception as caught:
                    error = repr(caught)
                with self._changed:
                    if result is None:
                        self.errors.append(error)
                    else:
                        self.answers.append(result)
                    self._changed.notify_all()


def _quiet_answers(client, model, bodies, version, requests):
    """Returns the bytes that are answered without load, which are the model's probabilities."""
    given = {}
    for rows, body in bodies.items():
        status, answer = client.infer(model, body)
        assert status == 200 and answer["model_version"] == str(version)
        given[rows] = probabilities(answer)
        np.testing.assert_allclose(given[rows], requests[rows].probability, atol=1e-6)
    return {rows: value.tobytes() for rows, value in given.items()}


def test_a_new_version_under_load(triton, client, versions):
    first, second = ({r: v.request(r) for r in _ROWS} for v in versions)
    bodies = {rows: request_body(request.inputs) for rows, request in first.items()}
    triton.publish(versions[0].path, "renewed", 1)
    _wait_for(client, "renewed", [1])
    expected = {"1": _quiet_answers(client, "renewed", bodies, 1, first)}
    with Load(triton, "renewed", bodies) as load:
        load.wait_for_answers()
        triton.publish(versions[1].path, "renewed", 2)
        _wait_for(client, "renewed", [2])
        switched = time.monotonic()
        load.wait_for_answers()
    expected["2"] = _quiet_answers(client, "renewed", bodies, 2, second)
    assert not load.errors
    assert {answer.status for answer in load.answers} == {200}
    for answer in load.answers:
        assert answer.given == expected[answer.version][answer.rows]
    assert {answer.version for answer in load.answers} == {"1", "2"}
    assert {answer.version for answer in load.answers if answer.asked > switched} == {"2"}

    # A version that is damaged is not taken into service.
    damaged = triton.repository.parent / "damaged"
    damaged.mkdir()
    (damaged / "saved_model.pb").write_bytes(b"no protobuf")
    with Load(triton, "renewed", bodies) as load:
        triton.publish(str(damaged), "renewed", 3)
        end = time.monotonic() + _SECONDS_TO_LOAD
        while _state(client, "renewed", 3) != "UNAVAILABLE":
            assert time.monotonic() < end
            time.sleep(0.05)
        load.wait_for_answers()
    assert not load.errors
    for answer in load.answers:
        assert answer.version == "2" and answer.given == expected["2"][answer.rows]
