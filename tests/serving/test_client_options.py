"""The clients' flags, files of requests and answers, without a server."""

import pytest

from serving import client_options, rest_client
from tf_dlrm.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of --data_dir and --inputs_file"),
        ({"data_dir": "a", "inputs_file": "b"}, "one of --data_dir and --inputs_file"),
        ({"data_dir": "a", "version": 1, "label": "b"}, "one of --version and --label"),
        ({"data_dir": "a", "signature": "rank"}, "no inputs of --signature=rank"),
        ({"data_dir": "a", "timeout_seconds": 0.0}, "--timeout_seconds=0.0 must be above 0"),
        ({"data_dir": "a", "timeout_seconds": 1e10}, "must be above 0, and at most 86400"),
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
        ('{"a": {"b64": 5}}', "line 2 is no JSON"),
        ("[" * 100_000, "line 2 is no JSON"),
    ],
)
def test_a_file_that_is_none(line, message, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text("{}\n" + line)
    with pytest.raises(UserError, match=message):
        client_options.score(rest_client.RestOptions(inputs_file=str(path)), lambda inputs: [])


@pytest.mark.parametrize("answer", [[0.5, float("nan")], [1.5], [-0.1], [float("inf")]])
def test_an_answer_that_is_none(answer, tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text("{}\n")
    with pytest.raises(UserError, match="gave .*, which are no probabilities"):
        client_options.score(rest_client.RestOptions(inputs_file=str(path)), lambda inputs: answer)


def test_an_answer_for_fewer_rows(data_dir):
    options = rest_client.RestOptions(data_dir=data_dir, batch_size=4)
    with pytest.raises(UserError, match="gave 3 probabilities for the 4 rows of a request"):
        client_options.score(options, lambda inputs: [0.1, 0.2, 0.3])


@pytest.mark.parametrize("port", ["99999", "-1", "x", "18446744073709551616"])
def test_a_port_that_is_none(port):
    with pytest.raises(UserError, match=f"--server=localhost:{port} "):
        rest_client.ask(rest_client.RestOptions(server=f"localhost:{port}"), {"user": [1]})
