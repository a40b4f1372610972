"""Tables cut over real processes learn what tables on one device learn."""

import pytest

pytestmark = pytest.mark.process


def test_every_sharding_and_optimizer_learns_what_one_device_learns(two_workers):
    assert two_workers.equality() == ["SGD Adagrad RowWiseAdagrad LazyAdam FTRL"] * 2
