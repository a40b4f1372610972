"""A checkpoint that any placement wrote is continued by any other, to the same numbers."""

import functools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.block import ROWS
from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.serving.exporting import export_checkpoint
from tf_dlrm.serving.increment import open_variables
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import train

pytestmark = pytest.mark.process

_IN_PROCESS = {
    "local": {},
    "mirrored_2": {"distribution": "mirrored", "virtual_devices": 2},
    "mirrored_4": {"distribution": "mirrored", "virtual_devices": 4},
}
_CLUSTERS = {
    "two_workers": {"distribution": "multi_worker_mirrored"},
    "servers": {"distribution": "parameter_server"},
}
_ALL = _IN_PROCESS | _CLUSTERS
# Of the 25 pairs those which show that every placement writes what one device reads, reads what one
# device wrote, and reads what another one wrote. The others: pytest -m exhaustive.
_SOME = {
    "local": list(_ALL),
    "mirrored_2": ["local"],
    "mirrored_4": ["local", "mirrored_2"],
    "two_workers": ["local", "mirrored_4"],
    "servers": ["local", "two_workers"],
}
_PLANS = {
    "mirrored_2": Plan(
        2,
        {
            "C1": TablePlan(ROW_WISE, (1, 0)),
            "C2": TablePlan(COLUMN_WISE, (0, 1)),
            "C3": TablePlan(DATA_PARALLEL),
        },
    ),
    "two_workers": Plan(
        2,
        {
            "C1": TablePlan(DATA_PARALLEL),
            "C2": TablePlan(ROW_WISE, (0, 1)),
            "C3": TablePlan(TABLE_WISE, (1,)),  # the first worker holds nothing of it
        },
    ),
    "servers": Plan(
        2,
        {
            "C1": TablePlan(COLUMN_WISE, (1, 0)),
            "C2": TablePlan(TABLE_WISE, (1,)),
            "C3": TablePlan(ROW_WISE, (0, 1)),
        },
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def train_by(tiny, folder, request):
    """Returns a function that trains a run of a placement to a step, and maybe exports it."""

    def run(placement, name, **changes):
        changes |= _ALL[placement]
        if placement in _PLANS:
            path = folder / f"{placement}.json"
            path.write_text(_PLANS[placement].to_json())
            changes["plan"] = str(path)
        config = tiny(folder / name, **changes)
        if placement in _CLUSTERS:
            cluster = "two_workers" if placement == "two_workers" else "two_servers"
            assert set(request.getfixturevalue(cluster).train(config)) == {"done"}
        else:
            train(config)
        return folder / name

    return run


@pytest.fixture(scope="module")
def written(train_by):
    """Returns a function that gives the folder of a placement's own run of 10 steps."""
    return functools.cache(lambda writer: train_by(writer, writer, train_steps=10))


@pytest.fixture(scope="module")
def continued(train_by, written, folder):
    """Returns a function that lets a placement go on to step 20 from another one's step 10."""

    def run(writer, reader):
        name = f"{writer}_then_{reader}"
        shutil.copytree(written(writer), folder / name)
        export_dir = str(folder / f"{name}_export")
        return train_by(reader, name, train_steps=20, export_dir=export_dir)

    return functools.cache(run)


def _answers(model_dir):
    """The answers of a run's export to three rows."""
    inputs = {
        "dense": tf.ones((3, 4)),
        **{f"C{k}": tf.constant([0, 7, 9], tf.int64) for k in (1, 2, 3)},
    }
    loaded = tf.saved_model.load(f"{model_dir}_export")
    return next(iter(loaded.signatures["serving_default"](**inputs).values())).numpy()


def _exported_rows(model_dir):
    """The rows of the three tables in an export of a run's newest checkpoint, as bytes."""
    path = f"{model_dir}_from_checkpoint"
    export_checkpoint(CheckpointedRun(str(model_dir)), path, ExportOptions())
    variables = open_variables(path)
    (key,) = (key for key in variables.shapes if key.startswith("tables/"))
    return variables.read(key, 0, 50 + 60 + 70).tobytes()


@pytest.mark.parametrize("writer", _ALL)
def test_every_placement_writes_what_one_device_writes(
    writer, written, checkpoint_tables, assert_equal_tables
):
    assert_equal_tables(written(writer), written("local"))
    tables = checkpoint_tables(written(writer))
    own = [tables[name].tobytes() for name in sorted(tables) if name.endswith(f"/{ROWS}")]
    assert len(own) == 3 and b"".join(own) == _exported_rows(written(writer))


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        pytest.param(
            writer,
            reader,
            marks=[] if writer in _SOME[reader] else [pytest.mark.exhaustive],
        )
        for reader in _ALL
        for writer in _ALL
    ],
)
def test_every_placement_continues_what_another_wrote(
    writer, reader, continued, assert_equal_tables, last_metrics
):
    expected, found = continued("local", "local"), continued(writer, reader)
    metrics = np.array(last_metrics(expected))
    assert metrics[0] == 20
    # Of 350 rows two of neighbouring scores in the other order are 3e-5 of AUC: rounding may do it
    allowed = [1e-9, 1e-4, *1e-5 * metrics[2:]]
    np.testing.assert_array_less(np.abs(last_metrics(found) - metrics), allowed)
    assert_equal_tables(found, expected)
    np.testing.assert_allclose(_answers(found), _answers(expected), rtol=1e-5)
