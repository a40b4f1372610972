"""TensorFlow's own code for TPUs, set up and traced under a strategy that only claims to have one.

None of it runs: the operations for the hardware have no implementation for CPUs. What is tested is
what would reach the hardware: its configuration, the first values of its tables, where their rows
are looked for, and the operations of a step.
"""

import collections
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.distribute import one_device_strategy
from tensorflow.python.tpu import (
    tpu,
    tpu_embedding_v2,
    tpu_embedding_v2_utils,
    tpu_embedding_v3,
)
from tensorflow.python.tpu.ops import tpu_ops

from tf_dlrm.embeddings import (
    FTRL,
    SGD,
    Adagrad,
    FeatureConfig,
    LazyAdam,
    LearningRateSchedule,
    TableConfig,
)
from tf_dlrm.embeddings.plan import COLUMN_WISE, Plan, TablePlan
from tf_dlrm.keras_api import keras
from tf_dlrm.layers.embedding_collection import EmbeddingCollection
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.tpu.placement import TpuPlacement, TpuPlan
from tf_dlrm.training.distribution.tpu import (
    distribute_to_tpu,
    make_tpu_training_steps,
    tpu_placement,
)

_KINDS = tf.tpu.experimental.HardwareFeature.EmbeddingFeature
_BATCH = 8


class _ClaimedTpu(tf.distribute.TPUStrategy):
    """One CPU that claims to be a TPU."""

    def __init__(self, hardware, chips=1, hosts=1):
        extended = one_device_strategy.OneDeviceExtended(self, "/cpu:0")
        tf.distribute.Strategy.__init__(self, extended)
        self.chips = chips
        extended.num_hosts = hosts
        extended.tpu_hardware_feature = types.SimpleNamespace(
            embedding_feature=hardware, num_embedding_devices_per_chip=2
        )
        names = [f"/job:localhost/replica:0/task:0/device:CPU:{k}" for k in range(chips)]
        extended._tpu_devices = np.array([[name] for name in names])

    @property
    def num_replicas_in_sync(self):
        return self.chips

    def run(self, fn, args=(), kwargs=None, options=None):
        return tf.distribute.Strategy.run(self, fn, args, kwargs, options)


@pytest.fixture
def transfers(monkeypatch):
    """Replaces what needs a TPU, and returns a list of the transfers of tables."""
    found = []
    v2, v3 = tpu_embedding_v2, tpu_embedding_v3.TPUEmbeddingShardedVariable
    monkeypatch.setattr(tpu_ops, "is_tpu_embedding_initialized", lambda: False)
    monkeypatch.setattr(tpu, "initialize_system_for_tpu_embedding", lambda config: None)
    monkeypatch.setattr(v2, "_load_variables_impl", lambda *args: found.append("to the TPU"))
    monkeypatch.setattr(v2, "_retrieve_variables_impl", lambda *args: found.append("from the TPU"))
    monkeypatch.setattr(
        tpu_embedding_v2_utils,
        "get_list_of_hosts",
        lambda strategy: [f"/cpu:{k}" for k in range(strategy.extended.num_hosts)],
    )
    monkeypatch.setattr(v3, "read_value", lambda self: self._values[0].read_value())
    monkeypatch.setattr(v3, "assign", lambda self, value: self._values[0].assign(value))
    return found


def _features(*optimizers):
    """Returns a feature with a table for each optimizer, one that shares the last, a small one."""
    tables = [TableConfig(f"t{k}", 30 + 7 * k, 4, optimizer=o) for k, o in enumerate(optimizers)]
    features = [FeatureConfig(table.name, table) for table in tables]
    small = TableConfig("small", 5, 4, optimizer=optimizers[0])
    return (*features, FeatureConfig("bags", tables[-1]), FeatureConfig("small", small))


