"""Tables cut over real processes learn what tables on one device learn."""

import re


def test_every_sharding_and_optimizer_learns_what_one_device_learns(start):
    cluster = start("--workers=2", "--module=cluster_equality", "--")
    code, _ = cluster.finish()
    assert code == 0, cluster.text()
    # Worker 0's lines went to standard output.
    equal = re.findall(r"worker 1\] (\w+) is equal", cluster.text())
    assert equal == ["SGD", "Adagrad", "RowWiseAdagrad", "LazyAdam", "FTRL"]
