"""How often a batch is trained on whose worker was killed, at random moments."""

import json
import random
import signal
import time

import numpy as np
import pytest

_KILLS = 6


@pytest.mark.exhaustive
@pytest.mark.process
def test_a_batch_is_applied_once_or_where_its_worker_died_twice(tmp_path, start, pytestconfig):
    rng = random.Random(pytestconfig.getoption("--hypothesis-seed"))
    own = ("--module=cluster_counts", "--", tmp_path)
    cluster = start("--workers=1", "--parameter_servers=2", f"--max_restarts={_KILLS}", *own)

    def wait_for_progress():
        begun = sum(" batches" in line for line in cluster.log)
        while sum(" batches" in line for line in cluster.log) < begun + 2:
            assert cluster.process.poll() is None, cluster.text()
            time.sleep(0.05)

    for _ in range(_KILLS):
        wait_for_progress()
        time.sleep(rng.random())
        cluster.signal("worker 0", signal.SIGKILL)
    wait_for_progress()
    (tmp_path / "stop").touch()
    assert cluster.finish() == 0, cluster.text()
    counts = json.loads((tmp_path / "counts.json").read_text())
    weight = counts.pop("weight")
    tables = np.array(list(counts.values()))  # [table, batch]
    assert set(np.unique(tables)) <= {1.0, 2.0}
    twice = (tables > 1).any(axis=0).sum()
    print(f"{_KILLS} kills, {twice} batches applied twice, {tables.shape[1]} in all")
    assert twice <= _KILLS
    assert tables.shape[1] <= weight <= tables.shape[1] + _KILLS
