"""A backend of Triton: one signature of a SavedModel, run by TensorFlow and nothing of tf_dlrm.

Triton starts this in a process of its own for each version of a model, in whose folder there is a
`model.savedmodel`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# Triton's interpreter ignores PYTHONPATH.
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
# Wherever the package is installed: here it can't be imported.
sys.modules["tf_dlrm"] = sys.modules["tfrecords"] = None  # type: ignore[assignment]

import tensorflow as tf  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

_LONGEST_MESSAGE = 1000


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the SavedModel."""
        config = json.loads(args["model_config"])
        name = config["parameters"]["signature"]["string_value"]
        folder = os.path.join(args["model_repository"], args["model_version"], "model.savedmodel")
        # The signature's functions hold the variables only weakly.
        self._loaded = tf.saved_model.load(folder)
        self._signature = self._loaded.signatures[name]
        self._specs = self._signature.structured_input_signature[1]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request, with a message where TensorFlow has one."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name, spec in self._specs.items():
            if not spec.shape.rank:  # a scalar, which Triton does not have
                inputs[name] = inputs[name][0]
        try:
            outputs = self._signature(**{k: tf.constant(v) for k, v in inputs.items()})
        except (tf.errors.OpError, TypeError, ValueError) as error:
            # TensorFlow quotes what it could not parse, all of it.
            message = str(error)[:_LONGEST_MESSAGE]
            return triton.InferenceResponse(error=triton.TritonError(message))
        tensors = [triton.Tensor(name, value.numpy()) for name, value in outputs.items()]
        return triton.InferenceResponse(tensors)
