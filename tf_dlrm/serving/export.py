"""Exports a model as a SavedModel that TensorFlow alone can load."""

from __future__ import annotations

import json
import os
from typing import Any

import tensorflow as tf

from tf_dlrm.errors import UserError, first_line
from tf_dlrm.models import DLRM, Ensemble
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.schema import Schema

# TensorFlow Serving leaves this folder of a SavedModel alone; its warm-up requests lie here too.
EXTRA_ASSETS = "assets.extra"
# The file by which a SavedModel is known.
SAVED_MODEL = "saved_model.pb"


def export_model(
    model: DLRM | Ensemble, schema: Schema, export_dir: str, run: dict[str, Any]
) -> None:
    """Writes a SavedModel with the signatures `serving_default` and `serve_examples`.

    - `serving_default`: one named tensor a feature, `dense` float32 [batch, dense features] and
      each categorical feature int64 [batch] (or [batch, hotness]), to `probability` float32
      [batch]. Any batch size.
    - `serve_examples`: `examples` string [batch], serialized tf.train.Example with the same names,
      to `probability`.

    The SavedModel holds plain TensorFlow ops and variables: no Keras, no custom code. It appears
    whole or not at all; one that is there already is replaced once the new one is whole.

    Args:
        model: The trained model.
        schema: The columns it was trained on.
        export_dir: The folder to write.
        run: The run's description, kept in `assets.extra/run.json`.

    Raises:
        UserError: if the folder can't be written, or holds something that is no SavedModel.
    """
    check_exportable(schema)
    try:
        with WholeFolder(export_dir, SAVED_MODEL, "SavedModel") as folder:
            _write(model, schema, folder.work, run)
            folder.commit()
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"The model can't be exported to {export_dir} ({first_line(error)}); what was there "
            "before is unchanged."
        ) from error
    except DataError as error:
        raise UserError(f"--export_dir={export_dir}: {error}") from error


def check_exportable(schema: Schema) -> None:
    """Raises UserError if a feature can't be an input of a signature."""
    for column in schema.categorical:
        if column.hotness is None:
            raise UserError(
                f"Feature {column.name!r} has a varying number of ids; only features with a fixed "
                "number of ids can be exported."
            )


def _write(model: DLRM | Ensemble, schema: Schema, folder: str, run: dict[str, Any]) -> None:
    module = _ServingModule(model, schema)
    tf.saved_model.save(
        module,
        folder,
        signatures={
            "serving_default": module.serve.get_concrete_function(),
            "serve_examples": module.serve_examples.get_concrete_function(),
        },
    )
    os.makedirs(os.path.join(folder, EXTRA_ASSETS))
    with open(os.path.join(folder, EXTRA_ASSETS, "run.json"), "w", encoding="utf-8") as out:
        json.dump(run, out, indent=1)


class _ServingModule(tf.Module):
    """The model as functions over variables. The Keras model itself stays outside: were it an
    attribute, its configuration would be saved along."""

    def __init__(self, model: DLRM | Ensemble, schema: Schema) -> None:
        super().__init__()

        def probability(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            logits = tf.reshape(model(features, training=False), [-1])
            return {"probability": tf.sigmoid(logits)}

        named: dict[str, tf.TensorSpec] = {}
        parsed: dict[str, tf.io.FixedLenFeature] = {}
        if schema.dense:
            width = len(schema.dense)
            named["dense"] = tf.TensorSpec([None, width], tf.float32, name="dense")
            parsed["dense"] = tf.io.FixedLenFeature([width], tf.float32)
        for column in schema.categorical:
            shape = [] if column.hotness == 1 else [column.hotness]
            named[column.name] = tf.TensorSpec([None, *shape], tf.int64, name=column.name)
            parsed[column.name] = tf.io.FixedLenFeature(shape, tf.int64)

        self.serve = tf.function(probability, input_signature=[named])
        # Those that the forward pass reads, and no optimizer slots.
        self.weights = list(self.serve.get_concrete_function().variables)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
        def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return probability(tf.io.parse_example(examples, parsed))

        self.serve_examples = serve_examples
