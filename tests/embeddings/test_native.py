"""The native kernels: the numbers of TensorFlow's own operations."""

import concurrent.futures
import dataclasses
import functools
import logging
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from pulled_back import pull
from tensorflow.python.ops import resource_variable_ops

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    LearningRateSchedule,
    LocalPlacement,
    RowWiseAdagrad,
    TableConfig,
    make_bags,
    native,
)
from tf_dlrm.embeddings.bags import Bags
from tf_dlrm.embeddings.block import StackedFeature
from tf_dlrm.errors import UserError
from tf_dlrm.kernels import use
from tf_dlrm.kernels.build import library
from tf_dlrm.kernels.use import kernels_allowed, kernels_chosen

_SCHEDULE = LearningRateSchedule(0.2, 3, 4, 2)
# With large epsilons and penalties: tiny ones are as good in the wrong place.
_OPTIMIZERS = {
    "sgd": SGD(_SCHEDULE),
    "adagrad": Adagrad(0.1, 0.5, 0.3),
    "row_wise_adagrad": RowWiseAdagrad(_SCHEDULE, 0.5, 0.3),
    "lazy_adam": LazyAdam(_SCHEDULE, 0.7, 0.8, 0.1),
    "ftrl": FTRL(0.1, -0.5, 0.3, 0.4, 0.2, 0.7),
    "ftrl_other_power": FTRL(0.1, -0.4, 0.3, 0.4, 0.2, 0.7),
}
_FORMS = ("one", "fixed", "ragged", "weighted")
# What a rule does to a row does not depend on how the ids came.
_QUICK = {
    _FORMS: ("lazy_adam",),
    ("one",): ("adagrad",),
    ("fixed",): ("row_wise_adagrad",),
    ("ragged",): ("sgd",),
    ("weighted",): tuple(name for name in _OPTIMIZERS if name != "lazy_adam"),
}
_CASES = [
    pytest.param(name, forms, marks=[pytest.mark.exhaustive] * (name not in names))
    for forms, names in _QUICK.items()
    for name in _OPTIMIZERS
]
_BATCH = 13


