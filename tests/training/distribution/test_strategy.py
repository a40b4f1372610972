"""Training under a strategy: the numbers are those of one device."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, ROW_WISE, Plan, TablePlan
from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.choose import DISTRIBUTIONS, distribution_of
from tf_dlrm.training.distribution.parameter_server import is_server
from tf_dlrm.training.distribution.planning import load_plan
from tf_dlrm.training.distribution.shares import distribute
from tf_dlrm.training.options.distribution import DistributionOptions
from tf_dlrm.training.run import train

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


# Neither the batch size nor the last batch, of 69 rows, divides by two.
COMMON = {
    "batch_size": 99,
    "eval_every_steps": 10,
    "checkpoint_every_steps": 7,
    "keep_checkpoints": 5,
    "embedding_optimizer": "adagrad",
    "embedding_initial_accumulator": 0.1,
    "dense_optimizer": "adam",
    "dense_learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def one(make_tiny, tmp_path_factory):
    """The folder of a run on one device, whose export is beside it."""
    folder = tmp_path_factory.mktemp("one_device")
    config = make_tiny(folder / "one", **COMMON, export_dir=str(folder / "one_export"))
    assert train(config)["step"] == 20
    return folder / "one"


@pytest.fixture(params=["mirrored", pytest.param("tpu", marks=pytest.mark.slow)])
def where(request, plan_file):
    """The options of two devices, and of a TPU as far as there is one."""
    return {"distribution": request.param} | {
        "mirrored": {"virtual_devices": 2, "plan": plan_file},
        # One table stays on the cores, and two do not.
        "tpu": {"tpu": "host", "tpu_small_table_rows": 55},
    }[request.param]


def _assert_equal_runs(folder, one):
    _assert_equal_metrics([_metrics(folder)[k] for k in (0, -1)], _metrics(one))
    got, expected = _tables(folder), _tables(one)
    assert list(got) == list(expected) and len(expected) == 6
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_one_device_goes_on_with_what_was_begun_elsewhere(tiny, tmp_path, where, one):
    train(tiny(**COMMON, **where, train_steps=14))
    assert train(tiny(**COMMON))["step"] == 20
    _assert_equal_runs(tmp_path / "run", one)


def test_what_one_device_began_goes_on_elsewhere(tiny, tmp_path, where, one, copy_as_of):
    copy_as_of(str(one), str(tmp_path / "run"), 7)
    assert train(tiny(**COMMON, **where))["step"] == 20
    _assert_equal_runs(tmp_path / "run", one)


@pytest.mark.slow
def test_what_goes_on_elsewhere_is_exported_there(tiny, tmp_path, where, one, copy_as_of):
    copy_as_of(str(one), str(tmp_path / "run"), 14)
    exported = {"export_dir": str(tmp_path / "export")}
    assert train(tiny(**COMMON, **where, **exported))["step"] == 20
    inputs = {
        "dense": tf.ones((3, 4)),
        **{f"C{k}": tf.constant([0, 7, 9], tf.int64) for k in (1, 2, 3)},
    }
    answers = [
        tf.saved_model.load(str(folder)).signatures["serving_default"](**inputs)["probability"]
        for folder in (one.parent / "one_export", tmp_path / "export")
    ]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4)


@pytest.mark.slow
def test_members_of_an_ensemble_have_communicators_of_their_own(tiny, tmp_path):
    common = {"ensemble_size": 2, "train_steps": 3, "embedding_optimizer": "adagrad"}
    mirrored = {"distribution": "mirrored", "virtual_devices": 2}
    train(tiny(**common, model_dir=str(tmp_path / "one")))
    train(tiny(**common, **mirrored, model_dir=str(tmp_path / "two")))
    # The plan that was made, which can be given back.
    assert Plan.from_json((tmp_path / "two" / "plan.json").read_text()).devices == 2
    _assert_equal_metrics(_metrics(tmp_path / "two"), _metrics(tmp_path / "one"))


def test_shares_of_a_batch(tiny):
    strategy = distribution_of(DistributionOptions("mirrored", virtual_devices=3)).make_strategy()
    batches = tf.data.Dataset.from_tensor_slices((tf.range(14), tf.range(14) * 2)).batch(10)
    shares = [
        [part.numpy().tolist() for part in strategy.experimental_local_results(first)]
        for first, _ in distribute(strategy, batches)
    ]
    assert shares == [[[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]], [[10, 13], [11], [12]]]


def test_devices_that_are_not_there():
    with pytest.raises(UserError, match="must be set before TensorFlow starts, .* 4 logical CPU"):
        distribution_of(DistributionOptions("mirrored", virtual_devices=5)).make_strategy()
    with pytest.raises(UserError, match="found no GPU; --virtual_devices=2 makes two"):
        distribution_of(DistributionOptions("mirrored")).make_strategy()


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
            distribution_of(DistributionOptions()).make_strategy()
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1"]}}')
    assert distribution_of(DistributionOptions()).make_strategy().num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({"type": "worker", "index": 9}, "the task worker 9, but its cluster has 2 of that"),
        ({"type": "worker", "index": "0"}, "the task worker '0', but its cluster has 2"),
        ({"type": "chief", "index": 0}, r"the task 'chief', but its cluster has \['worker'\]"),
        ({}, "the task None"),
        ({"type": ["worker"], "index": 0}, "the type of the task must be a text"),
        ({"type": "worker", "index": True}, "the task worker True"),
    ],
)
def test_a_task_outside_its_cluster_is_refused(monkeypatch, task, sentence):
    config = {"cluster": {"worker": ["a:1", "b:2"]}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        distribution_of(DistributionOptions("multi_worker_mirrored")).make_strategy()


@pytest.mark.parametrize(
    "address",
    [
        "b",
        ":2",
        "b:",
        "b:0",
        "b:65536",
        "b:\u0663",
        "grpc://b:2",
        "b c:2",
        "::1:2",
    ],
)
def test_an_address_of_another_form_is_refused(monkeypatch, address):
    config = {"cluster": {"worker": ["a:1", address]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(UserError, match=re.escape(f"the address {address!r}; each must be HOST:")):
        distribution_of(DistributionOptions("multi_worker_mirrored")).check_cluster()


def test_addresses_of_ipv6_and_of_the_last_port(monkeypatch):
    cluster = {"worker": ["[::1]:1", "b-c.example:65535"]}
    text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
    monkeypatch.setenv("TF_CONFIG", text)
    distribution_of(DistributionOptions("multi_worker_mirrored")).check_cluster()


_PAIR = {"worker": ["a:1", "b:2"]}


@pytest.mark.parametrize("role", ["one_device", "multi_worker_mirrored", "parameter_server"])
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("[" * 100_000, "TF_CONFIG does not describe a cluster"),
        ("9" * 5000, "TF_CONFIG does not describe a cluster"),
        ("null", "it is no object"),
        ({"cluster": None}, "cluster and task must be objects"),
        ({"cluster": _PAIR, "task": 3}, "cluster and task must be objects"),
        ({"cluster": _PAIR, "task": {"type": []}}, "the type of the task must be a text"),
        ({"cluster": {"worker": "a:1"}}, "the addresses of 'worker' must be a list of texts"),
        ({"cluster": {"worker": [1, 2]}}, "the addresses of 'worker' must be a list of texts"),
    ],
)
def test_a_tf_config_of_another_form_is_refused(monkeypatch, role, config, sentence):
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UserError, match=sentence) as caught:
        distribution_of(DistributionOptions(role)).make_strategy()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("addresses", "sentence"),
    [
        (["a:1", "a:1"], "the address 'a:1' twice; each process needs one of its own"),
        (["a:1", "b:" + "9" * 5000], "each must be HOST:PORT"),
        (["a:1", "b:99999"], "'b:99999'; each must be HOST:PORT"),
        (["a", "b"], "'a'; each must be HOST:PORT"),
    ],
)
def test_addresses_that_cannot_be_are_refused(monkeypatch, addresses, sentence):
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        distribution_of(DistributionOptions("multi_worker_mirrored")).make_strategy()


@pytest.mark.parametrize("text", ["", '{"cluster": {"chief": ["a:1"], "worker": ["b:2"]}}'])
def test_several_workers_need_a_cluster_of_workers(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="needs a TF_CONFIG whose cluster has workers and nothing"):
        distribution_of(DistributionOptions("multi_worker_mirrored")).make_strategy()


@pytest.mark.parametrize(
    ("cluster", "role"),
    [
        ({}, None),
        ({"worker": ["a:1"]}, "worker"),
        ({"chief": ["a:1", "b:1"], "ps": ["c:1"], "worker": ["d:1"]}, "chief"),
        ({"chief": ["a:1"], "ps": ["c:1"], "worker": ["d:1"]}, "evaluator"),
        ({"chief": ["a:1"], "ps": [], "worker": ["d:1"]}, "chief"),
        ({"chief": ["a:1"], "ps": ["c:1"], "worker": []}, "chief"),
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


def test_every_distribution_of_the_flag_has_a_class():
    (field,) = [f for f in dataclasses.fields(DistributionOptions) if f.name == "distribution"]
    assert list(DISTRIBUTIONS) == list(field.metadata["choices"])
