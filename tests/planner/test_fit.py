import dataclasses

import pytest

from tf_dlrm.embeddings import SGD, Adagrad, FeatureConfig, RowWiseAdagrad, TableConfig
from tf_dlrm.planner import (
    CostModel,
    DoesNotFitError,
    Pin,
    Workload,
    bottleneck,
    plan_for,
    report,
)
from tf_dlrm.planner.reasons import duration


def _features(optimizer):
    # 2 x 1e6 x 100 floats: 0.8 GB, and 0.8 GB of accumulators with Adagrad.
    return [
        FeatureConfig(name, TableConfig(name, 1_000_000, 100, optimizer=optimizer))
        for name in ("a", "b")
    ]


def _message(hardware, optimizer, pins=None, devices=2):
    model = CostModel(_features(optimizer), Workload(2), hardware, devices)
    with pytest.raises(DoesNotFitError) as error:
        plan_for(model, pins)
    return str(error.value), error.value.excess_gb


def test_by_how_much_and_the_ways_out(hardware):
    small = dataclasses.replace(hardware, memory_gb=0.5)
    message, excess = _message(small, Adagrad(0.1))
    # 0.8 GB on each of two devices of 0.5 GB.
    assert excess == pytest.approx(0.3, rel=1e-3)
    assert "needs 0.80 GB, 0.30 GB more than its 0.50 GB" in message
    assert "the tables take 1.60 GB once, so at least 4 devices" in message
    # 0.8 GB of accumulators become 2 x 4 MB.
    assert "(--embedding_optimizer=rowwise_adagrad) in place of Adagrad saves 0.79 GB" in message
    assert "Half the --embedding_dim saves 0.80 GB" in message
    assert "at most 500,000 rows a table (--max_index_range=500000" in message
    assert message.endswith("save 0.80 GB.")
    assert "pins" not in message


def test_the_ways_out_do_what_they_say(hardware):
    small = dataclasses.replace(hardware, memory_gb=0.5)
    # Four devices, as the message says; and row-wise Adagrad, which leaves 0.81 GB for 2 x 0.5.
    plan_for(CostModel(_features(Adagrad(0.1)), Workload(2), small, 4))
    plan_for(CostModel(_features(RowWiseAdagrad(0.1)), Workload(2), small, 2))


def test_no_way_out_is_offered_that_there_is_not(hardware):
    small = dataclasses.replace(hardware, memory_gb=0.3)
    message, _ = _message(small, RowWiseAdagrad(0.1))
    assert "rowwise_adagrad" not in message


def test_pins_are_named_as_a_cause(hardware):
    pins = {"a": Pin("table_wise", (0,)), "b": Pin("table_wise", (0,))}
    message, excess = _message(hardware, Adagrad(0.1), pins)
    assert excess == pytest.approx(0.6, rel=1e-3)
    assert "device 0 of 2 needs 1.60 GB" in message
    assert "Fewer pins" in message


def test_devices_that_share_a_host_need_more_hosts(hardware):
    shared = dataclasses.replace(hardware, shared=True, host_memory_gb=1.0)
    message, _ = _message(shared, Adagrad(0.1))
    assert "the 2 device(s) of a host share 1.00 GB" in message


def test_a_batch_that_fills_a_device_alone(hardware):
    features = [FeatureConfig("a", TableConfig("a", 1000, 100, optimizer=SGD(0.01)))]
    model = CostModel(features, Workload(10_000_000), hardware, 2)
    with pytest.raises(DoesNotFitError, match="A smaller batch"):
        plan_for(model)


def test_report_has_devices_tables_and_bottleneck(hardware):
    model = CostModel(_features(Adagrad(0.1)), Workload(5000), hardware, 2)
    pins = {"a": Pin("table_wise", (1,)), "b": Pin("table_wise", (0,))}
    plan = plan_for(model, pins)
    text = report(model, plan)
    lines = text.splitlines()
    assert "Plan for 2 device(s) of 'round', 5,000 examples a step." in lines[0]
    rows = [line.split() for line in lines if line.strip()[:2] in ("0 ", "1 ")]
    # 1e6 x 100 x 2 floats each.
    assert [row[1] for row in rows] == ["0.800", "0.800"]
    assert "a  table_wise    1        Pinned: table_wise:1." in lines
    assert bottleneck(model.estimate(plan)) in lines
    estimate = model.estimate(plan)
    assert f"{duration(estimate.step):>9}" in text
    assert f"{5000 / estimate.step:,.0f} examples a second" in lines


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row_read_gbs": 1e-6}, "is device 0, looking up rows"),
        ({"row_update_gbs": 1e-6}, "is device 0, updating rows"),
        ({"intra_host_gbs": 1e-6}, "is communication: the exchange"),
        ({"unique_mids": 1e-3}, "own ids and pooling"),
        ({"step_overhead_us": 1e6}, "is the overhead of a step: 1 s, 100% of the step."),
    ],
)
def test_bottleneck(hardware, changes, words):
    slow = dataclasses.replace(hardware, **changes)
    features = [FeatureConfig("a", TableConfig("a", 1000, 16, optimizer=SGD(0.01)))]
    model = CostModel(features, Workload(100), slow, 2)
    plan = plan_for(model, {"a": Pin("table_wise", (0,))})
    assert words in bottleneck(model.estimate(plan))


def test_durations():
    assert [duration(s) for s in (2.5, 0.0123, 4.56e-6)] == ["2.5 s", "12.3 ms", "4.56 us"]