@pytest.fixture(autouse=True)
def _wanted(monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    with kernels_allowed(True):
        yield


def _ids(rng, form, rows):
    if form == "one":
        return tf.constant(rng.integers(0, rows, _BATCH))
    if form == "fixed":
        return tf.constant(rng.integers(0, rows, (_BATCH, 3)), tf.int32)
    lengths = rng.integers(0, 4, _BATCH)
    values = rng.integers(0, rows, lengths.sum())
    return tf.RaggedTensor.from_row_lengths(tf.constant(values, tf.int64), lengths)


def _spec(value):
    """Any batch of such tensors, so that a step is traced once."""
    if isinstance(value, tf.RaggedTensor):
        return tf.RaggedTensorSpec([None, None], value.dtype, 1, value.row_splits.dtype)
    return tf.TensorSpec([None, *value.shape[1:]], value.dtype)


def _step(placement, ids, weights, targets):
    bags = {name: make_bags(name, ids[name], weights.get(name)) for name in ids}
    lookup = placement.lookup(bags)
    gradients = {name: lookup.vectors[name] - targets[name] for name in ids}
    return lookup.vectors, pull(placement, lookup, gradients)


@pytest.mark.parametrize(("optimizer", "forms"), _CASES)
def test_a_placement_learns_the_same_with_kernels_and_without(optimizer, forms):
    rng = np.random.default_rng(0)
    features = []
    for number, dim in enumerate((1, 8, 17)):
        table = TableConfig(
            f"t{dim}",
            20 + number,
            dim,
            optimizer=_OPTIMIZERS[optimizer],
            combiner=("sum", "mean", "sqrtn")[number],
        )
        features += [FeatureConfig(f"t{dim}_{form}", table) for form in forms]
    fast = LocalPlacement(features, 3)
    compiled = None
    plain = LocalPlacement(features, 3)
    for _ in range(3):
        ids = {
            f.name: _ids(rng, f.name.rsplit("_", 1)[1], f.table.vocabulary_size) for f in features
        }
        weights = {
            name: tf.ragged.map_flat_values(
                lambda v: tf.constant(rng.uniform(0.5, 2, len(v)), tf.float32), column
            )
            for name, column in ids.items()
            if name.endswith("weighted")
        }
        targets = {
            f.name: tf.constant(rng.normal(size=(_BATCH, f.table.dim)), tf.float32)
            for f in features
        }
        if compiled is None:
            specs = tf.nest.map_structure(_spec, (ids, weights, targets))
            step = functools.partial(_step, fast)
            compiled = tf.function(step, input_signature=specs, autograph=False)
        vectors, of_weights = compiled(ids, weights, targets)
        with kernels_allowed(False):
            expected, expected_of_weights = _step(plain, ids, weights, targets)
        for name, vector in expected.items():
            np.testing.assert_allclose(vectors[name], vector, rtol=1e-5, atol=1e-5)
        assert set(of_weights) == set(weights)
        for name, gradient in expected_of_weights.items():
            np.testing.assert_allclose(of_weights[name], gradient, rtol=1e-4, atol=1e-5)
    arrays = plain.tables.to_arrays()
    for key, array in fast.tables.to_arrays().items():
        np.testing.assert_allclose(array, arrays[key], rtol=1e-4, atol=1e-5, err_msg=key)
    names = {op.type for op in compiled.get_concrete_function().graph.get_operations()}
    assert {"TfDlrmLookup", "TfDlrmUpdate"} <= names


def _large(optimizer, exact):
    """Updates in which ids repeat often; returns the table and its slots.

    With `exact`, float32 holds every sum of the gradients as it is, in whatever order.
    """
    rng = np.random.default_rng(1)
    rows, dim, count = 3000, 24, 200_000
    ids = np.minimum(rng.zipf(1.2, count) - 1, rows - 1)
    bags = np.sort(rng.integers(0, 5000, count)).astype(np.int32)
    gradients = rng.normal(size=(5000, dim))
    gradients = (np.round(gradients * 16) / 16 if exact else gradients).astype(np.float32)
    make = resource_variable_ops.ResourceVariable
    table = make(tf.constant(rng.normal(size=(rows, dim)), tf.float32))
    slots = {
        s.name: make(tf.fill([rows] if s.row_wise else [rows, dim], s.initial_value))
        for s in optimizer.slots
    }
    config = TableConfig("table", rows, dim, optimizer=optimizer)
    feature = StackedFeature("feature", config, 0)
    of_ids = Bags(tf.constant(ids), tf.constant(5000), 5000, None, tf.constant(bags))
    for step in range(2):
        native.update(
            optimizer,
            table,
            slots,
            [feature],
            {"feature": of_ids},
            {"feature": tf.constant(gradients)},
            tf.constant(step, tf.int64),
        )
    return ids, bags, gradients, [v.numpy() for v in (table, *slots.values())]


def test_results_repeat_to_the_bit():
    found = _large(Adagrad(0.1), exact=False)[-1]
    for array, again in zip(found, _large(Adagrad(0.1), exact=False)[-1], strict=True):
        np.testing.assert_array_equal(array, again)


def test_equal_ids_are_summed_first():
    ids, bags, gradients, found = _large(Adagrad(0.1), exact=True)
    summed = np.zeros((3000, 24))
    np.add.at(summed, ids, gradients[bags].astype(np.float64))
    np.testing.assert_allclose(found[1], 2 * summed**2, rtol=1e-6)


@pytest.mark.process  # in which the library chooses anew
def test_with_a_smaller_instruction_set_the_operations_give_the_same():
    """What each instruction set computes is in test_instruction_sets.py."""
    expected = [
        array for name in ("adagrad", "ftrl") for array in _large(_OPTIMIZERS[name], True)[-1]
    ]
    code = (
        "import sys, pathlib, importlib.util, numpy as np\n"
        f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)\n"
        "arrays = [a for n in ('adagrad', 'ftrl') for a in t._large(t._OPTIMIZERS[n], True)[-1]]\n"
        "np.savez(sys.argv[1], *arrays)\n"
    )
    output = f"{os.path.dirname(library())}/portable_{os.getpid()}.npz"
    environment = os.environ | {
        "TF_DLRM_KERNEL_PATH": "portable",
        "TF_DLRM_KERNELS": "native",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    try:
        subprocess.run([sys.executable, "-c", code, output], env=environment, check=True)
        for array, other in zip(expected, np.load(output).values(), strict=True):
            np.testing.assert_allclose(other, array, rtol=1e-5, atol=1e-5)
    finally:
        if os.path.exists(output):
            os.remove(output)


def test_without_a_compiler_tensorflow_serves_after_one_line_of_log(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("TF_DLRM_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_DLRM_KERNELS", "auto")
    monkeypatch.delenv("CXX", raising=False)
    use._load.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not native.are_used(SGD(0.1), "/device:CPU:0")
            assert not native.are_used(SGD(0.1), "/device:CPU:0")
        assert caplog.text.count("there is no g++") == 1
        monkeypatch.setenv("TF_DLRM_KERNELS", "native")
        with pytest.raises(ValueError, match="TF_DLRM_KERNELS is 'native', but there is no g"):
            native.are_used(SGD(0.1), "/device:CPU:0")
    finally:
        use._load.cache_clear()


def test_the_choice_is_checked(monkeypatch):
    monkeypatch.setenv("TF_DLRM_KERNELS", "fast")
    with pytest.raises(ValueError, match="must be one of"):
        native.are_used(SGD(0.1), "/device:CPU:0")
    monkeypatch.setenv("TF_DLRM_KERNELS", "tensorflow")
    assert not native.are_used(SGD(0.1), "/device:CPU:0")
    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    assert native.are_used(SGD(0.1), "/job:localhost/replica:0/task:0/device:CPU:1")
    assert not native.are_used(SGD(0.1), "/device:GPU:0")


def test_what_an_entry_point_chooses_holds_in_all_threads_and_before_the_variable(monkeypatch):
    def is_native_in_a_thread():
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            return pool.submit(native.are_used, SGD(0.1), "/device:CPU:0").result()

    monkeypatch.setenv("TF_DLRM_KERNELS", "native")
    with kernels_chosen("tensorflow"):
        assert not is_native_in_a_thread()
        with kernels_chosen("auto"):
            assert is_native_in_a_thread()
        assert os.environ["TF_DLRM_KERNELS"] == "native"
    assert is_native_in_a_thread()
    monkeypatch.setenv("TF_DLRM_KERNELS", "fast")
    with pytest.raises(UserError, match="must be one of"), kernels_chosen("auto"):
        pass
    with kernels_chosen("native"):
        assert is_native_in_a_thread()


def _lookup(ids, weights=None, batch=None, **table):
    """Looks up one feature of a table of 4 rows, which are 10 times their number."""
    variable = resource_variable_ops.ResourceVariable(tf.constant([[0.0], [10.0], [20.0], [30.0]]))
    feature = StackedFeature("f", TableConfig("t", 3, 1, optimizer=SGD(0.01), **table), 1)
    bags = make_bags("f", ids, weights)
    bags = bags if batch is None else dataclasses.replace(bags, batch=tf.constant(batch))
    return native.lookup(variable, [feature], {"f": bags})["f"].numpy()[:, 0].tolist()


@pytest.mark.parametrize("bad", [3, -1, 2**31 - 1, -(2**31), 2**32, 2**40 + 1, -(2**63)])
def test_an_id_outside_its_table_is_named_or_sent_to_the_row_for_such(bad):
    ids = tf.RaggedTensor.from_row_lengths(tf.constant([0, 1, bad, 2, bad], tf.int64), [1, 0, 3, 1])
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=rf"Feature f has the id {bad} at row 2 of the batch, place 1 of its bag, but ids of "
        r"table t must be in \[0, 3\). Set out_of_vocabulary",
    ):
        _lookup(ids)
    assert _lookup(ids, out_of_vocabulary=2) == [10.0, 0.0, 20.0 + 30.0 + 30.0, 30.0]


def test_nothing_is_updated_where_an_id_is_outside():
    variable = resource_variable_ops.ResourceVariable(tf.zeros((3, 1)))
    feature = StackedFeature("f", TableConfig("t", 3, 1, optimizer=SGD(1.0)), 0)
    bags = {"f": make_bags("f", [0, 1, 3])}
    arguments = {"f": tf.ones((3, 1))}, tf.constant(0, tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has the id 3 at row 2"):
        native.update(SGD(1.0), variable, {}, [feature], bags, *arguments)
    np.testing.assert_array_equal(variable, np.zeros((3, 1)))


def test_a_sparse_tensor_may_be_in_any_order():
    ids = tf.SparseTensor(
        [[2, 0], [0, 1], [2, 1], [0, 0]], tf.constant([1, 2, 0, 1], tf.int32), [3, 2]
    )
    weights = tf.sparse.map_values(lambda v: tf.cast(v, tf.float32) + 1, ids)
    assert _lookup(ids) == [30.0 + 20.0, 0.0, 20.0 + 10.0]
    assert _lookup(ids, weights) == [3 * 30.0 + 2 * 20.0, 0.0, 2 * 20.0 + 10.0]
    mean = [(3 * 30.0 + 2 * 20.0) / 5, 0.0, (2 * 20.0 + 10.0) / 3]
    np.testing.assert_allclose(_lookup(ids, weights, combiner="mean"), mean, rtol=1e-6)


def test_ids_that_do_not_make_up_the_bags_are_refused():
    splits = tf.constant([0, 2, 1], tf.int64)
    broken = tf.RaggedTensor.from_row_splits(tf.constant([1]), splits, validate=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must ascend from 0 to 1, the number"):
        _lookup(broken)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has 2 ids, but the batch has 3 rows"):
        _lookup([1, 2], batch=3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has 1 bags, but the batch has 3"):
        _lookup(tf.ragged.constant([[1]]), batch=3)
    sparse = tf.SparseTensor([[5, 0]], [1], [2, 1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="an id of row 5, but the batch has 2"):
        _lookup(sparse)


def test_an_empty_batch_and_empty_bags_are_fine():
    assert _lookup(tf.zeros([0], tf.int32)) == []
    assert _lookup(tf.ragged.constant([[], []], dtype=tf.int32), combiner="sqrtn") == [0.0, 0.0]


def test_memory_is_asked_for_in_huge_pages():
    before = _huge_kilobytes()
    filled = native.filled((1 << 20, 16), 3.0)
    assert _huge_kilobytes() >= before + 60 * 1024 or not _huge_pages_may_be_asked_for()
    assert float(tf.reduce_min(filled)) == float(tf.reduce_max(filled)) == 3.0


def _huge_kilobytes():
    text = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"AnonHugePages:\s+(\d+)", text)[1])


def _huge_pages_may_be_asked_for():
    path = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return path.exists() and "[never]" not in path.read_text()
