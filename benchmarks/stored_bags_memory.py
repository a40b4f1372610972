"""How much memory a training step takes where the bags of one feature need each id's own vector.

```
python -m benchmarks.stored_bags_memory --storage=multiply
PYTHONPATH=OTHER_CHECKOUT python benchmarks/stored_bags_memory.py
```

One feature has 100 ids in an example and a storage that multiplies, 25 have one id. Prints by how
much the resident size of the process grows at most, over what it was before, in one step of a batch
for which the step was traced before.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags

_BATCH = flags.DEFINE_integer("batch", 2048, "Examples in the step.")
_HOTNESS = flags.DEFINE_integer("hotness", 100, "Ids of the stored feature in an example.")
_OTHERS = flags.DEFINE_integer("others", 25, "Features of one id.")
_DIM = flags.DEFINE_integer("dim", 16, "Columns of all tables.")
_STORAGE = flags.DEFINE_enum("storage", "weighted_rows", ["weighted_rows", "multiply"], "Its kind.")
_ROWS = 10_000
_PROCESS = pathlib.Path("/proc/self")


def resident_bytes(entry: str) -> int:
    """Returns what Linux says of this process: `VmRSS`, the size, or `VmHWM`, the greatest one."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def growth(batch: int) -> int:
    """Returns the bytes by which a step of a batch makes the process grow at most."""
    import tensorflow as tf

    from tf_dlrm.embeddings import (
        Adagrad,
        FeatureConfig,
        QuotientRemainder,
        TableConfig,
        WeightedRows,
    )
    from tf_dlrm.layers import EmbeddingCollection

    storage = WeightedRows() if _STORAGE.value == "weighted_rows" else QuotientRemainder(100)
    kinds = [storage] + [None] * _OTHERS.value
    layer = EmbeddingCollection(
        [
            FeatureConfig(
                f"f{k}",
                TableConfig(f"t{k}", _ROWS, _DIM.value, optimizer=Adagrad(0.01), storage=kind),
            )
            for k, kind in enumerate(kinds)
        ]
    )
    layer.build()
    widths = {f"f{k}": (_HOTNESS.value,) if k == 0 else () for k in range(len(kinds))}
    specs = {name: tf.TensorSpec([None, *width], tf.int32) for name, width in widths.items()}

    @tf.function(input_signature=[specs])
    def step(ids: dict[str, tf.Tensor]) -> None:
        with tf.GradientTape() as tape:
            vectors = layer(ids, training=True)
            loss = tf.add_n([tf.reduce_sum(tf.square(vector)) for vector in vectors.values()])
        tape.gradient(loss, layer.trainable_variables)

    def ids_of(rows: int) -> dict[str, tf.Tensor]:
        chance = np.random.default_rng(0)
        return {
            name: tf.constant(chance.integers(0, _ROWS, (rows, *width)), tf.int32)
            for name, width in widths.items()
        }

    step(ids_of(2))
    ids = ids_of(batch)
    before = resident_bytes("VmRSS")
    (_PROCESS / "clear_refs").write_text("5")  # the greatest size is that of now
    step(ids)
    return resident_bytes("VmHWM") - before


def main(argv: Sequence[str]) -> None:
    """Prints one number."""
    del argv
    sys.stdout.write(f"{growth(_BATCH.value) / 1e6:,.1f} MB\n")


if __name__ == "__main__":
    app.run(main)
