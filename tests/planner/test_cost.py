import dataclasses

import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, Adagrad, FeatureConfig, LazyAdam, RowWiseAdagrad, TableConfig
from tf_dlrm.embeddings.plan import Plan, TablePlan
from tf_dlrm.planner import CostModel, Dense, Workload, cost


@pytest.mark.parametrize(
    ("optimizer", "size"),
    [(SGD(0.1), 3200), (Adagrad(0.1), 6400), (RowWiseAdagrad(0.1), 3600), (LazyAdam(0.1), 9600)],
)
def test_table_bytes(optimizer, size):
    assert cost.table_bytes(100.0, 8, optimizer) == size


def test_lookup(hardware):
    # 1000 rows of 16 floats are 64,000 bytes at 10 GB/s.
    assert cost.lookup_seconds(1000.0, 16, hardware, 1) == pytest.approx(6.4e-6)
    # Rows of one float cost as much as 32 bytes; two sharers take twice as long.
    assert cost.lookup_seconds(1000.0, 1, hardware, 2) == pytest.approx(6.4e-6)


def test_update(hardware):
    # 300 ids at 50 million a second; 300 x 64 bytes twice at 100 GB/s; 200 rows of 64 bytes and as
    # much for the accumulator at 5 GB/s.
    expected = 300 / 50e6 + 2 * 300 * 64 / 100e9 + 200 * 128 / 5e9
    found = cost.update_seconds(300.0, 200.0, 16, Adagrad(0.1), hardware, 1)
    assert found == pytest.approx(expected) == pytest.approx(11.504e-6)
    # One float in place of 16 still costs 32 bytes.
    row_wise = cost.update_seconds(300.0, 200.0, 16, RowWiseAdagrad(0.1), hardware, 1)
    assert found - row_wise == pytest.approx(200 * 32 / 5e9)


def test_request(hardware):
    # 2 parts x (1000 + 200 ids) at 50 million a second; 6 x 1000 x 32 bytes at 100 GB/s.
    found = cost.request_seconds(1000.0, 200.0, 8, 2, hardware, 1)
    assert found == pytest.approx(48e-6 + 1.92e-6)


def test_bytes_per_id():
    # id, vector, gradient; a data-parallel table sends no vector.
    assert cost.bytes_per_id(16, 4, 4, "row") == (132, 264)
    assert cost.bytes_per_id(16, 8, 2, "row") == (72, 144)
    assert cost.bytes_per_id(16, 4, 4, "copy") == (68, 136)
    # Of bags that are pooled where their table is all ids travel; a bag's length, vector, gradient.
    assert cost.bytes_per_id(16, 4, 4, "pooled id") == (4, 8)
    assert cost.bytes_per_id(16, 4, 4, "bag") == (132, 264)
    assert [cost.id_bytes(n) for n in (2**31 - 1, 2**31)] == [4, 8]


def test_exchange(hardware):
    # To one device of the own host at 20 GB/s.
    assert cost.exchange_seconds(1e6, 2, hardware) == pytest.approx(50e-6)
    # To six devices of other hosts at 4 GB/s, at the same time as to one of the own.
    assert cost.exchange_seconds(1e6, 8, hardware) == pytest.approx(1500e-6)
    assert cost.exchange_seconds(1e6, 1, hardware) == 0
    shared = dataclasses.replace(hardware, shared=True)
    assert cost.exchange_seconds(1e6, 2, shared) == pytest.approx(100e-6)


def test_latency(hardware):
    # Four hosts are two doublings.
    found = [cost.latency_seconds(n, hardware) * 1e6 for n in (1, 2, 4, 8)]
    assert found == pytest.approx([0, 7, 18, 29])


def test_all_reduce(hardware):
    # 2 x 1/2 x 1 MB at 20 GB/s, and 2 x 3/4 x 1 MB at 4 GB/s.
    assert cost.all_reduce_seconds(1e6, 2, hardware) == pytest.approx(50e-6 + 7e-6)
    assert cost.all_reduce_seconds(1e6, 4, hardware) == pytest.approx(375e-6 + 18e-6)
    assert cost.all_reduce_seconds(1e6, 1, hardware) == 0


def test_dense(hardware):
    # 6 x 100 examples x 10,000 multiplications at 1e12/s; 3 passes of 40,000 bytes at 100 GB/s.
    assert cost.dense_seconds(1e4, 1e4, 100.0, hardware, 1) == pytest.approx(6e-6 + 1.2e-6)


def test_activations():
    # 2 copies of 100 + 10 x (8 + 4) elements and 4 of 50 parameters.
    assert cost.activation_bytes(100.0, 8, 4, 50, 10) == 4 * (2 * 220 + 200)


def _feature(name, rows, dim):
    return FeatureConfig(name, TableConfig(name, rows, dim, optimizer=SGD(0.01)))


