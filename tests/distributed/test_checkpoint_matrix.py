"""A checkpoint that any placement wrote is continued by any other, to the same numbers."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.embeddings.tables import ROWS
from tf_dlrm.serving.increment import open_variables
from tf_dlrm.training.export_options import ExportOptions
from tf_dlrm.training.exporting import export_checkpoint
from tf_dlrm.training.run import train

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


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def config(tiny, folder):
    def make(writer, reader=None):
        placement = reader or writer
        changes = dict(_ALL[placement])
        if placement in _PLANS:
            path = folder / f"{placement}.json"
            path.write_text(_PLANS[placement].to_json())
            changes["plan"] = str(path)
        name = f"{writer}_then_{reader}" if reader else writer
        if reader:
            changes["export_dir"] = str(folder / f"{name}_export")
        return tiny(folder / name, train_steps=20 if reader else 10, **changes)

    return make


def _continue_copy(folder, writer, reader):
    shutil.copytree(folder / writer, folder / f"{writer}_then_{reader}")


@pytest.fixture
def on_cluster(folder, config, start):
    """Returns a function that lets a cluster go on, and if `first` write its own checkpoint."""

    def run(placement, writers, first):
        jobs = [config(placement)] if first else []
        if first and placement in writers:  # while nothing else has been trained there
            jobs.append(config(placement, placement))
        others = [writer for writer in writers if writer != placement]
        for writer in others:
            _continue_copy(folder, writer, placement)
        jobs += [config(writer, placement) for writer in others]
        path = folder / f"{placement}_{first}.jobs"
        path.write_text(json.dumps([job.to_json() for job in jobs]))
        servers = ["--parameter_servers=2"] if placement == "servers" else []
        workers = 1 if servers else 2
        cluster = start(f"--workers={workers}", *servers, "--module=cluster_jobs", "--", str(path))
        code, _ = cluster.finish()
        assert code == 0, cluster.text()

    return run


@pytest.mark.parametrize(
    "writers_of",
    [
        pytest.param(_SOME, id="some"),
        pytest.param(dict.fromkeys(_ALL, list(_ALL)), id="all", marks=pytest.mark.exhaustive),
    ],
)
def test_every_placement_continues_what_another_wrote(
    writers_of, on_cluster, folder, config, checkpoint_tables, last_metrics
):
    for name in _IN_PROCESS:
        train(config(name))
    late = "two_workers"  # which has written nothing when the servers start for the first time
    on_cluster("servers", [name for name in writers_of["servers"] if name != late], True)
    on_cluster("two_workers", writers_of["two_workers"], True)
    if late in writers_of["servers"]:
        on_cluster("servers", [late], False)
    for reader in _IN_PROCESS:
        for writer in writers_of[reader]:
            _continue_copy(folder, writer, reader)
            train(config(writer, reader))
    tables_at_10, tables_at_20 = (
        checkpoint_tables(folder / name) for name in ("local", "local_then_local")
    )
    metrics = np.array(last_metrics(folder / "local_then_local"))
    assert metrics[0] == 20
    # Of 350 rows two of neighbouring scores in the other order are 3e-5 of AUC: rounding may do it
    allowed = [1e-9, 1e-4, *1e-5 * metrics[2:]]
    inputs = {
        "dense": tf.ones((3, 4)),
        **{f"C{k}": tf.constant([0, 7, 9], tf.int64) for k in (1, 2, 3)},
    }

    def exported_rows(name):
        """The rows of the three tables in an export of a run's newest checkpoint, as bytes."""
        path = str(folder / f"{name}_from_checkpoint")
        export_checkpoint(str(folder / name), "", path, ExportOptions())
        variables = open_variables(path)
        (key,) = (key for key in variables.shapes if key.startswith("tables/"))
        return variables.read(key, 0, 50 + 60 + 70).tobytes()

    def answers(name):
        loaded = tf.saved_model.load(str(folder / f"{name}_export"))
        outputs = loaded.signatures["serving_default"](**inputs)
        return next(iter(outputs.values())).numpy()

    expected = answers("local_then_local")
    for writer in _ALL:
        tables = checkpoint_tables(folder / writer)
        own = [tables[name].tobytes() for name in sorted(tables) if name.endswith(f"/{ROWS}")]
        assert len(own) == 3 and b"".join(own) == exported_rows(writer), writer
        for name, array in tables.items():
            np.testing.assert_allclose(
                array, tables_at_10[name], rtol=1e-3, atol=1e-5, err_msg=f"{writer} {name}"
            )
        for reader in (reader for reader in _ALL if writer in writers_of[reader]):
            name = f"{writer}_then_{reader}"
            np.testing.assert_array_less(
                np.abs(last_metrics(folder / name) - metrics), allowed, name
            )
            for key, array in checkpoint_tables(folder / name).items():
                np.testing.assert_allclose(
                    array, tables_at_20[key], rtol=1e-3, atol=1e-5, err_msg=f"{name} {key}"
                )
            np.testing.assert_allclose(answers(name), expected, rtol=1e-4, err_msg=name)
