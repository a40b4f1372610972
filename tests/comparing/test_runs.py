"""What is trained, by which options, and what a second start makes of it."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tf_dlrm.compare import compare
from tf_dlrm.comparing.budget import dense_parameters, matched, mlp_parameters
from tf_dlrm.comparing.curves import evaluations, smoothed, training_loss
from tf_dlrm.comparing.options import CompareOptions
from tf_dlrm.comparing.runs import plan_runs, train_all
from tf_dlrm.errors import UserError
from tf_dlrm.training.config import DataOptions
from tf_dlrm.training.sources import open_source
from tfrecords.folder import WholeFolder
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


def options(tmp_path, **changes):
    made = CompareOptions(output_dir=str(tmp_path), **changes)
    made.validate()
    return made


def test_each_option_goes_to_the_models_that_read_it(tmp_path, with_model):
    common = with_model(cross_rank=3, dropout=0.25)
    models = ("dlrm", "dcn", "dlrm_dcnv2", "factorization_machine")
    rates = {"optimizers": ("sgd", "adagrad"), "learning_rates": ("0.5", "0.02")}
    runs = plan_runs(options(tmp_path, models=models, seeds=(7, 3), **rates), common)
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


def test_an_option_that_no_model_reads_is_an_error(tmp_path, with_model):
    with pytest.raises(UserError, match="--cross_rank=3 has no effect with any of --models=dlrm,"):
        plan_runs(options(tmp_path), with_model(cross_rank=3))


def test_an_accumulator_that_no_optimizer_reads_is_an_error(tmp_path, common):
    accumulator = dataclasses.replace(
        common.optimizer, embedding_optimizer="adagrad", embedding_initial_accumulator=0.5
    )
    common = dataclasses.replace(common, optimizer=accumulator)
    found = {
        run.optimizer: run.config.optimizer.embedding_initial_accumulator
        for run in plan_runs(options(tmp_path), common)
    }
    assert found == {"sgd": 0.0, "adagrad": 0.5}
    with pytest.raises(UserError, match=r"accumulator=0.5 has no effect with any of --opt.*=sgd;"):
        plan_runs(options(tmp_path, optimizers=("sgd",)), common)


@pytest.mark.parametrize("match", [True, False])
def test_a_model_that_cannot_read_the_data_is_known_before_any_is_trained(tmp_path, common, match):
    chosen = options(tmp_path, models=("dlrm", "matrix_factorization"), match_parameters=match)
    with pytest.raises(UserError, match="reads two categorical features .*, but there are 3"):
        compare(chosen, common)
    assert not list(tmp_path.iterdir())


def test_data_without_evaluation_rows_is_known_before_any_model_is_trained(tmp_path, common):
    schema = Schema((), (CategoricalColumn("a", 9), CategoricalColumn("b", 5)))
    with (
        WholeFolder(str(tmp_path / "data")) as folder,
        DatasetWriter(folder, schema, {}) as writer,
    ):
        writer.write("train", {"a": np.arange(5), "b": np.arange(5)}, np.ones(5, np.float32))
    common = dataclasses.replace(common, data=DataOptions(data_dir=str(tmp_path / "data")))
    with pytest.raises(UserError, match="The data has no evaluation rows, so there is nothing"):
        compare(options(tmp_path / "out"), common)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["dcn", "dlrm_dcnv2", "deepfm", "wide_and_deep"])
def test_top_mlps_are_made_as_wide_as_the_budget(tmp_path, common, with_model, model):
    common = with_model(top_mlp=(64, 32, 1), cross_rank=2 if model == "dlrm_dcnv2" else 512)
    schema = open_source(common.data).schema
    chosen = options(tmp_path, models=("dlrm", model), seeds=(0,), optimizers=("sgd",))
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


def test_a_model_without_a_top_mlp_is_what_it_is(tmp_path, common):
    chosen = options(tmp_path, models=("dlrm", "factorization_machine"), seeds=(0,))
    run = plan_runs(chosen, common)[1]
    schema = open_source(common.data).schema
    assert matched(run.config, schema, 10_000) == run.config.model


def test_a_killed_comparison_goes_on_and_ends_as_one_that_was_not(tmp_path, common):
    chosen = {"seeds": (0,), "optimizers": ("adagrad",)}
    compare(options(tmp_path / "whole", **chosen), common)
    runs = plan_runs(options(tmp_path / "killed", **chosen), common)
    # The first run is killed as soon as it has a checkpoint; then all of it is killed.
    process = subprocess.Popen(
        [sys.executable, "-m", "tf_dlrm.train", *runs[0].config.to_flags()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(runs[0].folder.glob("checkpoints/checkpoint")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    compare(options(tmp_path / "killed", **chosen), common)
    whole, killed = (
        json.loads((tmp_path / name / "comparison.json").read_text())
        for name in ("whole", "killed")
    )
    assert [entry["model"] for entry in killed] == ["dlrm", "dcn"]
    for first, second in zip(whole, killed, strict=True):
        for key in ("auc", "log_loss", "accuracy", "step", "parameters", "top_mlp"):
            assert first[key] == second[key]
    sizes = [entry["parameters"] for entry in whole]
    assert max(sizes) <= 1.01 * min(sizes)
    assert "checkpoints" not in {path.name for path in runs[0].folder.iterdir()}
    assert (tmp_path / "whole" / "curves.svg").read_text().count("<path") > 20
    table = (tmp_path / "whole" / "comparison.md").read_text()
    assert f"| dcn | adagrad | {whole[1]['auc']:.4f} | {whole[1]['log_loss']:.4f} |" in table

    # Whatever is finished is not trained again.
    for run in runs:
        (run.folder / "log.txt").unlink()
    results = train_all(plan_runs_as(runs, killed), keep_models=False)
    assert [result["auc"] for result in results] == [entry["auc"] for entry in killed]
    assert not any((run.folder / "log.txt").exists() for run in runs)
    other = dataclasses.replace(
        runs[0],
        config=dataclasses.replace(
            runs[0].config, run=dataclasses.replace(runs[0].config.run, batch_size=50)
        ),
    )
    with pytest.raises(UserError, match=r"holds a run with other options .*--batch_size=50"):
        train_all([other], keep_models=False)

    steps = list(evaluations(runs[0].folder, "auc"))
    assert steps == [10, 20]
    losses = training_loss(runs[0].folder)
    assert max(losses) == 20 and all(0.3 < loss < 1.0 for loss in losses.values())


def plan_runs_as(runs, entries):
    """Returns the runs with the widths that the comparison gave them."""
    return [
        dataclasses.replace(
            run,
            config=dataclasses.replace(
                run.config,
                model=dataclasses.replace(run.config.model, top_mlp=tuple(entry["top_mlp"])),
            ),
        )
        for run, entry in zip(runs, entries, strict=True)
    ]


def test_a_failed_run_is_named_with_what_it_said(tmp_path, common):
    bad = dataclasses.replace(
        common, optimizer=dataclasses.replace(common.optimizer, dense_learning_rate=1e30)
    )
    runs = plan_runs(options(tmp_path, models=("dlrm",), seeds=(0,), optimizers=("sgd",)), bad)
    with pytest.raises(UserError, match=r"The run dlrm/sgd/seed_0 failed: .*loss became.*log\.txt"):
        train_all(runs, keep_models=False)


def test_a_run_that_was_interrupted_does_not_go_on_with_other_options(tmp_path, common):
    chosen = options(tmp_path, models=("dlrm",), seeds=(0,), optimizers=("sgd",))
    (run,) = plan_runs(chosen, common)
    train_all([run], keep_models=True)
    (run.folder / "result.json").unlink()  # as if it was killed after its last checkpoint
    config = dataclasses.replace(
        run.config, run=dataclasses.replace(run.config.run, batch_size=50, epochs=2)
    )
    other = dataclasses.replace(run, config=config)
    with pytest.raises(UserError, match=r"other options \(--batch_size=100, --batch_size=50, --ep"):
        train_all([other], keep_models=True)
    (again,) = train_all([run], keep_models=False)
    assert again["step"] == 20 and again["auc"] is not None
    (run.folder / "result.json").write_text('{"flags": 3, "result": {}}')
    with pytest.raises(UserError, match="result.json does not say what was run; remove the folder"):
        train_all([run], keep_models=False)


def test_a_smoothed_curve_is_a_mean_over_steps():
    curve = {1: 4.0, 3: 1.0, 60: 2.0, 120: 3.0}
    # 60 points of 2 steps: step 1 is the first half of the first, 2 and 3 have 1.0.
    found = smoothed(curve, 120)
    assert found[2] == 4.0 and found[4] == 1.0
    assert found[60] == 2.0 and found[120] == 3.0
