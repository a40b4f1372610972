"""Logical tables: rows, checkpoints of one tensor per table whatever the stacking, NaN."""

import numpy as np
import pytest
import tensorflow as tf
from pulled_back import pull

from tf_dlrm.embeddings import (
    SGD,
    Adagrad,
    FeatureConfig,
    LocalPlacement,
    RowWiseAdagrad,
    TableConfig,
    make_bags,
    stack,
)

TABLES = [
    TableConfig("a", 5, 2, optimizer=Adagrad(0.1)),
    TableConfig("b/c", 7, 2, optimizer=Adagrad(0.1)),
    TableConfig("d", 6, 3, optimizer=RowWiseAdagrad(0.1, 0.5)),
]


def make(tables=TABLES, seed=0):
    return LocalPlacement([FeatureConfig(t.name, t) for t in tables], seed)


def train(placement):
    bags = {name: make_bags(name, tf.constant([1, 1, 4])) for name in placement.tables}
    lookup = placement.lookup(bags)
    pull(placement, lookup, {name: tf.ones_like(v) for name, v in lookup.vectors.items()})


def test_rows_are_read_and_written_by_logical_row():
    tables = make().tables
    table = tables["b/c"]
    before = table.read_rows().numpy()
    table.assign_rows([[1.0, 2.0], [3.0, 4.0]], start=5)
    np.testing.assert_array_equal(table.read_rows(4), [before[4], [1, 2], [3, 4]])
    np.testing.assert_array_equal(table.read_rows(0, 5), before[:5])
    tables["d"].assign_rows([9.0], 2, "accumulator")
    np.testing.assert_array_equal(
        tables["d"].read_rows(slot="accumulator"), [0.5, 0.5, 9.0, 0.5, 0.5, 0.5]
    )
    np.testing.assert_array_equal(tables["a"].read_rows(), TABLES[0].initial_rows(0, 0, 5))


def test_bad_rows_are_sentences():
    table = make().tables["a"]
    with pytest.raises(ValueError, match=r"Rows \[4, 6\) are outside table 'a' of 5 rows"):
        table.read_rows(4, 2)
    with pytest.raises(ValueError, match=r"Rows \[4, 6\)"):
        table.assign_rows(np.zeros((2, 2), "f"), 4)
    with pytest.raises(ValueError, match="table 'a'.* cannot have the shape"):
        table.assign_rows(np.zeros((2, 3), "f"))
    with pytest.raises(ValueError, match="no slot 'momentum'"):
        table.read_rows(slot="momentum")
    with pytest.raises(ValueError, match="no table 'z'"):
        make().tables["z"]


@pytest.mark.parametrize("elements", [1 << 24, 4])
def test_checkpoint_holds_logical_tensors(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(stack, "_CHUNK_ELEMENTS", elements)
    first = make()
    train(first)
    path = tf.train.Checkpoint(tables=first.tables).save(str(tmp_path / "ckpt"))
    shapes = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    key = "tables/{}/.ATTRIBUTES/{}".format
    assert {k: v for k, v in shapes.items() if k.startswith("tables/table:")} == {
        key("table:a", "rows"): [5, 2],
        key("table:a", "accumulator"): [5, 2],
        key("table:b.Sc", "rows"): [7, 2],
        key("table:b.Sc", "accumulator"): [7, 2],
        key("table:d", "rows"): [6, 3],
        key("table:d", "accumulator"): [6],
    }
    stored = tf.train.load_checkpoint(path).get_tensor(key("table:b.Sc", "rows"))
    np.testing.assert_array_equal(stored, first.tables["b/c"].read_rows())
    # Written in slices, read in others, into tables stacked in another order.
    monkeypatch.setattr(stack, "_CHUNK_ELEMENTS", 6)
    second = make(TABLES[::-1], seed=1)
    tf.train.Checkpoint(tables=second.tables).restore(path).assert_consumed()
    for name in first.tables:
        for slot in first.tables[name].keys():
            np.testing.assert_array_equal(
                first.tables[name].read_rows(slot=slot), second.tables[name].read_rows(slot=slot)
            )
    assert int(second.tables.updates) == 1
    train(first)
    train(second)
    np.testing.assert_array_equal(first.tables["d"].read_rows(), second.tables["d"].read_rows())


@pytest.mark.parametrize("elements", [1 << 24, 4])
def test_checkpoint_of_another_shape(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(stack, "_CHUNK_ELEMENTS", elements)
    path = tf.train.Checkpoint(tables=make().tables).save(str(tmp_path / "ckpt"))
    other = make([TABLES[0], TableConfig("b/c", 8, 2, optimizer=Adagrad(0.1)), TABLES[2]])
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as error:
        tf.train.Checkpoint(tables=other.tables).restore(path)
    message = str(error.value)
    assert "b/c" in message or "b.Sc" in message
    assert "7" in message and "8" in message


def test_updates_do_not_copy_or_read_the_whole_variable():
    placement = make()
    bags = {name: tf.constant([1, 1, 4]) for name in placement.tables}

    @tf.function(autograph=False)
    def step():
        lookup = placement.lookup({k: make_bags(k, v) for k, v in bags.items()})
        pull(placement, lookup, lookup.vectors)

    graph = step.get_concrete_function().graph
    reads = [op for op in graph.get_operations() if op.type == "ReadVariableOp"]
    assert {op.outputs[0].dtype for op in reads} <= {tf.int64}  # the counter alone


def test_find_non_finite():
    tables = make().tables
    assert tables.find_non_finite() is None
    tables["d"].assign_rows([np.inf], 5, "accumulator")
    assert tables.find_non_finite() == "d"
    tables["b/c"].assign_rows([[0.0, np.nan]], 6)
    assert tables.find_non_finite() == "b/c"


def test_arrays_round_trip_and_complain():
    first, second = make(seed=0), make(seed=1)
    train(first)
    arrays = first.tables.to_arrays()
    assert arrays["d:accumulator"].shape == (6,)
    second.tables.assign_arrays(arrays)
    for key, value in second.tables.to_arrays().items():
        np.testing.assert_array_equal(value, arrays[key])
    bad = {**arrays, "a:rows": np.zeros((4, 2), "f")}
    with pytest.raises(ValueError, match=r"'rows' of table 'a'.*\[4, 2\].*\[5, 2\]"):
        second.tables.assign_arrays(bad)
    del arrays["d:rows"]
    with pytest.raises(ValueError, match="no 'rows' of table 'd'"):
        second.tables.assign_arrays(arrays)


def test_tables_of_other_optimizers_are_not_stacked():
    tables = [
        TableConfig("a", 5, 2, optimizer=SGD(0.1)),
        TableConfig("b", 5, 2, optimizer=SGD(0.2)),
    ]
    placement = make(tables)
    assert len(placement.stacks) == 2
    before = [placement.tables[n].read_rows().numpy() for n in "ab"]
    train(placement)
    for name, rate, rows in zip("ab", (0.1, 0.2), before, strict=True):
        expected = rows - rate * np.array([0, 2, 0, 0, 1])[:, None]
        np.testing.assert_allclose(placement.tables[name].read_rows(), expected, rtol=1e-6)
