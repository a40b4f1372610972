"""Training under a strategy: the numbers are those of one device."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, ROW_WISE, Plan, TablePlan
from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution_options import DistributionOptions
from tf_dlrm.training.parameter_server import is_server
from tf_dlrm.training.run import train
from tf_dlrm.training.strategy import distribute, load_plan, make_strategy

_NUMBERS = ("auc", "log_loss", "calibration")


def _metrics(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [[json.loads(line)[name] for name in _NUMBERS] for line in lines]


def _assert_equal_metrics(found, wanted):
    # Of 700 rows two of neighbouring scores in the other order are 1e-5 of AUC: rounding may do it
    np.testing.assert_allclose(np.array(found)[..., 0], np.array(wanted)[..., 0], rtol=5e-5)
    np.testing.assert_allclose(np.array(found)[..., 1:], np.array(wanted)[..., 1:], rtol=1e-5)


def _tables(folder):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints"))
    names = [name for name in reader.get_variable_to_shape_map() if "table:" in name]
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture
def plan_file(tmp_path):
    plan = Plan(
        2,
        {
            "C1": TablePlan(ROW_WISE, (1, 0)),
            "C2": TablePlan(COLUMN_WISE, (0, 1)),
            "C3": TablePlan(DATA_PARALLEL),
        },
    )
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    return str(path)


def test_two_devices_learn_what_one_learns_and_take_turns_with_it(tiny, tmp_path, plan_file):
    # Neither the batch size nor the last batch, of 69 rows, divides by two.
    common = {
        "epochs": 2,
        "batch_size": 99,
        "eval_every_steps": 10,
        "embedding_optimizer": "adagrad",
        "dense_optimizer": "adam",
        "dense_learning_rate": 0.01,
    }
    mirrored = {"distribution": "mirrored", "virtual_devices": 2, "plan": plan_file}
    one = tmp_path / "one"
    result = train(tiny(**common, model_dir=str(one), export_dir=str(tmp_path / "one_export")))
    two = tmp_path / "two"
    exported = {"model_dir": str(two), "export_dir": str(tmp_path / "two_export")}
    assert train(tiny(**common, **mirrored, **exported))["step"] == result["step"] == 40
    _assert_equal_metrics(_metrics(two), _metrics(one))
    turns = tmp_path / "turns"
    train(tiny(**common, model_dir=str(turns), train_steps=13))
    train(tiny(**common, **mirrored, model_dir=str(turns), train_steps=27))
    train(tiny(**common, model_dir=str(turns)))
    _assert_equal_metrics(_metrics(turns)[-1], _metrics(one)[-1])
    expected = _tables(one)
    assert len(expected) == 6
    for folder in (two, turns):
        got = _tables(folder)
        assert list(got) == list(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=1e-3, atol=1e-5, err_msg=name)
    inputs = {
        "dense": tf.ones((3, 4)),
        **{f"C{k}": tf.constant([0, 7, 9], tf.int64) for k in (1, 2, 3)},
    }
    answers = [
        tf.saved_model.load(str(tmp_path / name)).signatures["serving_default"](**inputs)
        for name in ("one_export", "two_export")
    ]
    np.testing.assert_allclose(answers[1]["probability"], answers[0]["probability"], rtol=1e-4)


def test_members_of_an_ensemble_have_communicators_of_their_own(tiny, tmp_path):
    common = {"ensemble_size": 2, "train_steps": 5, "embedding_optimizer": "adagrad"}
    mirrored = {"distribution": "mirrored", "virtual_devices": 2}
    train(tiny(**common, model_dir=str(tmp_path / "one")))
    train(tiny(**common, **mirrored, model_dir=str(tmp_path / "two")))
    # The plan that was made, which can be given back.
    assert Plan.from_json((tmp_path / "two" / "plan.json").read_text()).devices == 2
    _assert_equal_metrics(_metrics(tmp_path / "two"), _metrics(tmp_path / "one"))


def test_shares_of_a_batch(tiny):
    strategy = make_strategy(DistributionOptions("mirrored", virtual_devices=3))
    batches = tf.data.Dataset.from_tensor_slices((tf.range(14), tf.range(14) * 2)).batch(10)
    shares = [
        [part.numpy().tolist() for part in strategy.experimental_local_results(first)]
        for first, _ in distribute(strategy, batches)
    ]
    assert shares == [[[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]], [[10, 13], [11], [12]]]


def test_devices_that_are_not_there():
    with pytest.raises(UserError, match="must be set before TensorFlow starts, .* 4 logical CPU"):
        make_strategy(DistributionOptions("mirrored", virtual_devices=5))
    with pytest.raises(UserError, match="found no GPU; --virtual_devices=2 makes two"):
        make_strategy(DistributionOptions("mirrored"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distribution": "two"}, "--distribution=two must be one of one_device, mirrored"),
        ({"virtual_devices": 2}, "--virtual_devices=2 has no effect with --distribution=one_dev"),
        ({"plan": "x"}, "--plan=x has no effect with --distribution=one_device"),
        ({"distribution": "mirrored", "virtual_devices": -1}, "--virtual_devices=-1 must be 0"),
        ({"distribution": "mirrored", "plan": "/not/there"}, "--plan=/not/there is no file"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        DistributionOptions(**options).validate()


def test_plans_that_do_not_fit(tiny, tmp_path, plan_file):
    with open(plan_file) as file:
        text = file.read()
    mirrored = {"distribution": "mirrored", "virtual_devices": 3, "model_dir": ""}
    with pytest.raises(UserError, match=r"plan is for 2 device\(s\), but the strategy has 3"):
        train(tiny(**mirrored, plan=plan_file))
    path = os.path.join(tmp_path, "other.json")
    for old, new, message in (
        ('"C1"', '"C9"', r"places no table \['C1'\]"),
        ("row_wise", "rowwise", "Table 'C1' of the plan: sharding must be one of"),
        ('"format": 1', '"format": 2', "The plan has no 'format': 1"),
        ("{", "", "The plan is not JSON"),
    ):
        with open(path, "w") as file:
            file.write(text.replace(old, new, 1))
        with pytest.raises(UserError, match=message):
            train(tiny(**mirrored | {"virtual_devices": 2}, plan=path))
    assert load_plan(DistributionOptions()) is None


def test_one_of_several_processes_is_refused(monkeypatch):
    for text, message in (
        (
            '{"cluster": {"worker": ["a:1", "b:2"]}}',
            "a cluster of 2 processes, but --distribution=",
        ),
        ("{", "TF_CONFIG does not describe a cluster"),
        ("[]", "TF_CONFIG does not describe a cluster"),
    ):
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(UserError, match=message):
            make_strategy(DistributionOptions())
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}')
    assert make_strategy(DistributionOptions()).num_replicas_in_sync == 1


@pytest.mark.parametrize("text", ["", '{"cluster": {"chief": ["a:1"], "worker": ["b:2"]}}'])
def test_several_workers_need_a_cluster_of_workers(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="needs a TF_CONFIG whose cluster has workers and nothing"):
        make_strategy(DistributionOptions("multi_worker_mirrored"))


@pytest.mark.parametrize(
    ("cluster", "role"),
    [
        ({}, None),
        ({"worker": ["a:1"]}, "worker"),
        ({"chief": ["a:1", "b:1"], "ps": ["c:1"], "worker": ["d:1"]}, "chief"),
        ({"chief": ["a:1"], "ps": ["c:1"], "worker": ["d:1"]}, "evaluator"),
    ],
)
def test_parameter_servers_need_a_chief_servers_and_workers(monkeypatch, cluster, role):
    task = {"task": {"type": role, "index": 0}} if role else {}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster} | task))
    with pytest.raises(UserError, match="needs a TF_CONFIG whose cluster has one chief"):
        is_server()


@pytest.mark.parametrize(("role", "serves"), [("chief", False), ("ps", True), ("worker", True)])
def test_the_chief_trains_and_the_others_serve(monkeypatch, role, serves):
    cluster = {"chief": ["a:1"], "ps": ["b:1"], "worker": ["c:1"]}
    text = json.dumps({"cluster": cluster, "task": {"type": role, "index": 0}})
    monkeypatch.setenv("TF_CONFIG", text)
    assert is_server() == serves


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"distribution": "multi_worker_mirrored", "export_dir": "e", "model_dir": ""},
            "--export_dir with --distribution=multi_worker_mirrored needs --model_dir",
        ),
        (
            {"distribution": "multi_worker_mirrored", "data_service": "grpc://a:1"},
            "--data_service has no use",
        ),
        (
            {"distribution": "parameter_server", "communication_dtype": "bfloat16"},
            "--communication_dtype=bfloat16 has no effect",
        ),
        (
            {"distribution": "multi_worker_mirrored", "virtual_devices": 2},
            "--virtual_devices=2 has no effect",
        ),
    ],
)
def test_options_that_several_processes_cannot_follow_are_refused(tiny, changes, message):
    with pytest.raises(UserError, match=message):
        tiny(**changes)


def test_training_as_on_a_tpu_learns_what_one_device_learns_and_takes_turns_with_it(tiny, tmp_path):
    common = {
        "epochs": 1,
        "batch_size": 99,
        "eval_every_steps": 10,
        "embedding_optimizer": "adagrad",
        "embedding_initial_accumulator": 0.1,
        "dense_optimizer": "adam",
        "dense_learning_rate": 0.01,
    }
    # One table stays on the cores, and two do not.
    tpu = {"distribution": "tpu", "tpu": "host", "tpu_small_table_rows": 55}
    one, on_tpu, turns = (tmp_path / name for name in ("one", "tpu", "turns"))
    train(tiny(**common, model_dir=str(one)))
    result = train(
        tiny(**common, **tpu, model_dir=str(on_tpu), export_dir=str(tmp_path / "export"))
    )
    assert result["step"] == 20
    _assert_equal_metrics(_metrics(on_tpu), _metrics(one))
    train(tiny(**common, model_dir=str(turns), train_steps=7))
    train(tiny(**common, **tpu, model_dir=str(turns), train_steps=15))
    train(tiny(**common, model_dir=str(turns)))
    _assert_equal_metrics(_metrics(turns)[-1], _metrics(one)[-1])
    expected = _tables(one)
    for folder in (on_tpu, turns):
        for name, array in _tables(folder).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    inputs = {
        "dense": tf.ones((2, 4)),
        **{f"C{k}": tf.constant([0, 7], tf.int64) for k in (1, 2, 3)},
    }
    assert np.isfinite(next(iter(served(**inputs).values()))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distribution": "tpu"}, "--distribution=tpu needs --tpu"),
        ({"tpu": "local"}, "--tpu=local has no effect with --distribution=one_device"),
        ({"distribution": "tpu", "tpu": "host", "plan": __file__}, "--plan=.* has no effect"),
    ],
)
def test_options_of_a_tpu_are_for_a_tpu(tiny, changes, message):
    with pytest.raises(UserError, match=message):
        tiny(**changes)
