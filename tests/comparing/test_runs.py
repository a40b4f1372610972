"""What is trained, and by which options."""

import dataclasses

import numpy as np
import pytest

from tf_dlrm.compare import compare
from tf_dlrm.comparing.budget import dense_parameters, matched, mlp_parameters
from tf_dlrm.comparing.curves import smoothed
from tf_dlrm.comparing.options import CompareOptions
from tf_dlrm.comparing.runs import plan_runs
from tf_dlrm.errors import UserError
from tf_dlrm.training.options.config import DataOptions
from tf_dlrm.training.sources import open_source
from tfrecords.folder import WholeFolder
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


def test_each_option_goes_to_the_models_that_read_it(compare_options, tmp_path, with_model):
    common = with_model(cross_rank=3, dropout=0.25)
    models = ("dlrm", "dcn", "dlrm_dcnv2", "factorization_machine")
    rates = {"optimizers": ("sgd", "adagrad"), "learning_rates": ("0.5", "0.02")}
    runs = plan_runs(compare_options(tmp_path, models=models, seeds=(7, 3), **rates), common)
    assert [run.name for run in runs[:5]] == [
        "dlrm/sgd/seed_7",
        "dcn/sgd/seed_7",
        "dlrm_dcnv2/sgd/seed_7",
        "factorization_machine/sgd/seed_7",
        "dlrm/adagrad/seed_7",
    ]
    assert len(runs) == 16
    by_name = {run.name: run.config for run in runs}
    of = {model: by_name[f"{model}/adagrad/seed_3"].model for model in models}
    assert [of[model].cross_rank for model in models] == [512, 512, 3, 512]
    assert [of[model].dropout for model in models] == [0.25, 0.25, 0.25, 0.0]
    assert of["dcn"].bottom_mlp == (512, 256, 64, 16) != of["dlrm"].bottom_mlp == (8, 4)
    optimizer = by_name["dcn/adagrad/seed_3"].optimizer
    assert (optimizer.embedding_optimizer, optimizer.dense_optimizer) == ("adagrad", "adagrad")
    assert optimizer.embedding_learning_rate == optimizer.dense_learning_rate == 0.02
    assert by_name["dcn/sgd/seed_3"].run.seed == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": ("dlrm", "svm")}, "--models has 'svm', but knows dlrm, dlrm_dcnv2, dcn,"),
        ({"optimizers": ("adam",)}, "--optimizers has 'adam', but knows sgd, adagrad."),
        ({"seeds": (1, 1)}, "--seeds=1,1 must have entries that all differ."),
        ({"learning_rates": ("0.1",)}, "--learning_rates=0.1 must have one rate for each of"),
        ({"learning_rates": ("0.1", "fast")}, "--learning_rates has 'fast', which is no number"),
        ({"learning_rates": ("0.1", "nan")}, "--learning_rates has 'nan', which is no number"),
        ({"models": ()}, "--models= must have entries that all differ."),
        ({"output_dir": ""}, "--output_dir= must be the folder that the comparison goes into."),
        ({"output_dir": "gs://b/c"}, "--output_dir=gs://b/c must be a path on this machine."),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(tmp_path, changes, sentence):
    with pytest.raises(UserError) as error:
        CompareOptions(**{"output_dir": str(tmp_path), **changes}).validate()
    assert str(error.value).startswith(sentence)


def test_an_option_that_no_model_reads_is_an_error(compare_options, tmp_path, with_model):
    with pytest.raises(UserError, match="--cross_rank=3 has no effect with any of --models=dlrm,"):
        plan_runs(compare_options(tmp_path), with_model(cross_rank=3))


def test_an_accumulator_that_no_optimizer_reads_is_an_error(compare_options, tmp_path, common):
    accumulator = dataclasses.replace(
        common.optimizer, embedding_optimizer="adagrad", embedding_initial_accumulator=0.5
    )
    common = dataclasses.replace(common, optimizer=accumulator)
    found = {
        run.optimizer: run.config.optimizer.embedding_initial_accumulator
        for run in plan_runs(compare_options(tmp_path), common)
    }
    assert found == {"sgd": 0.0, "adagrad": 0.5}
    with pytest.raises(UserError, match=r"accumulator=0.5 has no effect with any of --opt.*=sgd;"):
        plan_runs(compare_options(tmp_path, optimizers=("sgd",)), common)