def test_estimate_of_a_plan_by_hand(hardware):
    # So many ids that every row is looked up on every device: unique ids are known exactly.
    features = [_feature("copy", 4, 8), _feature("whole", 10, 16), _feature("cut", 30, 16)]
    workload = Workload(2_000_000)
    model = CostModel(features, workload, hardware, 2, Dense(3, (16,), (1,), "concat"))
    plan = Plan(
        2,
        {
            "copy": TablePlan("data_parallel"),
            "whole": TablePlan("table_wise", (1,)),
            "cut": TablePlan("row_wise", (1, 0)),
        },
    )
    found = model.estimate(plan)
    # Gathered rows of 64 bytes at 10 GB/s: both devices ask for each row of whole and cut; the four
    # rows of copy, of 32 bytes, are looked up at home.
    assert found.lookup.tolist() == pytest.approx(
        [(30 * 64 + 4 * 32) / 10e9, ((20 + 30) * 64 + 4 * 32) / 10e9]
    )
    copied = 8 / 50e6 + 2 * 8 * 32 / 100e9 + 4 * 32 / 5e9
    cut = 30 / 50e6 + 2 * 30 * 64 / 100e9 + 15 * 64 / 5e9
    whole = 20 / 50e6 + 2 * 20 * 64 / 100e9 + 10 * 64 / 5e9
    assert found.update.tolist() == pytest.approx([copied + cut, copied + cut + whole])
    assert found.table_bytes.tolist() == [4 * 32 + 15 * 64, 4 * 32 + 25 * 64]
    assert found.ids.tolist() == pytest.approx([2 * (4 + 15), 2 * (4 + 25)])
    # whole and cut are one stack: pieces are as large as device 1's, 25 ids.
    sent = 25 * (4 + 2 * 64) + 4 * (4 + 32)
    assert found.exchange_bytes == pytest.approx(sent)
    assert found.exchange == pytest.approx(sent / 20e9 + 4 * 7e-6)
    passes = 6 * 1e6 * (32 + 64 + 64) / 100e9
    assert found.request == pytest.approx((3e6 + 10 + 30) / 50e6 + passes)
    # Bottom 3 -> 16, top 8 + 16 + 16 + 16 = 56 -> 1.
    parameters = 4 * 16 + 57
    assert found.dense == pytest.approx(6 * 1e6 * (48 + 56) / 1e12 + 3 * parameters * 4 / 100e9)
    assert found.all_reduce == pytest.approx(parameters * 4 / 20e9 + 7e-6)
    assert found.overhead == pytest.approx(100e-6)
    buffers = 2 * 2 * sent
    activations = 4 * (2 * (1e6 * 40 + 1e6 * (40 + 17)) + 4 * parameters)
    assert found.other_bytes == pytest.approx(buffers + activations)
    assert found.step == pytest.approx(
        found.tables[1]
        + found.exchange
        + found.request
        + found.dense
        + found.all_reduce
        + found.overhead
    )
    assert found.imbalance == pytest.approx(2 * found.tables[1] / found.tables.sum())


def test_columns_are_asked_for_with_the_same_ids(hardware):
    features = [_feature("t", 50, 16)]
    model = CostModel(features, Workload(1_000_000), hardware, 2)
    whole = model.estimate(Plan(2, {"t": TablePlan("table_wise", (0,))}))
    cut = model.estimate(Plan(2, {"t": TablePlan("column_wise", (0, 1))}))
    assert whole.ids.tolist() == pytest.approx([100, 0])
    assert cut.ids.tolist() == pytest.approx([100, 100])
    assert cut.table_bytes.tolist() == [50 * 32] * 2
    # 50 ids with half a vector and half a gradient each.
    assert cut.exchange_bytes == pytest.approx(50 * (4 + 2 * 32))
    # Ids are made unique and sorted for both parts.
    assert cut.request - whole.request == pytest.approx((500_000 + 50) / 50e6)


def test_columns_of_two_widths_are_two_stacks(hardware):
    model = CostModel([_feature("t", 50, 5)], Workload(1_000_000), hardware, 2)
    cut = model.estimate(Plan(2, {"t": TablePlan("column_wise", (0, 1))}))
    # Pieces of 2 and of 3 columns, which both devices send padded.
    assert cut.exchange_bytes == pytest.approx(50 * (4 + 16) + 50 * (4 + 24))


