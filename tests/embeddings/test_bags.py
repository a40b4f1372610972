"""Features of one batch have equally many rows, in whatever form their ids come."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, LocalPlacement, TableConfig
from tf_dlrm.embeddings.bags import make_bags
from tf_dlrm.kernels.use import kernels_allowed

_FORMS = ("one", "column", "fixed", "wide", "ragged", "sparse", "weighted")
_TABLE = TableConfig("t", 7, 2, optimizer=SGD(1.0))
_FEATURES = [FeatureConfig(form, _TABLE) for form in _FORMS]


def _rows(form, rows):
    """Ids of each row, as lists."""
    if form in ("one", "column"):
        return [[(2 * row) % 7] for row in range(rows)]
    if form in ("fixed", "wide"):
        return [[row % 7, 6] for row in range(rows)]
    return [[5] * (row % 3) for row in range(rows)]


def _ids(form, rows):
    lists = _rows(form, rows)
    if form == "one":
        return tf.reshape(tf.constant(lists, tf.int32), [-1])
    if form in ("column", "fixed", "wide"):
        return tf.reshape(tf.constant(lists, tf.int64), [rows, 1 if form == "column" else 2])
    ragged = tf.ragged.constant(lists, dtype=tf.int32, ragged_rank=1)
    return ragged.to_sparse() if form == "sparse" else ragged


def _spec(form):
    if form == "sparse":
        return tf.SparseTensorSpec([None, None], tf.int32)
    if form in ("ragged", "weighted"):
        return tf.RaggedTensorSpec([None, None], tf.int32, 1)
    shape = {"one": [None], "column": [None, 1], "fixed": [None, 2], "wide": [None, None]}[form]
    return tf.TensorSpec(shape, tf.int32 if form == "one" else tf.int64)


def _weights(ids):
    return {"weighted": tf.ragged.map_flat_values(lambda v: 0.5 * tf.ones_like(v, tf.float32), ids)}


@pytest.fixture(scope="module", params=["native", "tensorflow"])
def looked_up(request):
    """The rows of the table, and a traced lookup of ids of unknown batch sizes."""
    placement = LocalPlacement(_FEATURES)

    def lookup(ids):
        weights = _weights(ids["weighted"])
        bags = {name: make_bags(name, ids[name], weights.get(name)) for name in ids}
        with kernels_allowed(request.param == "native"):
            return placement.lookup(bags).vectors

    traced = tf.function(lookup, input_signature=[{form: _spec(form) for form in _FORMS}])
    types = {op.type for op in traced.get_concrete_function().graph.get_operations()}
    assert ("TfDlrmLookup" in types) == (request.param == "native")
    return placement.tables["t"].read_rows().numpy(), traced


def test_equal_batches_are_looked_up(looked_up):
    table, traced = looked_up
    for rows in (0, 1, 5):
        found = traced({form: _ids(form, rows) for form in _FORMS})
        for form in _FORMS:
            weight = 0.5 if form == "weighted" else 1.0
            expected = [weight * table[ids].sum(0) for ids in _rows(form, rows)]
            np.testing.assert_allclose(found[form], np.reshape(expected, [rows, 2]), rtol=1e-6)


@pytest.mark.parametrize("other", _FORMS)
@pytest.mark.parametrize("rows", [4, 6, 0])
def test_unequal_batches_are_an_error_that_says_which(looked_up, other, rows):
    _, traced = looked_up
    ids = {form: _ids(form, rows if form == other else 5) for form in _FORMS}
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        traced(ids)
    names, sizes = re.search(
        r"All features must have one batch size, but (.*) have, in this order:\] \[(.*?)\]",
        str(caught.value),
    ).groups()
    sizes = dict(zip(names.split(", "), map(int, sizes.split()), strict=True))
    assert sizes == {form: rows if form == other else 5 for form in _FORMS}


def test_what_one_feature_has_too_much_another_cannot_have_too_little(looked_up):
    """The numbers of ids of all features together would be right."""
    ids = {form: _ids(form, 5) for form in _FORMS}
    with pytest.raises(tf.errors.InvalidArgumentError, match="one batch size"):
        looked_up[1](ids | {"one": _ids("one", 4), "column": _ids("column", 6)})


def test_a_number_of_rows_that_does_not_fit_is_not_wrapped():
    sparse = tf.SparseTensor([[0, 0]], tf.constant([1]), [2**32 + 3, 1])
    assert int(make_bags("f", sparse).batch) == 2**31 - 1
