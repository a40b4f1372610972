"""Loads an exported SavedModel for evaluation, with TensorFlow alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.serving.export import EXTRA_ASSETS
from tf_dlrm.serving.signatures import named_inputs
from tfrecords import files


def load_saved_model(
    path: str,
) -> tuple[Callable[[dict[str, tf.Tensor]], tf.Tensor], dict[str, Any]]:
    """Loads what `export_model` wrote.

    Returns:
        A function from a batch of features to logits of shape [batch], in double precision, since a
        probability near 1 has lost its logit in single precision; and the run's description.

    Raises:
        UserError: if there is no SavedModel of this package.
    """
    not_ours = f"--saved_model={path} is not a SavedModel exported by tf_dlrm"
    try:
        run = json.loads(files.read_bytes(files.join(path, EXTRA_ASSETS, "run.json")))
        run["step"]
        model = tf.saved_model.load(path)
        serve = model.signatures["serving_default"]
    except (tf.errors.OpError, OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{not_ours}, or it is damaged ({first_line(error)}).") from error

    def logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        inputs = named_inputs(features)
        probability = tf.cast(serve(**inputs)["probability"], tf.float64)
        # Keeps a probability that single precision rounded to 0 or 1 at a finite logit.
        probability = tf.clip_by_value(probability, 1e-38, 1.0 - 2.0**-25)
        return tf.math.log(probability) - tf.math.log1p(-probability)

    # The signature's functions hold the variables only weakly.
    logits.model = model  # type: ignore[attr-defined]
    return logits, run
