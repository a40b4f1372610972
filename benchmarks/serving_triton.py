"""NVIDIA's Triton on this machine, serving SavedModels: the server, its folders and a client.

The server is the one in the wheel of nvidia-pytriton (the extra `servers`). It has no backend for
TensorFlow any more, so serving_triton_model.py is one: Triton's own processes load the SavedModel
with TensorFlow alone. All else is Triton's: HTTP and gRPC, checks of types and shapes, queues, and
versions, which it finds in folders 1, 2, ... as TensorFlow Serving does, of which the highest is
served, and which are loaded and dropped while requests are answered.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import portpicker

# Triton's name for a type, by TensorFlow's number for it.
_TYPES = {1: "FP32", 7: "STRING", 9: "INT64"}
_SECONDS_TO_START = 120.0
_MODEL = Path(__file__).with_name("serving_triton_model.py")


class Triton:
    """The server, which ends with the context.

    Attributes:
        repository: Its folder of models.
        http: The port for HTTP on 127.0.0.1.
        grpc: The port for gRPC on 127.0.0.1.
        process: The server's process; each version of a model is a child of it.
        log: The file that it writes to.
    """

    def __init__(self, folder: Path) -> None:
        """Prepares to start.

        Args:
            folder: An empty folder for all its files.
        """
        self.repository = folder / "models"
        self.repository.mkdir(parents=True)
        self.log = folder / "triton.log"
        self.http, self.grpc = portpicker.pick_unused_port(), portpicker.pick_unused_port()
        self._folder = folder
        self._shared_memory = f"tf_dlrm_{os.getpid()}_{self.http}_"

    def __enter__(self) -> Triton:
        """Starts it.

        Raises:
            RuntimeError: If it ends, or is not ready in time.
        """
        spec = importlib.util.find_spec("pytriton")
        if spec is None or spec.origin is None:
            raise RuntimeError("pip install -e '.[servers]' installs the server, Triton.")
        wheel = Path(spec.origin).parent
        backends = self._backends(wheel / "tritonserver")
        environment = os.environ | {
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "LD_LIBRARY_PATH": os.pathsep.join(
                [str(wheel.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
            ),
        }
        command = [
            str(wheel / "tritonserver" / "bin" / "tritonserver"),
            f"--model-repository={self.repository}",
            f"--backend-directory={backends}",
            "--disable-auto-complete-config",
            # New versions are found every second.
            "--model-control-mode=poll",
            "--repository-poll-secs=1",
            "--http-address=127.0.0.1",
            f"--http-port={self.http}",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.grpc}",
            "--allow-metrics=false",
            "--exit-timeout-secs=5",
            # So that servers side by side have memory of their own.
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=environment,
                # Ctrl-C is for the process that then ends this one.
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it."""
        self.stop()

    def _backends(self, tritonserver: Path) -> Path:
        backends = self._folder / "backends"
        python, ours = backends / "python", backends / "savedmodel"
        for folder in (python, ours):
            folder.mkdir(parents=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        # Copies, since Triton follows no link out of the folder.
        for file in (tritonserver / "backends" / "python").glob("*.*"):
            shutil.copy(file, python)
        stub = "triton_python_backend_stub"
        shutil.copy(tritonserver / "python_backend_stubs" / version / stub, python / stub)
        shutil.copy(_MODEL, ours / "model.py")
        return backends

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), contextlib.closing(Client(self.http)) as client:
                if client.get("/v2/health/ready")[0] == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"Triton did not start:\n{self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """Ends the server and what it started."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        # The session holds this server and its children only.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            region.unlink(missing_ok=True)

    def resident_megabytes(self) -> dict[str, float]:
        """Returns the memory of the server itself and of the processes of its models.

        Pages that several processes share count once.
        """
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = " ".join(_read(path) for path in children).split()
        return {
            "server_mb": _megabytes(self.process.pid),
            "models_mb": sum(_megabytes(int(pid)) for pid in pids),
        }

    def publish(
        self, saved_model: str, model: str, version: int, signature: str = "serving_default"
    ) -> None:
        """Puts a version of a model into the repository, whole or not at all.

        Args:
            saved_model: The SavedModel's folder.
            model: The model's name.
            version: A number above those that are there.
            signature: Which signature is served.
        """
        target = self.repository / model
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            new = Path(work) / model / str(version)
            shutil.copytree(saved_model, new / "model.savedmodel")
            if target.exists():
                new.rename(target / str(version))
                return
            config = _config(saved_model, signature)
            (new.parent / "config.pbtxt").write_text(config, encoding="utf-8")
            new.parent.rename(target)

    def retire(self, model: str, version: int) -> None:
        """Removes the folder of a version of a model."""
        with tempfile.TemporaryDirectory(dir=self._folder) as work:
            (self.repository / model / str(version)).rename(Path(work) / "retired")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # a process that has just ended
        return ""


def _megabytes(pid: int) -> float:
    for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _config(saved_model: str, signature: str) -> str:
    """Returns Triton's configuration of a model by a signature's own description."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = (Path(saved_model) / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0]
    described = graph.signature_def[signature]
    lines = [
        'backend: "savedmodel"',
        "max_batch_size: 0",
        "instance_group [{ kind: KIND_CPU count: 1 }]",
        f'parameters {{ key: "signature" value {{ string_value: "{signature}" }} }}',
    ]
    for kind, tensors in (("input", described.inputs), ("output", described.outputs)):
        for name, tensor in sorted(tensors.items()):
            sizes = [dim.size for dim in tensor.tensor_shape.dim]
            type_name = f"TYPE_{_TYPES[tensor.dtype]}"
            # Triton has no scalars; the backend makes them.
            lines.append(
                f'{kind} [{{ name: "{name}" data_type: {type_name} dims: {sizes or [1]} }}]'
            )
    return "\n".join(lines) + "\n"


class Client:
    """A connection to Triton's HTTP port that stays open."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Returns the status and the body."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Returns the status and the body."""
        return self._ask("POST", path, body)

    def infer(self, model: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Sends a request of `request_body` to a model's newest version.

        Returns:
            The status, and what came back: `outputs` and `model_version`, or `error`.
        """
        status, answer = self.post(f"/v2/models/{model}/infer", body)
        return status, json.loads(answer)

    def versions(self, model: str) -> list[int]:
        """Returns the versions of a model that are served."""
        status, answer = self.get(f"/v2/models/{model}")
        return [int(version) for version in json.loads(answer)["versions"]] if status == 200 else []

    def _ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            self._connection.request(method, path, body)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next request opens it again
            raise


def request_body(inputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns a request with numbers by the names of the inputs."""
    types = {"float32": "FP32", "int64": "INT64"}
    return json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": list(np.shape(value)) or [1],
                    "datatype": types[np.asarray(value).dtype.name],
                    "data": np.ravel(value).tolist(),
                }
                for name, value in inputs.items()
            ]
        }
    ).encode()


def probabilities(answer: Mapping[str, Any]) -> np.ndarray:
    """Returns the probabilities in what came back."""
    (output,) = answer["outputs"]
    result: np.ndarray = np.array(output["data"], np.float32)
    return result
