import dataclasses
import math

import pytest

from tf_dlrm.embeddings import SGD, Adagrad, FeatureConfig, TableConfig
from tf_dlrm.planner import Dense, Workload, load_hardware, make_plan
from tf_dlrm.planner.models import KNOWN_MODELS
from tf_dlrm.planner.picture import draw_scaling
from tf_dlrm.planner.simulate import scaling_table, simulate

FEATURES = [FeatureConfig("a", TableConfig("a", 1_000_000, 100, optimizer=SGD(0.01)))]


def test_scales_that_do_not_fit_say_by_how_much(hardware):
    small = dataclasses.replace(hardware, memory_gb=0.12)
    scales = simulate(FEATURES, Workload(64), small, (1, 2, 4))
    assert [scale.estimate is not None for scale in scales] == [False, False, True]
    assert scales[0].missing_gb == pytest.approx(0.28, rel=0.01)
    assert scales[1].missing_gb == pytest.approx(0.08, rel=0.01)
    table = scaling_table(scales).splitlines()
    assert table[2].startswith("| 1 | 64 | does not fit: 0.3 GB a device are missing |")
    assert {line.count("|") for line in table[:5]} == {12}
    assert table[-1].startswith("4 devices: The bottleneck is ")


def test_strong_and_weak_scaling(hardware):
    workload = Workload(1000, {"a": 7.0})
    strong = simulate(FEATURES, workload, hardware, (2, 4))
    weak = simulate(FEATURES, workload, hardware, (2, 4), batch_per_device=True)
    assert [scale.batch_size for scale in strong] == [1000, 1000]
    assert [scale.batch_size for scale in weak] == [2000, 4000]
    for scale in (*strong, *weak):
        assert scale.examples_per_second == scale.batch_size / scale.estimate.step
    # Half the examples on each device against as many.
    assert strong[1].estimate.request < 0.6 * strong[0].estimate.request
    assert weak[1].estimate.request == pytest.approx(weak[0].estimate.request, rel=0.05)


def test_picture(tmp_path, hardware):
    scales = simulate(FEATURES, Workload(64), hardware, (1, 2), Dense(4, (100,), (1,)))
    path = tmp_path / "scaling.png"
    draw_scaling(scales, "A title", str(path))
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    nothing = simulate(FEATURES, Workload(64), dataclasses.replace(hardware, memory_gb=1e-3), (1,))
    with pytest.raises(ValueError, match="fit on no number of devices"):
        draw_scaling(nothing, "A title", str(path))


def test_known_models_are_as_published():
    assert sum(KNOWN_MODELS["mlperf"].rows) == 187_767_399
    multi_hot = KNOWN_MODELS["mlperf_multi_hot"]
    assert sum(multi_hot.rows) == 204_184_588 and sum(multi_hot.hotness) == 214
    assert sum(KNOWN_MODELS["criteo_kaggle"].rows) == 33_762_577
    trillions = KNOWN_MODELS["trillions"]
    assert sum(trillions.rows) * trillions.dim == 12 * 10**12
    for known in KNOWN_MODELS.values():
        assert len(known.rows) == len(known.hotness) == len(known.features(SGD(0.1)))
        assert known.dense.bottom_mlp[-1] == known.dim


@pytest.mark.exhaustive
def test_trillions_need_hundreds_of_devices():
    known = KNOWN_MODELS["trillions"]
    features = known.features(SGD(0.1))
    hardware = load_hardware("h100_node")
    # 48 TB over 80 GB, and one more because the exchange takes some of it.
    least = math.ceil(12e12 * 4 / 80e9) + 1
    with pytest.raises(ValueError, match=f"at least {least}"):
        make_plan(features, 64, 64, hardware=hardware)
    assert len(make_plan(features, 640, 640, hardware=hardware).tables) == 48
    with pytest.raises(ValueError, match="do not fit"):
        make_plan(known.features(Adagrad(0.1)), 640, 640, hardware=hardware)