@pytest.mark.parametrize("match", [True, False])
def test_a_model_that_cannot_read_the_data_is_known_before_any_is_trained(
    compare_options, tmp_path, common, match
):
    chosen = compare_options(
        tmp_path, models=("dlrm", "matrix_factorization"), match_parameters=match
    )
    with pytest.raises(UserError, match="reads two categorical features .*, but there are 3"):
        compare(chosen, common)
    assert not list(tmp_path.iterdir())


def test_data_without_evaluation_rows_is_known_before_any_model_is_trained(
    compare_options, tmp_path, common
):
    schema = Schema((), (CategoricalColumn("a", 9), CategoricalColumn("b", 5)))
    with (
        WholeFolder(str(tmp_path / "data")) as folder,
        DatasetWriter(folder, schema, {}) as writer,
    ):
        writer.write("train", {"a": np.arange(5), "b": np.arange(5)}, np.ones(5, np.float32))
    common = dataclasses.replace(common, data=DataOptions(data_dir=str(tmp_path / "data")))
    with pytest.raises(UserError, match="The data has no evaluation rows, so there is nothing"):
        compare(compare_options(tmp_path / "out"), common)
    assert not (tmp_path / "out").exists()


def test_an_mlp_has_a_bias_for_each_unit():
    assert mlp_parameters(3, (5, 2)) == 3 * 5 + 5 + 5 * 2 + 2


@pytest.mark.parametrize("model", ["dcn", "dlrm_dcnv2", "deepfm", "wide_and_deep"])
def test_top_mlps_are_made_as_wide_as_the_budget(
    compare_options, tmp_path, common, with_model, model
):
    common = with_model(top_mlp=(64, 32, 1), cross_rank=2 if model == "dlrm_dcnv2" else 512)
    schema = open_source(common.data).schema
    chosen = compare_options(tmp_path, models=("dlrm", model), seeds=(0,), optimizers=("sgd",))
    first, other = plan_runs(chosen, common)
    budget, inputs = dense_parameters(first.config, schema)
    # A bottom MLP 4-8-4, and 6 products after its output.
    assert inputs == 10
    assert budget == 4 * 8 + 8 + 8 * 4 + 4 + 10 * 64 + 64 + 64 * 32 + 32 + 32 + 1
    found = matched(other.config, schema, budget)
    count, inputs = dense_parameters(dataclasses.replace(other.config, model=found), schema)
    assert abs(count - budget) <= 0.02 * budget
    assert found.top_mlp[-1] == 1
    narrower = tuple(width - 1 for width in found.top_mlp[:-1]) + (1,)
    wider = tuple(width + 1 for width in found.top_mlp[:-1]) + (1,)
    here = mlp_parameters(inputs, found.top_mlp)
    for units in (narrower, wider):
        assert abs(count - here + mlp_parameters(inputs, units) - budget) >= abs(count - budget)


def test_a_model_without_a_top_mlp_is_what_it_is(compare_options, tmp_path, common):
    chosen = compare_options(tmp_path, models=("dlrm", "factorization_machine"), seeds=(0,))
    run = plan_runs(chosen, common)[1]
    schema = open_source(common.data).schema
    assert matched(run.config, schema, 10_000) == run.config.model


def test_a_smoothed_curve_is_a_mean_over_steps():
    curve = {1: 4.0, 3: 1.0, 60: 2.0, 120: 3.0}
    # 60 points of 2 steps: step 1 is the first half of the first, 2 and 3 have 1.0.
    found = smoothed(curve, 120)
    assert found[2] == 4.0 and found[4] == 1.0
    assert found[60] == 2.0 and found[120] == 3.0
