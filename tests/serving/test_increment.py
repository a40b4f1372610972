"""Tables that are written, compared and folded in several pieces, as large ones are."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig, stack
from tf_dlrm.embeddings.storage import MixedDimension
from tf_dlrm.errors import UserError
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving import export, variable_files
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.increment import fold, open_variables
from tf_dlrm.serving.signatures import Signatures, named_inputs
from tf_dlrm.serving.variable_files import CheckpointRows, Rows, key_of
from tfrecords.schema import CategoricalColumn, Schema

# Rows of the tables of 50 and of 30 rows, which follow each other in one variable. Some are the
# first or the last of a table or of a piece, two pieces have none, and one has both tables.
CHANGED = {"user": (0, 6, 7, 30, 49), "words": (0, 5, 29)}
TABLES = key_of("tables", 0)


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 7 rows of 4 floats, read from the model 3 rows at a time."""
    monkeypatch.setattr(variable_files, "_FILE_BYTES", 7 * 16)
    monkeypatch.setattr(stack, "_CHUNK_ELEMENTS", 3 * 4)


def test_an_increment_in_pieces_is_folded_to_the_new_tables(exported, rows, small_pieces, tmp_path):
    base, model = exported["aligned"].folder, DLRM(exported["aligned"].model.config)
    tables = model.embeddings.tables
    for name, changed in CHANGED.items():
        for row in changed:
            tables[name].assign_rows(np.full((1, 4), 3.0 + row, np.float32), row)
    wanted = np.concatenate([tables[name].read_rows() for name in CHANGED])
    assert len(wanted) == 80 and 80 % 7
    increment, folded = str(tmp_path / "increment"), str(tmp_path / "folded")
    export_model(model, rows.aligned, increment, {"step": 2}, incremental_from=base)
    answer = fold(base, increment, folded)
    assert answer == {"export_dir": folded, "step": 2, "changed_rows": 8}
    found = open_variables(folded)
    np.testing.assert_array_equal(found.read(TABLES, 0, 80), wanted)
    np.testing.assert_array_equal(found.read(TABLES, 45, 9), wanted[45:54])
    inputs = rows.tensors(rows.features(rows.aligned, 20))
    serve = tf.saved_model.load(folded).signatures["serving_default"]
    logits = model(inputs, training=False).numpy()[:, 0]
    np.testing.assert_allclose(
        serve(**named_inputs(inputs))["probability"], 1 / (1 + np.exp(-logits)), atol=1e-6
    )
    with pytest.raises(UserError, match="was made from another SavedModel than --base="):
        fold(exported["1"].folder, increment, str(tmp_path / "other"))


class Reversed(Signatures):
    """With all dense weights that lookups read in the other order, as older exports have them."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.weights = list(self.weights)[::-1]


@pytest.mark.parametrize("order_of_base", [Signatures, Reversed])
def test_dense_weights_come_from_the_increment_in_whatever_order(
    tmp_path, rows, monkeypatch, order_of_base
):
    storage, names = MixedDimension(2), ("user", "words")
    schema = Schema(("a", "b"), tuple(CategoricalColumn(name, 20) for name in names))
    features = tuple(
        FeatureConfig(name, TableConfig(name, 20, 4, optimizer=SGD(0.1), storage=storage))
        for name in names
    )
    old, new = (DLRM(DLRMConfig(2, features, (8, 4), (8, 1), seed=seed)) for seed in (1, 2))
    base, increment, folded = (str(tmp_path / name) for name in ("base", "increment", "folded"))
    with monkeypatch.context() as patched:
        patched.setattr(export, "Signatures", order_of_base)
        export_model(old, schema, base, {"step": 1})
    export_model(new, schema, increment, {"step": 2}, incremental_from=base)
    fold(base, increment, folded)
    # Two matrices of one shape, which would be mixed up unnoticed.
    matrices = [CheckpointRows(f"{folder}/variables/variables") for folder in (base, folded)]
    shapes = [{k: s for k, s in each.shapes.items() if "weights" in k} for each in matrices]
    assert shapes[0] == shapes[1] and list(shapes[0].values()) == [(2, 4), (2, 4)]
    inputs = rows.tensors(rows.features(schema, 20))
    probabilities = [
        tf.saved_model.load(folder).signatures["serving_default"](**named_inputs(inputs))
        for folder in (base, folded)
    ]
    for model, found in zip((old, new), probabilities, strict=True):
        wanted = tf.sigmoid(model(inputs, training=False))[:, 0]
        np.testing.assert_allclose(found["probability"], wanted, atol=1e-6)


@pytest.mark.parametrize(("count", "pieces"), [(13, [(0, 7), (7, 6)]), (14, [(0, 7), (7, 7)])])
def test_pieces_cover_every_row_once(small_pieces, count, pieces):
    assert list(Rows((count, 4), tf.float32, None).pieces()) == pieces


def test_rows_wider_than_a_piece_are_pieces_of_one(small_pieces):
    assert list(Rows((2, 100), tf.float32, None).pieces()) == [(0, 1), (1, 1)]


def test_other_variables_stay_and_pieces_are_read_in_order(small_pieces, tmp_path):
    module = tf.Module()
    module.tables = [tf.Variable(tf.zeros([0, 4]), shape=[None, 4])]
    module.kept = tf.Variable([[1.5, -2.5]])
    tf.saved_model.save(module, str(tmp_path))
    content, asked = np.arange(120, dtype=np.float32).reshape(30, 4), []

    def read(start, count):
        asked.append((start, count))
        return content[start : start + count]

    variable_files.replace_variables(str(tmp_path), {TABLES: Rows((30, 4), tf.float32, read)})
    assert asked == [(0, 7), (7, 7), (14, 7), (21, 7), (28, 2)]
    found = CheckpointRows(str(tmp_path / variable_files.VARIABLES))
    for start, stop in itertools.combinations((0, 6, 7, 20, 30), 2):
        np.testing.assert_array_equal(found.read(TABLES, start, stop - start), content[start:stop])
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.tables[0], content)
    np.testing.assert_array_equal(loaded.kept, [[1.5, -2.5]])
