"""Tables cut over real processes learn what tables on one device learn."""

import pytest

# In one of pytest-xdist's workers: the tests of this folder share clusters.
pytestmark = [pytest.mark.process, pytest.mark.xdist_group("clusters")]


def test_every_sharding_and_optimizer_learns_what_one_device_learns(two_workers):
    assert two_workers.equality() == ["SGD Adagrad RowWiseAdagrad LazyAdam FTRL"] * 2