def _operations(features, strategy, pipelining=False):
    """Traces training steps and returns how often each operation is in them, and the placement."""
    with strategy.scope():
        config = DLRMConfig(2, features, (4,), (1,))
        model = DLRM(config, TpuPlan(_BATCH, 10, pipelining))
        optimizer = keras.optimizers.SGD(0.1, jit_compile=False)
        optimizer.build(model.trainable_variables)
    ids = {f.name: tf.ones([_BATCH], tf.int32) for f in features}
    ids["bags"] = tf.RaggedTensor.from_row_lengths(tf.range(12), [0, 3, 0, 0, 4, 5, 0, 0])
    batches = tf.data.Dataset.from_tensors(
        ({"dense": tf.ones((_BATCH, 2)), **ids}, tf.zeros([_BATCH]))
    )
    iterator = iter(distribute_to_tpu(strategy, batches, _BATCH, model))
    steps = make_tpu_training_steps(model, optimizer, strategy)
    (compiled,) = [
        cell.cell_contents
        for cell in steps.__closure__
        if hasattr(cell.cell_contents, "get_concrete_function")
    ]
    graph = compiled.get_concrete_function(iterator, tf.constant(1)).graph.as_graph_def()
    nodes = [node.op for f in graph.library.function for node in f.node_def]
    return collections.Counter(nodes), tpu_placement(model)


@pytest.mark.parametrize("pipelining", [False, True])
def test_steps_of_the_embedding_unit(transfers, pipelining):
    schedule = LearningRateSchedule(0.4, warmup_steps=4)
    features = _features(SGD(schedule), Adagrad(0.3, 0.1), SGD(schedule), FTRL(0.1), LazyAdam(0.2))
    operations, placement = _operations(features, _ClaimedTpu(_KINDS.V1), pipelining)
    for name in (
        "EnqueueTPUEmbeddingArbitraryTensorBatch",
        "RecvTPUEmbeddingActivations",
        "SendTPUEmbeddingGradients",
    ):
        assert operations[name] == 1, name
    # The small table is looked up on the cores.
    assert operations["ResourceGather"] + operations["GatherV2"] > 0
    config = placement._engine._embedding._config_proto
    assert config.pipeline_execution_with_tensor_core == pipelining
    tables = list(config.table_descriptor)
    of_feature = {f.name: tables[f.table_id].name for f in config.feature_descriptor}
    assert of_feature == {**{f"t{k}": f"t{k}" for k in range(5)}, "bags": "t4"}
    assert {tuple(f.input_shape) for f in config.feature_descriptor} == {(_BATCH,)}
    assert {t.name: t.vocabulary_size for t in tables} == {f"t{k}": 30 + 7 * k for k in range(5)}
    found = {t.name: t.optimization_parameters for t in tables}
    assert {name: p.WhichOneof("parameters") for name, p in found.items()} == {
        "t0": "stochastic_gradient_descent",
        "t1": "adagrad",
        "t2": "stochastic_gradient_descent",
        "t3": "ftrl",
        "t4": "adam",
    }
    rates = {name: p.learning_rate for name, p in found.items()}
    # One rate for both tables of the schedule, another for Adam's correction.
    changing = {name: r.dynamic.tag for name, r in rates.items() if r.HasField("dynamic")}
    assert set(changing) == {"t0", "t2", "t4"}
    assert changing["t0"] == changing["t2"] != changing["t4"]
    np.testing.assert_allclose(rates["t1"].constant, 0.3)
    # Gradients of equal ids are summed before the update.
    assert {p.gradient_accumulation_status for p in found.values()} == {1}
    assert not found["t4"].adam.use_sum_inside_sqrt
    assert not found["t4"].adam.use_non_lazy_adam


