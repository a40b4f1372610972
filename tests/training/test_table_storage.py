"""--table_storage and --hash_buckets: what they make of tables, and runs with them."""

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings import MixedDimension, MultipleHashing, QuotientRemainder, WeightedRows
from tf_dlrm.errors import UserError
from tf_dlrm.training.options.config import ModelOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import open_source, train
from tf_dlrm.training.table_storage import storages

# Three tables of 50, 60 and 70 rows x 4, a bottom MLP 4-8-4 and a top MLP 10-8-1.
DENSE = 40 + 36 + 11 * 8 + 9
CASES = {
    "quotient_remainder": (
        {"quotient_remainder_collisions": 5, "storage_from_rows": 60},
        (50 + 12 + 5 + 14 + 5) * 4,
    ),
    # Halves of 2 columns beside a table that is too small to be stored so.
    "quotient_remainder-concatenate": (
        {
            "quotient_remainder_collisions": 5,
            "quotient_remainder_operation": "concatenate",
            "storage_from_rows": 60,
        },
        50 * 4 + (12 + 5 + 14 + 5) * 2,
    ),
    "mixed_dimensions": (
        {"mixed_dimensions_temperature": 1.0, "embedding_dim": 4, "storage_from_rows": 70},
        # 50 / 70 of 4 columns are 2.9, nearer to 2 than to 4; behind them is a matrix.
        (50 + 60) * 4 + 70 * 2 + 2 * 4,
    ),
    "weighted_rows": ({}, 180 * 5),
    "full": ({"hash_buckets": 55, "hash_functions": 3}, (50 + 55 + 55) * 4),
}


def _options(storage):
    common = {"table_storage": storage.split("-")[0], "embedding_optimizer": "adagrad"}
    return common | CASES[storage][0]


@pytest.mark.parametrize(
    "storage",
    ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in CASES if name != "full")],
)
def test_a_run_in_two_halves_equals_one_at_once(tiny, tmp_path, copy_as_of, storage):
    common = _options(storage) | {"checkpoint_every_steps": 15}
    folders = [str(tmp_path / name) for name in ("whole", "halves")]
    whole = train(tiny(**common, model_dir=folders[0]))
    copy_as_of(folders[0], folders[1], 15)
    halves = train(tiny(**common, model_dir=folders[1]))
    assert whole["step"] == halves["step"] == 20
    assert whole["log_loss"] == halves["log_loss"]


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("quotient_remainder-concatenate", "weighted_rows", "mixed_dimensions")
        else name
        for name in CASES
    ],
)
def test_a_run_has_the_parameters_it_should_and_exports_what_it_learned(tiny, tmp_path, storage):
    common = _options(storage)
    folders = [str(tmp_path / name) for name in ("run", "export")]
    trained = train(tiny(**common, model_dir=folders[0], export_dir=folders[1]))
    assert trained["parameters"] == CASES[storage][1] + DENSE
    model, _ = CheckpointedRun(folders[0]).restore()
    features, _ = next(iter(open_source(tiny(**common).data).batches("evaluation", 50)))
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = tf.saved_model.load(folders[1]).signatures["serving_default"](**ids)
    expected = tf.sigmoid(model(features))[:, 0]
    np.testing.assert_allclose(served["probability"], expected, rtol=1e-5)
    assert np.std(expected) > 1e-3


@pytest.mark.parametrize("storage", ["mixed_dimensions", "quotient_remainder"])
@pytest.mark.slow
def test_two_replicas_learn_as_one_device_and_export_it(tiny, tmp_path, storage):
    options, _ = CASES[storage]
    common = {"table_storage": storage, "embedding_optimizer": "adagrad", **options}
    common["train_steps"] = 6
    results = []
    for name, where in (
        ("one", {}),
        ("two", {"distribution": "mirrored", "virtual_devices": 2}),
    ):
        folders = {"model_dir": str(tmp_path / name), "export_dir": str(tmp_path / f"{name}_out")}
        results.append(train(tiny(**common, **where, **folders)))
    one, two = results
    assert two["parameters"] == one["parameters"]
    assert two["log_loss"] == pytest.approx(one["log_loss"], rel=1e-4)
    features, _ = next(iter(open_source(tiny(**common).data).batches("evaluation", 50)))
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = [
        tf.saved_model.load(str(tmp_path / f"{name}_out")).signatures["serving_default"](**ids)
        for name in ("one", "two")
    ]
    first, second = (output["probability"] for output in served)
    np.testing.assert_allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("where", [{}, {"distribution": "mirrored", "virtual_devices": 2}])
def test_tables_too_narrow_to_be_halved_are_said_to_be(tiny, where):
    options = {"table_storage": "quotient_remainder", "embedding_dim": 1, "bottom_mlp": (8, 1)}
    options |= {"quotient_remainder_operation": "concatenate", "storage_from_rows": 60}
    with pytest.raises(UserError, match="'C2' of dim 1 cannot be concatenated from two tables"):
        train(tiny(**options, **where))


def test_each_table_is_stored_as_its_rows_say():
    rows = [10, 300, 19_200]

    def of(**options):
        return storages(ModelOptions(**options), rows, 16)

    assert of() == [None] * 3
    assert of(table_storage="quotient_remainder") == [None, *[QuotientRemainder(4)] * 2]
    added = of(table_storage="quotient_remainder", quotient_remainder_operation="add")
    assert added[2] == QuotientRemainder(4, "add")
    assert of(hash_buckets=300) == [None, None, MultipleHashing(300, 2)]
    assert of(table_storage="weighted_rows") == [WeightedRows()] * 3
    mixed = of(table_storage="mixed_dimensions", mixed_dimensions_temperature=0.25)
    # 16 * (10 / 300) ** 0.25 = 6.8 and 16 * (10 / 19200) ** 0.25 = 2.4
    assert mixed == [None, MixedDimension(8), MixedDimension(2)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"hash_functions": 3}, "--hash_functions=3 has no effect with --table_storage=full and"),
        ({"storage_from_rows": 5}, "--storage_from_rows=5 has no effect with"),
        (
            {"hash_buckets": 9, "table_storage": "weighted_rows"},
            "--hash_buckets=9 contradicts --table_storage=weighted_rows.",
        ),
        ({"hash_buckets": -1}, "--hash_buckets=-1 must be 0 or more."),
        (
            {"table_storage": "quotient_remainder", "quotient_remainder_collisions": 1},
            "--quotient_remainder_collisions=1 must be 2 or more.",
        ),
        (
            {"table_storage": "mixed_dimensions", "mixed_dimensions_temperature": 1.5},
            "--mixed_dimensions_temperature=1.5 must be between 0 and 1.",
        ),
        ({"prediction_clamp": 0.5}, "--prediction_clamp=0.5 must be at least 0 and less than 0.5."),
        ({"positive_weight": 0.0}, "--positive_weight=0.0 must be a number above 0."),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(tiny, options, sentence):
    with pytest.raises(UserError) as error:
        tiny(**options)
    assert str(error.value).startswith(sentence)
