"""A store that speaks S3, on this machine, shared by all tests of this folder."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import uuid

import numpy as np
import pytest

from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

ROOT = pathlib.Path(__file__).parents[2]
BUCKET = "clicks"
_REQUEST = re.compile(r'"(?:\x1b\[\d+m)*([A-Z]+) (\S+)')


def pytest_collection_modifyitems(items):
    needed = ("tensorflow_io", "moto", "boto3")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    for item in items:
        if missing and pathlib.Path(__file__).parent in item.path.parents:
            reason = f"needs {', '.join(missing)}, as .ci/io installs them"
            item.add_marker(pytest.mark.skip(reason=reason))


# In a process of its own: TensorFlow holds Python's lock while it reads a checkpoint.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Store:
    """The server, seen by boto3: what the code under test wrote is read by another client."""

    def __init__(self, endpoint: str, log: pathlib.Path) -> None:
        import boto3

        self.client = boto3.client("s3", endpoint_url=endpoint)
        self._log = log
        self._seen = 0

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of all requests since the last call."""
        # The server logs a request before it has answered the next one of the same client.
        self.client.head_bucket(Bucket=BUCKET)
        lines = self._log.read_text().splitlines()[self._seen :]
        self._seen += len(lines)
        found = [match.groups() for line in lines if (match := _REQUEST.search(line))]
        return [request for request in found if request != ("HEAD", f"/{BUCKET}")]


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    log = tmp_path_factory.mktemp("store") / "requests"
    with log.open("w") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    lines = (line.strip() for line in server.stdout)
    endpoint = f"http://127.0.0.1:{next(line for line in lines if line.isdecimal())}"
    variables = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "S3_ENDPOINT": endpoint,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        store = Store(endpoint, log)
        store.client.create_bucket(Bucket=BUCKET)
        yield store
    server.terminate()
    server.wait(timeout=30)


@pytest.fixture
def folder(store) -> str:
    """A new folder of the store."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


SCHEMA = Schema(
    dense=("row", "noise"),
    categorical=(
        CategoricalColumn("row_id", 5000),
        CategoricalColumn("pair", 11, hotness=2),
        CategoricalColumn("bag", 7, hotness=None),
    ),
)


@pytest.fixture
def write_rows():
    """Writes rows that carry their number, and returns them."""

    def write(path: str, rows: int, split: str = "train", seed: int = 0, **writer_options):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, 4, rows)
        features = {
            "dense": np.stack([np.arange(rows), rng.random(rows)], axis=1).astype(np.float32),
            "row_id": np.arange(rows),
            "pair": rng.integers(0, 11, (rows, 2)),
            "bag": (rng.integers(0, 7, lengths.sum()), lengths),
        }
        label = (rng.random(rows) < 0.5).astype(np.float32)
        with DatasetWriter(path, SCHEMA, {}, **writer_options) as writer:
            writer.write(split, features, label)
        return features, label

    return write


class CommandLine:
    """Runs `python -m MODULE FLAGS` as a user does."""

    def start(self, module: str, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, module: str, *flags: str) -> dict:
        process = self.start(module, *flags)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, (process.returncode, err)
        return json.loads(out.splitlines()[-1]) if out.strip().startswith("{") else {"text": out}


@pytest.fixture(scope="session")
def command_line() -> CommandLine:
    return CommandLine()