def test_tables_of_the_embedding_unit_move_only_when_they_must(transfers):
    features = _features(Adagrad(0.1, 0.1))
    with _ClaimedTpu(_KINDS.V1, hosts=2).scope():
        placement = TpuPlacement(features, TpuPlan(_BATCH, 10), 3)
    table, config = placement.tables["t0"], features[0].table
    assert transfers.pop() == "to the TPU" and not transfers
    # Over two hosts.
    assert len(placement._engine.variables) == 4
    np.testing.assert_array_equal(table.read_rows(), config.initial_rows(3, 0, 30))
    assert not transfers
    placement.before_steps()
    assert not transfers  # the TPU has them already
    table.read_rows(0, 3)
    table.read_rows(5, 3)
    assert transfers == ["from the TPU"]
    table.assign_rows(np.ones((2, 4)), 14)
    table.assign_rows(np.ones((2, 4)), 2, slot="accumulator")
    assert transfers == ["from the TPU"]
    placement.before_steps()
    assert transfers == ["from the TPU", "to the TPU"]
    # Rows of the others are kept, so what the TPU has comes first.
    table.assign_rows(np.ones((1, 4)), 0)
    assert transfers == ["from the TPU", "to the TPU", "from the TPU"]
    np.testing.assert_array_equal(table.read_rows(14, 2), np.ones((2, 4)))


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (SGD(LearningRateSchedule(0.4, warmup_steps=4)), "Sgd"),
        (Adagrad(0.1, 0.1), "Adagrad"),
        pytest.param(LazyAdam(0.1), "Adam", marks=pytest.mark.slow),
        (FTRL(0.1), "Ftrl"),
    ],
)
def test_steps_of_sparse_cores(transfers, optimizer, name):
    operations, placement = _operations(_features(optimizer, optimizer), _ClaimedTpu(_KINDS.V2))
    # Both tables in one stack.
    assert operations["XlaSparseDenseMatmulWithStaticBufferSize"] == 1
    assert operations[f"XlaSparseDenseMatmulGradWith{name}AndStaticBufferSize"] == 1
    assert operations["ConvertToListOfSparseCoreCooTensors"] == 3
    assert not transfers


@pytest.mark.parametrize("chips", [1, 3])
def test_tables_of_sparse_cores_are_where_tensorflow_puts_them(transfers, chips):
    features = _features(LazyAdam(0.1), LazyAdam(0.1), LazyAdam(0.1))
    with _ClaimedTpu(_KINDS.V2, chips).scope():
        placement = TpuPlacement(features, TpuPlan(_BATCH, 10), 3)
    layouts = placement._engine._embedding.embedding_layouts
    # They lie in one stack, each turned on by other cores where there are several chips.
    assert len({layout.stacked_table_name for layout in layouts.values()}) == 1
    assert len({layout.sparse_core_shard_row_offset for layout in layouts.values()}) == 3
    assert any(layout.sparse_core_shard_rotation for layout in layouts.values()) == (chips > 1)
    for feature in features[:3]:
        table = placement.tables[feature.table.name]
        rows = feature.table.vocabulary_size
        # TensorFlow has laid them out, and rows are read where it looks them up.
        np.testing.assert_array_equal(table.read_rows(), feature.table.initial_rows(3, 0, rows))
        np.testing.assert_array_equal(table.read_rows(slot="m"), np.zeros((rows, 4)))
        table.assign_rows(np.full((3, 4), 2.0), 5)
        np.testing.assert_array_equal(table.read_rows(5, 3), np.full((3, 4), 2.0))
        np.testing.assert_array_equal(
            table.read_rows(8), feature.table.initial_rows(3, 8, rows - 8)
        )


def test_what_a_tpu_cannot_do_is_said_when_the_model_is_built(transfers):
    features = _features(SGD(0.1))
    plan = Plan(1, {name: TablePlan(COLUMN_WISE, (0,)) for name in ("t0", "small")})
    with _ClaimedTpu(_KINDS.V1).scope():
        with pytest.raises(ValueError, match="needs replica_batch_size, but it is None"):
            EmbeddingCollection(features, plan=TpuPlan(small_table_rows=10)).build()
        with pytest.raises(ValueError, match="a plan of devices .*column_wise tables.* no use"):
            EmbeddingCollection(features, plan=plan).build()
        layer = EmbeddingCollection(features, plan=TpuPlan(_BATCH, 10))
        layer.build()
        with pytest.raises(ValueError, match=r"looked up by the steps of tf_dlrm\.training"):
            layer({f.name: tf.zeros([_BATCH], tf.int32) for f in features})
    with _ClaimedTpu(_KINDS.UNSUPPORTED).scope():
        with pytest.raises(ValueError, match=r"no embedding hardware for the tables \['t0'\]"):
            TpuPlacement(features, TpuPlan(_BATCH, 10))
        assert not TpuPlacement(features, TpuPlan(_BATCH, 100)).hardware_features
