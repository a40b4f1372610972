"""Requests that TensorFlow Serving answers before it takes a new version into service."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_dlrm.serving.request_checks import ROW_LENGTHS

# The name that TensorFlow Serving looks for in `assets.extra`.
WARMUP_FILE = "tf_serving_warmup_requests"
# Rows of the requests: one is traced and planned otherwise than many.
_BATCH_SIZES = (1, 32)


def write_warmup(
    folder: str, signatures: Mapping[str, Mapping[str, tf.TensorSpec]], texts: Mapping[str, bytes]
) -> None:
    """Writes requests to every signature.

    Args:
        folder: The SavedModel's `assets.extra`.
        signatures: The inputs of each signature by name.
        texts: For each input of text, one that can be scored.
    """
    with tf.io.TFRecordWriter(os.path.join(folder, WARMUP_FILE)) as out:
        for signature, specs in signatures.items():
            for batch in _BATCH_SIZES:
                inputs = {name: _values(name, spec, batch, texts) for name, spec in specs.items()}
                out.write(prediction_log(signature, inputs))


def _values(name: str, spec: tf.TensorSpec, batch: int, texts: Mapping[str, bytes]) -> np.ndarray:
    shape = [batch if size is None else size for size in spec.shape]
    if spec.dtype == tf.string:
        # Not np.full, which takes the zero bytes at the end of a text away.
        return np.array([texts[name]] * int(np.prod(shape)), object).reshape(shape)
    # Row 0 is in every table, and lengths of 1 fit as many ids as there are rows.
    value = int(name.endswith(ROW_LENGTHS))
    return np.full(shape, value, spec.dtype.as_numpy_dtype)


def prediction_log(signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns a serialized `tensorflow.serving.PredictionLog` of one request.

    Written field by field, since the package of these messages brings a gRPC stack with it. The
    numbers are those of prediction_log.proto, predict.proto and model.proto.
    """
    spec = _message((3, signature.encode()))  # ModelSpec.signature_name
    entries = [
        _message((1, name.encode()), (2, tf.make_tensor_proto(value).SerializeToString()))
        for name, value in sorted(inputs.items())
    ]
    request = _message((1, spec), *((2, entry) for entry in entries))  # PredictRequest
    return _message((6, _message((1, request))))  # PredictionLog.predict_log.request


def _message(*fields: tuple[int, bytes]) -> bytes:
    """Returns a protocol message of strings and messages, by the numbers of their fields."""
    return b"".join(
        bytes([number << 3 | 2]) + _varint(len(value)) + value for number, value in fields
    )


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
