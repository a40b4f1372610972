"""Loads an exported SavedModel for evaluation, with TensorFlow alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.serving.export import EXTRA_ASSETS
from tf_dlrm.serving.foreign_files import files_of, read_description, whole_number
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
        files_of(path)
        run = read_description(files.join(path, EXTRA_ASSETS, "run.json"))
        whole_number(run, "step")
        model = tf.saved_model.load(path)
        serve = model.signatures["serving_default"]
        _, specs = serve.structured_input_signature
        output = serve.structured_outputs["probability"]
        if output.dtype != tf.float32 or output.shape.rank != 1:
            raise ValueError(f"its probability is {output.dtype.name} {output.shape}")
    except UserError:
        raise
    except (
        tf.errors.OpError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise UserError(f"{not_ours}, or it is damaged ({first_line(error)}).") from error

    def logits(features: dict[str, tf.Tensor]) -> tf.Tensor:
        inputs = named_inputs(features)
        for name in {**specs, **inputs}:
            if name not in specs or not specs[name].is_compatible_with(inputs.get(name)):
                raise UserError(
                    f"--saved_model={path} is not the model that its run.json describes: its "
                    f"inputs are {', '.join(sorted(specs))}, and {name} of the rows is none, or of "
                    "another type or shape."
                )
        probability = tf.cast(serve(**inputs)["probability"], tf.float64)
        # Keeps a probability that single precision rounded to 0 or 1 at a finite logit.
        probability = tf.clip_by_value(probability, 1e-38, 1.0 - 2.0**-25)
        return tf.math.log(probability) - tf.math.log1p(-probability)

    # The signature's functions hold the variables only weakly.
    logits.model = model  # type: ignore[attr-defined]
    return logits, run
