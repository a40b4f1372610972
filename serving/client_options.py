"""What the example clients share: their flags, and the inputs of the requests these ask for."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tf_dlrm.errors import UserError
from tf_dlrm.options import INT32, Options, option
from tfrecords import files

# The inputs of one request by name: arrays, or nested lists of numbers, texts and bytes.
Inputs = dict[str, Any]
# The signatures whose inputs can be made of the rows of a data set.
_OF_ROWS = ("serving_default", "serve_examples")


@dataclasses.dataclass(frozen=True)
class ClientOptions(Options):
    """Which model of which server to ask, and for what; each field is a flag."""

    server: str = option("", "HOST:PORT of the server.")
    model: str = option("dlrm", "Name of the model, as in models.config.")
    version: int = option(
        0, "Version of the model; 0: that of --label, or else the newest.", least=0
    )
    label: str = option("", "Label of a version, as in models.config.")
    signature: str = option("serving_default", "Which signature of the model to call.")
    data_dir: str = option(
        "", "Data set folder whose rows to score, by serving_default or serve_examples."
    )
    split: str = option("evaluation", "Split of the data set.", ("train", "evaluation", "test"))
    batch_size: int = option(8, "Rows of a request.", least=1, most=INT32)
    requests: int = option(1, "Number of requests, of the first rows of the data set.", least=1)
    inputs_file: str = option(
        "",
        "In place of --data_dir, for every signature: a file in which each line is one request, a "
        "JSON object of its inputs by name; bytes are written as {'b64': BASE64}.",
    )
    timeout_seconds: float = option(10.0, "Longest time for one answer.")

    def validate(self) -> None:
        """Raises UserError on values that can't be, or that contradict each other."""
        super().validate()
        if not 0 < self.timeout_seconds <= 86400:
            raise UserError(
                f"--timeout_seconds={self.timeout_seconds} must be above 0, and at most 86400."
            )
        for name in ("server", "model", "signature"):
            if not getattr(self, name):
                raise UserError(f"--{name} is missing.")
        if self.version and self.label:
            raise UserError("Give one of --version and --label.")
        if bool(self.data_dir) == bool(self.inputs_file):
            raise UserError("Give one of --data_dir and --inputs_file.")
        if self.data_dir and self.signature not in _OF_ROWS:
            raise UserError(
                f"Rows of a data set are no inputs of --signature={self.signature}; give an "
                f"--inputs_file, or one of {', '.join(_OF_ROWS)}."
            )


def score(options: ClientOptions, ask: Callable[[Inputs], list[float]]) -> dict[str, Any]:
    """Sends the requests that the flags ask for.

    Args:
        options: The flags.
        ask: From the inputs of a request to its probabilities.

    Returns:
        `predictions` of all rows, and their `labels` where they are known.

    Raises:
        UserError: If the file or the data set can't be read, or a request is not answered.
    """
    requests = _of_file(options.inputs_file) if options.inputs_file else _of_data_set(options)
    predictions: list[float] = []
    labels: list[float] = []
    for inputs, known in requests:
        answer = ask(inputs)
        if not all(0.0 <= probability <= 1.0 for probability in answer):  # a NaN is not
            raise UserError(f"--server={options.server} gave {answer}, which are no probabilities.")
        if known and len(answer) != len(known):
            raise UserError(
                f"--server={options.server} gave {len(answer)} probabilities for the "
                f"{len(known)} rows of a request."
            )
        predictions += answer
        labels += known
    return {"predictions": predictions} | ({"labels": labels} if labels else {})


def _of_file(path: str) -> Iterator[tuple[Inputs, list[float]]]:
    for number, line in enumerate(files.read_bytes(path).splitlines(), 1):
        try:
            inputs = json.loads(line, object_hook=_bytes_of)
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"--inputs_file={path}: line {number} is no JSON ({error}).") from error
        if not isinstance(inputs, dict):
            raise UserError(f"--inputs_file={path}: line {number} is no object of inputs by name.")
        yield inputs, []


def _bytes_of(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"], validate=True) if value.keys() == {"b64"} else value


def _of_data_set(options: ClientOptions) -> Iterator[tuple[Inputs, list[float]]]:
    # Here, so that a client that reads a file does not wait for TensorFlow and Keras.
    from tf_dlrm.serving.signatures import named_inputs
    from tf_dlrm.training.sources import readable_errors
    from tfrecords.reader import RecordSource

    source = RecordSource(options.data_dir)
    with readable_errors(source):
        batches = source.batches(options.split, options.batch_size).take(options.requests)
        for features, labels in batches:
            if options.signature == "serve_examples":
                inputs: Inputs = {"examples": examples(features, len(labels))}
            else:
                inputs = {name: value.numpy() for name, value in named_inputs(features).items()}
            yield inputs, labels.numpy().tolist()


def examples(features: Mapping[str, Any], rows: int) -> list[bytes]:
    """Returns each row of a batch as a serialized tf.train.Example, as serve_examples takes it."""
    import numpy as np
    import tensorflow as tf

    serialized = []
    for row in range(rows):
        feature = {}
        for name, column in features.items():
            values = np.ravel(column[row]).tolist()
            if column.dtype.is_floating:
                numbers = tf.train.FloatList(value=values)
                feature[name] = tf.train.Feature(float_list=numbers)
            else:
                feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        example = tf.train.Example(features=tf.train.Features(feature=feature))
        serialized.append(example.SerializeToString())
    return serialized
