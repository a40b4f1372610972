"""How rows are dealt out to devices."""

import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, TableConfig
from tf_dlrm.embeddings.plan import ROW_WISE, Plan, TablePlan, dealt_rows


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 3, 63, 64, 65, 130, 10_000])
def test_every_row_is_dealt_once_and_in_order(rows, parts):
    dealt = dealt_rows(rows, parts)
    assert [first for _, first, _ in dealt] == [0] + [stop for _, _, stop in dealt[:-1]]
    assert dealt[-1][2] == rows
    assert all(first < stop and 0 <= part < parts for part, first, stop in dealt)
    # Few ranges, for each is a slice in checkpoints: here at most nine doublings of 64.
    assert len(dealt) <= 9 * parts


def test_ranges_turn_where_they_double():
    assert dealt_rows(256, 2) == [(0, 0, 32), (1, 32, 96), (0, 96, 192), (1, 192, 256)]


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("rows", [10_000, 1_000_000])
def test_popular_ids_are_everywhere(rows, parts):
    weights = np.arange(1, rows + 1) ** -1.05
    ids = np.unique(np.random.default_rng(0).choice(rows, 65_536, p=weights / weights.sum()))
    held, asked = np.zeros(parts), np.zeros(parts)
    for part, first, stop in dealt_rows(rows, parts):
        held[part] += stop - first
        asked[part] += ((ids >= first) & (ids < stop)).sum()
    assert held.max() / held.mean() < 1.002
    assert asked.max() / asked.mean() < 1.06


def test_a_plan_names_the_devices_of_the_parts():
    plan = Plan(4, {"t": TablePlan(ROW_WISE, (3, 1))})
    shards = list(plan.blocks(TableConfig("t", 200, 5, optimizer=SGD(0.1))))
    assert [(s.device, s.first_row, s.rows) for s in shards] == [
        (3, 0, 32),
        (1, 32, 64),
        (3, 96, 68),
        (1, 164, 36),
    ]
    assert all((s.first_column, s.columns) == (0, 5) for s in shards)
