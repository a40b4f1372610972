"""Counts on parameter servers how often each batch was applied, until a file `stop` appears.

Usage: python -m cluster_counts FOLDER, which gets counts.json. Batch number `b` looks up row `b` of
every table, the loss is the sum of the rows and a dense weight, and SGD's rate is 1: so each time
that a batch is applied takes 1 from those rows and from the weight.
"""

import json
import pathlib
import sys

import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.keras_api import keras
from tf_dlrm.layers import EmbeddingCollection
from tf_dlrm.training.distribution.choose import distribution_of
from tf_dlrm.training.distribution.parameter_server import is_server, make_asynchronous_steps, serve
from tf_dlrm.training.options.distribution import DistributionOptions

_TABLES = [f"t{k}" for k in range(8)]
_BATCHES = 100_000
_STRETCH = 40


class _Sum(tf.Module):
    def __init__(self):
        tables = (
            TableConfig(n, _BATCHES, 1, optimizer=SGD(1.0), initializer="zeros") for n in _TABLES
        )
        self.rows = EmbeddingCollection([FeatureConfig(table.name, table) for table in tables])
        self.rows.build()
        self.weight = tf.Variable([0.0])

    @property
    def trainable_variables(self):
        return (self.weight,)

    def __call__(self, features, training):
        return tf.add_n(list(self.rows(features, training=training).values())) + self.weight


def _batch(number):
    return dict.fromkeys(_TABLES, number[tf.newaxis]), tf.zeros([1])


def main():
    """Trains, and writes how often each batch was applied to each table."""
    if is_server():
        serve()
    folder = pathlib.Path(sys.argv[1])
    strategy = distribution_of(DistributionOptions("parameter_server")).make_strategy()
    with strategy.scope():
        model, optimizer = _Sum(), keras.optimizers.legacy.SGD(1.0)
    steps = make_asynchronous_steps(model, optimizer, strategy, lambda labels, logits: logits)
    batches = iter(tf.data.Dataset.range(_BATCHES).map(_batch))
    done = 0
    while not (folder / "stop").exists():
        steps(batches, tf.constant(_STRETCH))
        done += _STRETCH
        print(f"{done} batches", file=sys.stderr, flush=True)
    tables = model.rows.tables
    counts = {name: (-tables[name].read_rows()[:done, 0]).numpy().tolist() for name in _TABLES}
    counts["weight"] = -float(model.weight[0])
    (folder / "counts.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main()
