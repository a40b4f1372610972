"""A program in C that knows TensorFlow's C API only: what TensorFlow Serving does with a model."""

import os
import pathlib
import subprocess

import numpy as np
import pytest
import tensorflow as tf

_SOURCE = pathlib.Path(__file__).with_name("score.c")
_TYPES = {"float32": "float", "int64": "int64", "object": "string"}
# The end of the complaint about numbers of rows: the inputs of one number a row, in its order.
_EQUAL_ROWS = "inputs_must_have_equal_numbers_of_rows.user.item.tags_row_lengths"


class Scorer:
    """The program at work."""

    def __init__(self, program):
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",  # TensorFlow quotes what it could not parse
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def close(self):
        self._process.stdin.close()
        assert self._process.wait(60) == 0

    def load(self, saved_model):
        """Returns the resident megabytes afterwards."""
        answer, kilobytes = self._ask(f"load {saved_model}").split()
        assert answer == "loaded"
        return int(kilobytes) / 1024

    def run(self, inputs, tensors):
        """Returns the probabilities, or the message of an error."""
        names, output = tensors
        commands = []
        for name, value in inputs.items():
            array = np.asarray(value)
            values = array.ravel().tolist()
            if array.dtype == object:
                values = ["x" + text.hex() for text in values]
            words = ["feed", names[name], _TYPES[array.dtype.name], array.ndim, *array.shape]
            commands.append(" ".join(map(str, [*words, *values])))
        answer, _, rest = self._ask("\n".join([*commands, f"run {output}"])).partition(" ")
        return np.array(rest.split(), np.float32) if answer == "ok" else rest

    def libraries(self):
        return pathlib.Path(f"/proc/{self._process.pid}/maps").read_text()

    def _ask(self, commands):
        self._process.stdin.write(commands + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    program = str(tmp_path_factory.mktemp("c") / "score")
    libraries = tf.sysconfig.get_lib()
    command = ["gcc", "-Wall", "-Werror", f"-I{tf.sysconfig.get_include()}", str(_SOURCE)]
    command += ["-o", program, f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    command += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    subprocess.run(command, check=True)
    running = Scorer(program)
    yield running
    running.close()


@pytest.mark.parametrize("signature", ["serving_default", "serve_examples", "rank"])
def test_probabilities_are_the_models(scorer, versions, tensor_names, signature):
    for version in versions:
        scorer.load(version.path)
        tensors = tensor_names(version.path, signature)
        for rows in (1, 2, 33):
            request = version.requests[signature](rows)
            result = scorer.run(request.inputs, tensors)
            assert not isinstance(result, str), result
            np.testing.assert_allclose(result, request.probability, atol=1e-6)
    assert "libtensorflow_cc" in scorer.libraries() and "libpython" not in scorer.libraries()


def test_fields_of_the_log(scorer, raw_model, tensor_names):
    scorer.load(raw_model.path)
    result = scorer.run(raw_model.request.inputs, tensor_names(raw_model.path, "serve_raw"))
    assert len(result) > 5
    np.testing.assert_allclose(result, raw_model.request.probability, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": None}, "serving_default_item"),
        ({"item": np.zeros(2, np.float32)}, "to be int64 but float is provided"),
        ({"item": np.array([3, 40])}, "Feature item has the id 40 at row 1"),
        ({"item": np.array([3])}, _EQUAL_ROWS),
        (
            {"words": np.zeros((2, 2), np.int64)},
            "[2,2] is not compatible with expected shape [?,3]",
        ),
        ({"tags_row_lengths": np.array([9, 1])}, "tags_row_lengths must be whole numbers"),
        ({"tags_row_lengths": np.zeros(0, np.int64)}, _EQUAL_ROWS),
        ({"dense": np.full((2, 3), np.nan, np.float32)}, "The dense features of the request"),
    ],
)
def test_bad_input_is_an_error_of_the_request(scorer, versions, tensor_names, change, message):
    (version, _) = versions
    scorer.load(version.path)
    tensors = tensor_names(version.path, "serving_default")
    request = version.request(2)
    inputs = {k: v for k, v in (request.inputs | change).items() if v is not None}
    answer = scorer.run(inputs, tensors)
    assert isinstance(answer, str) and message in answer
    result = scorer.run(request.inputs, tensors)
    np.testing.assert_allclose(result, request.probability, atol=1e-6)


@pytest.mark.parametrize("dense", [np.float32(0.5), np.array([0.5], np.float32)])
def test_the_users_features_are_not_broadcast(scorer, versions, tensor_names, dense):
    (version, _) = versions
    scorer.load(version.path)
    tensors = tensor_names(version.path, "rank")
    request = version.requests["rank"](3)
    answer = scorer.run(request.inputs | {"dense": dense}, tensors)
    assert isinstance(answer, str) and "is not compatible with expected shape" in answer
    result = scorer.run(request.inputs, tensors)
    np.testing.assert_allclose(result, request.probability, atol=1e-6)


def test_an_example_of_ten_megabytes_that_is_none(scorer, versions, tensor_names):
    (version, _) = versions
    scorer.load(version.path)
    tensors = tensor_names(version.path, "serve_examples")
    answer = scorer.run({"examples": np.array([b"\xff" * 10_000_000], object)}, tensors)
    assert "Could not parse example input" in answer
    request = version.requests["serve_examples"](2)
    result = scorer.run(request.inputs, tensors)
    np.testing.assert_allclose(result, request.probability, atol=1e-6)


def test_loading_again_and_again_takes_no_memory(scorer, versions, tensor_names):
    tensors = tensor_names(versions[0].path, "serving_default")
    requests = [version.request(5) for version in versions]
    resident = []
    for turn in range(30):
        request = requests[turn % 2]
        resident.append(scorer.load(versions[turn % 2].path))
        result = scorer.run(request.inputs, tensors)
        np.testing.assert_allclose(result, request.probability, atol=1e-6)
    assert resident[-1] - resident[9] < 3, resident
