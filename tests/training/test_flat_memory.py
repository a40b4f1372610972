"""Memory over hundreds of evaluations, checkpoints and exports in one process."""

import gc
import os

import numpy as np
import pytest

from tf_dlrm.serving.exporting import export_checkpoint
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.training import loop as training_loop
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import train


def _megabytes() -> float:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def _growth(megabytes: list[float]) -> float:
    """MB from the second fifth to the last one, by medians: a malloc's arenas come and go."""
    fifths = np.array_split(np.array(megabytes), 5)
    print([round(float(np.median(part)), 1) for part in fifths])
    return float(np.median(fifths[-1]) - np.median(fifths[1]))


@pytest.mark.exhaustive
def test_evaluations_and_checkpoints_keep_nothing(tiny, monkeypatch):
    found = []
    evaluate = training_loop.Loop._evaluate

    def measured(self, position):
        evaluate(self, position)
        found.append(_megabytes())

    monkeypatch.setattr(training_loop.Loop, "_evaluate", measured)
    train(tiny(epochs=25, eval_every_steps=1, checkpoint_every_steps=1, keep_checkpoints=2))
    assert len(found) >= 500
    # 1.2 MB for each evaluation once, 500 MB here.
    assert _growth(found) < 15


@pytest.mark.exhaustive
def test_exports_keep_nothing(tiny, tmp_path):
    train(tiny(train_steps=1))
    model_dir, found = tiny().run.model_dir, []
    for number in range(500):
        export_checkpoint(
            CheckpointedRun(model_dir), str(tmp_path / f"export{number % 2}"), ExportOptions()
        )
        found.append(_megabytes())
    assert _growth(found) < 15