def test_bags_of_many_ids_are_pooled_where_their_table_is(hardware):
    # Of two features that share a table one has bags of 10 ids: 10,000 of them on each device, all
    # of which travel. The other's 1,000 ids are all 10 rows, each of which travels once.
    table = TableConfig("t", 10, 16, optimizer=SGD(0.01))
    features = [FeatureConfig("many", table), FeatureConfig("one", table)]
    model = CostModel(features, Workload(2000, {"many": 10.0}), hardware, 2)
    whole = model.estimate(Plan(2, {"t": TablePlan("table_wise", (1,))}))
    asked = 2 * (10_000 + 10)
    assert whole.ids.tolist() == pytest.approx([0, asked])
    lookup = asked * 64 / 10e9 + 3 * 20_000 * 64 / 100e9
    assert whole.lookup.tolist() == pytest.approx([0, lookup])
    update = asked / 50e6 + 2 * asked * 64 / 100e9 + 10 * 64 / 5e9
    assert whole.update.tolist() == pytest.approx([0, update])
    # An id, or a bag's length, of 4 bytes; a vector and a gradient of 64.
    sent = 10_000 * 4 + 1000 * (4 + 128) + 10 * (4 + 128)
    assert whole.exchange_bytes == pytest.approx(sent)
    assert whole.exchange == pytest.approx(sent / 20e9 + 4 * 7e-6)
    # At home only the ids of "one" are made unique, and their rows pooled.
    assert whole.request == pytest.approx((1000 + 10) / 50e6 + 6 * 1000 * 64 / 100e9)
    # Half the columns: as many ids, each half as wide.
    cut = model.estimate(Plan(2, {"t": TablePlan("column_wise", (0, 1))}))
    assert cut.ids.tolist() == pytest.approx([asked, asked])
    assert cut.exchange_bytes == pytest.approx(10_000 * 4 + 1000 * (4 + 64) + 10 * (4 + 64))
    # Rows travel where the table is cut by row: each of the 10 is asked for by both devices.
    by_row = model.estimate(Plan(2, {"t": TablePlan("row_wise", (0, 1))}))
    assert by_row.ids.tolist() == pytest.approx([2 * 5, 2 * 5])
    assert by_row.exchange_bytes == pytest.approx(5 * (4 + 128))
    assert by_row.request == pytest.approx((11_000 + 10) / 50e6 + 6 * 11_000 * 64 / 100e9)


def test_bags_of_different_sizes_are_pooled_too(hardware):
    plan = Plan(2, {"t": TablePlan("table_wise", (1,))})

    def sent(hotness):
        model = CostModel([_feature("t", 10, 16)], Workload(2000, {"t": hotness}), hardware, 2)
        return model.estimate(plan).exchange_bytes

    assert sent(7.0) == pytest.approx(10 * 132)
    assert sent(2.5) == pytest.approx(2500 * 4 + 1000 * 132)
    assert sent(8.0) == pytest.approx(8000 * 4 + 1000 * 132)


def test_rows_are_dealt_by_octaves(hardware):
    # Rows [0, 32) and [96, 128) are on one device, [32, 96) on the other.
    plan = Plan(2, {"t": TablePlan("row_wise", (1, 0))})
    workload = Workload(400, alpha=1.2, popular_first=True)
    model = CostModel([_feature("t", 128, 16)], workload, hardware, 2)
    probabilities = np.arange(1, 129) ** -1.2
    probabilities /= probabilities.sum()
    seen = 1 - (1 - probabilities) ** 200
    of_first, of_second = seen[:32].sum() + seen[96:].sum(), seen[32:96].sum()
    assert model.estimate(plan).ids.tolist() == pytest.approx([2 * of_second, 2 * of_first])


def test_popular_rows_burden_all_shards_alike(hardware):
    features = [_feature("t", 10_000, 16)]
    plan = Plan(4, {"t": TablePlan("row_wise", (3, 2, 1, 0))})
    first = CostModel(features, Workload(4000, alpha=1.2, popular_first=True), hardware, 4)
    anywhere = CostModel(features, Workload(4000, alpha=1.2), hardware, 4)
    for ids in (first.estimate(plan).ids, anywhere.estimate(plan).ids):
        assert ids.max() < 1.06 * ids.mean()
    assert first.estimate(plan).ids.sum() == pytest.approx(anywhere.estimate(plan).ids.sum())


def test_one_device_exchanges_nothing(hardware):
    model = CostModel([_feature("t", 50, 16)], Workload(100), hardware, 1, Dense(3, (16,), (1,)))
    found = model.estimate(Plan(1, {"t": TablePlan("table_wise", (0,))}))
    assert (found.exchange, found.exchange_bytes, found.all_reduce) == (0, 0, 0)


def test_copies_alone_need_no_exchange_of_vectors(hardware):
    model = CostModel([_feature("t", 50, 16)], Workload(1_000_000), hardware, 2)
    found = model.estimate(Plan(2, {"t": TablePlan("data_parallel")}))
    assert found.exchange == pytest.approx(50 * (4 + 64) / 20e9 + 3 * 7e-6)


def test_a_plan_of_other_devices_or_tables_is_refused(hardware):
    model = CostModel([_feature("t", 50, 16)], Workload(100), hardware, 2)
    with pytest.raises(ValueError, match=r"The plan is for 3 device\(s\), not 2\."):
        model.estimate(Plan(3, {"t": TablePlan("data_parallel")}))
    with pytest.raises(ValueError, match="places no table"):
        model.estimate(Plan(2, {"u": TablePlan("data_parallel")}))
    with pytest.raises(ValueError, match="hotness names 'u', which is no feature"):
        CostModel([_feature("t", 50, 16)], Workload(100, {"u": 1.0}), hardware, 2)
    with pytest.raises(ValueError, match="devices must be a whole number of at least 1"):
        CostModel([_feature("t", 50, 16)], Workload(100), hardware, 0)
