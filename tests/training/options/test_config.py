import copy
import dataclasses
import functools
import json
import operator
import os
import subprocess
import sys

import pytest
from in_process import own_flags

from tf_dlrm.comparing.options import CompareOptions
from tf_dlrm.errors import UserError
from tf_dlrm.serving.options import ExportOptions
from tf_dlrm.training.checkpoints import check_run
from tf_dlrm.training.options.config import (
    DataOptions,
    DistributionOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    TrainingConfig,
)
from tfrecords.schema import CategoricalColumn, Schema

with own_flags():  # theirs are those of other commands too
    from tf_dlrm.launch import LaunchOptions
    from tf_dlrm.plan import PlanOptions

RANDOM = DataOptions(data="random")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (DataOptions(), "--data_dir is missing"),
        (DataOptions(data_dir="/does/not/exist"), "is not a folder"),
        (DataOptions(data="random", data_dir="x"), "contradicts --data_dir=x"),
        (DataOptions(data="synthetic"), "--synthetic_dir is missing: name a folder of distrib"),
        (DataOptions(data="synthetic", synthetic_dir="/does/not/exist"), "is not a folder"),
        (
            DataOptions(data="synthetic", synthetic_dir=os.path.dirname(__file__)),
            "is no folder of distributions: it has no twin.json",
        ),
        (DataOptions(data="random", synthetic_dir="x"), "contradicts --synthetic_dir=x"),
        (DataOptions(data="synthetic", data_dir="x"), "contradicts --data_dir=x"),
        (DataOptions(data="parquet", data_dir="x"), "--data_schema is missing: --data=parquet"),
        (DataOptions(data="parquet", data_schema="avazu"), "--data_dir is missing: name a folder"),
        (
            DataOptions(data="parquet", data_dir=os.path.dirname(__file__), data_schema="avazu"),
            "is no folder of table files: it has no train",
        ),
        (DataOptions(data="random", data_schema="avazu"), "--data_schema=avazu contradicts"),
        (DataOptions(data="random", random_tables=("10", "ten")), "--random_tables has 'ten'"),
        (DataOptions(data="random", random_train_rows=0), "--random_train_rows=0 must be 1"),
        (DataOptions(data="random", random_ids="zipf"), "--random_ids=zipf must be one of"),
        (DataOptions(data="random", random_dense="x"), "--random_dense=x must be one of"),
        (DataOptions(data="random", random_label="x"), "teacher, random, rounded, continuous"),
        (DataOptions(data="random", random_alpha=21.0), "--random_alpha=21.0 must lie between"),
        (
            DataOptions(data="random", random_alpha=float("nan")),
            "--random_alpha=nan must be a finite number",
        ),
        (
            DataOptions(data="random", random_ids="normal", random_alpha=2.0),
            "--random_alpha=2.0 has no effect with --random_ids=normal",
        ),
        (
            DataOptions(data="random", random_indices_per_lookup=0),
            "--random_indices_per_lookup=0 must be 1",
        ),
        (
            DataOptions(data="random", random_indices_per_lookup=4, random_repeats=False),
            "--norandom_repeats needs tables of at least --random_indices_per_lookup=4 rows, but "
            "one has 3",
        ),
        (
            ModelOptions(model="bert"),
            "--model=bert must be one of dlrm, dlrm_dcnv2, dcn, wide_and_d",
        ),
        (
            ModelOptions(model="dcn", bottom_mlp=(8, 16)),
            "--bottom_mlp=8,16 has no effect with --model=dcn; it is for dlrm, dlrm_dcnv2.",
        ),
        (ModelOptions(model="dcn", interaction="concat"), "--interaction=concat has no effect"),
        (
            ModelOptions(model="dlrm_dcnv2", interaction_itself=True),
            "--interaction_itself=True has",
        ),
        (
            ModelOptions(cross_layers=3),
            "--cross_layers=3 has no effect with --model=dlrm; it is for",
        ),
        (ModelOptions(model="dcn", cross_rank=3), "it is for dlrm_dcnv2."),
        (ModelOptions(model="deepfm", interaction_units=(3,)), "it is for xdeepfm."),
        (ModelOptions(model="deepfm", gmf_dim=3), "it is for neural_collaborative_filtering."),
        (ModelOptions(model="factorization_machine", dropout=0.5), "--dropout=0.5 has no effect"),
        (ModelOptions(model="matrix_factorization", top_mlp=(1,)), "--top_mlp=1 has no effect"),
        (ModelOptions(model="dcn", cross_layers=-1), "--cross_layers=-1 must be 0 or more"),
        (ModelOptions(model="dlrm_dcnv2", cross_rank=0), "--cross_rank=0 must be 1 or more"),
        (ModelOptions(model="dcn", top_mlp=()), "--top_mlp= must end in 1"),
        (ModelOptions(model="xdeepfm", interaction_units=()), "--interaction_units= must have one"),
        (ModelOptions(model="xdeepfm", interaction_units=(5, 0)), "must be 1 or more"),
        (
            ModelOptions(model="neural_collaborative_filtering", gmf_dim=17),
            "--gmf_dim=17 must be no more than --embedding_dim=16",
        ),
        (
            ModelOptions(model="neural_collaborative_filtering", gmf_dim=16),
            "--top_mlp=512,256,1 must be empty: --gmf_dim=16 leaves nothing of --embedding_dim",
        ),
        (ModelOptions(top_mlp=(8, 2)), "--top_mlp=8,2 must end in 1"),
        (ModelOptions(bottom_mlp=(8, 2)), "--bottom_mlp=8,2 must end in --embedding_dim=16"),
        (ModelOptions(bottom_mlp=(-8, 16)), "--bottom_mlp=-8,16 must be 1 or more"),
        (ModelOptions(interaction="concat", interaction_itself=True), "contradicts"),
        (ModelOptions(dropout=1.0), "--dropout=1.0"),
        (OptimizerOptions(embedding_learning_rate=0.0), "--embedding_learning_rate=0.0 must be"),
        (
            OptimizerOptions(embedding_initial_accumulator=0.1),
            "--embedding_initial_accumulator=0.1 has no effect with --embedding_optimizer=sgd",
        ),
        (
            OptimizerOptions("adagrad", embedding_initial_accumulator=-1.0),
            "--embedding_initial_accumulator=-1.0 must be a number of 0 or more",
        ),
        (OptimizerOptions(dense_optimizer="adamw"), "must be one of sgd, adagrad, adam"),
        (
            OptimizerOptions(warmup_steps=5, decay_start_step=4, decay_steps=1),
            "--decay_start_step=4 comes before",
        ),
        (OptimizerOptions(decay_start_step=4), "has no effect"),
        (
            OptimizerOptions("ftrl", warmup_steps=2),
            "--embedding_optimizer=ftrl cannot follow a schedule: a new rate would rescale every "
            "row. Leave out --warmup_steps=2, or take",
        ),
        (OptimizerOptions("ftrl", decay_steps=3), "Leave out --decay_steps=3, or"),
        (OptimizerOptions("ftrl", 1e-50), "--embedding_learning_rate=1e-50 is 0 as a float32"),
        (RunOptions(batch_size=0), "--batch_size=0 must be 1 or more"),
        (RunOptions(target_auc=0.8), "--target_auc needs --eval_every_steps"),
        (RunOptions(checkpoint_every_steps=5), "--checkpoint_every_steps needs --model_dir"),
        (RunOptions(model_dir="m", profile_steps=(5,)), "--profile_steps=5 must be two steps"),
        (RunOptions(model_dir=__file__), "is not a folder"),
        (RunOptions(seed=2**31), "--seed=2147483648 must be 2147483647 or less"),
        (DataOptions(data="random", random_tables=()), "--random_tables has ''"),
        (DataOptions(data_dir=os.path.dirname(__file__)), "has no dataset.json"),
        (ModelOptions(embedding_initializer_scale=float("inf")), "must be a finite number"),
        (OptimizerOptions(dense_learning_rate=float("inf")), "must be a finite number"),
    ],
)
def test_a_mistaken_option_is_named_in_a_sentence(options, sentence):
    with pytest.raises(UserError, match="^--.*\\.$") as error:
        options.validate()
    assert sentence in str(error.value)


_ALL_OPTIONS = (
    RANDOM,
    ModelOptions(),
    OptimizerOptions(),
    RunOptions(),
    DistributionOptions(),
    ExportOptions(),
    CompareOptions(output_dir="x"),
    LaunchOptions(),
    PlanOptions(model="mlperf"),
)


def _numbers(kind):
    return [
        pytest.param(options, field.name, id=field.name)
        for options in _ALL_OPTIONS
        for field in dataclasses.fields(options)
        if type(field.default) is kind or (kind is int and "int, ..." in str(field.type))
    ]


@pytest.mark.parametrize("value", [10**20, -(10**20)])
@pytest.mark.parametrize(("options", "name"), _numbers(int))
def test_numbers_of_twenty_digits_are_refused(options, name, value):
    wrong = (value,) if isinstance(getattr(options, name), tuple) else value
    with pytest.raises(UserError, match=f"^--{name}={value} must be -?[0-9]+ or (less|more)[.]$"):
        dataclasses.replace(options, **{name: wrong}).validate()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("options", "name"), _numbers(float))
def test_numbers_that_are_not_finite_are_refused(options, name, value):
    with pytest.raises(UserError, match=f"^--{name}={value} must be a finite number[.]$"):
        dataclasses.replace(options, **{name: value}).validate()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ModelOptions(ensemble_size=100_000), "--ensemble_size=100000 must be 256 or less"),
        (ModelOptions(cross_layers=257, model="dcn"), "--cross_layers=257 must be 256 or less"),
        (ModelOptions(top_mlp="8,1"), "--top_mlp='8,1' must be a list, each a whole number"),
        (ModelOptions(top_mlp=(8, True)), "--top_mlp=8,True must be a list, each a whole number"),
        (DistributionOptions("mirrored", 1000), "--virtual_devices=1000 must be 32 or less"),
        (RunOptions(seed=True), "--seed=True must be a whole number"),
        (RunOptions(deterministic=1), "--deterministic=1 must be true or false"),
        (RunOptions(batch_size=2.0), "--batch_size=2.0 must be a whole number"),
        (OptimizerOptions(decay_power="2"), "--decay_power=2 must be a finite number"),
        (PlanOptions(model="mlperf", devices=(10**9,)), "--devices=1000000000 must be 16384 or"),
    ],
)
def test_values_of_another_type_and_sizes_without_end_are_refused(options, sentence):
    with pytest.raises(UserError) as error:
        options.validate()
    assert sentence in str(error.value)


def _places(value, place=()):
    """Yields the keys that lead to each value within JSON."""
    yield place
    if isinstance(value, dict | list):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(entry, (*place, key))


_WRONG = (None, 3, -1, "x", [], {}, True, 1e300, 10**30, float("nan"), [[]], [None], "9" * 50)


def test_a_run_json_that_was_edited_is_refused_or_still_one_of_a_model():
    """No edit ends in another error than a sentence, and none gives an option another type."""
    run = {
        "format": 1,
        "config": TrainingConfig(RANDOM, ModelOptions(bottom_mlp=(8, 16))).to_json(),
        "schema": Schema(("x",), (CategoricalColumn("a", 5),)).to_json(),
        "data_fingerprint": "f",
        "vocabularies": {"a": "1234abcd from id 0"},
        "meanings": {"Feature a": {"words": "w", "column": "c", "written": "", "part": ""}},
    }
    run = json.loads(json.dumps(run))
    check_run(run, "run.json")
    refused = accepted = 0
    for place in _places(run):
        for wrong in _WRONG:
            edited = copy.deepcopy(run)
            if place:
                within = functools.reduce(operator.getitem, place[:-1], edited)
                before, within[place[-1]] = within[place[-1]], wrong
            else:
                before, edited = run, wrong
            try:
                check_run(edited, "run.json")
            except UserError as error:
                assert str(error).startswith("run.json is not a description of a training run: ")
                refused += 1
            else:
                accepted += 1
                if place[:1] == ("config",) and len(place) > 2 and wrong != []:
                    assert type(wrong) in {type(before), int if type(before) is float else None}
    assert refused > 5 * accepted


def test_json_round_trip_keeps_every_option():
    config = TrainingConfig(
        data=dataclasses.replace(RANDOM, random_tables=("10", "20")),
        model=ModelOptions(embedding_dim=8, bottom_mlp=(4, 8), dropout=0.5),
        optimizer=OptimizerOptions(warmup_steps=7),
        run=RunOptions(model_dir="m", profile_steps=(3, 9), seed=5),
    )
    config.validate()
    assert TrainingConfig.from_json(config.to_json()) == config


def test_synthetic_rows_are_checked(tmp_path):
    (tmp_path / "twin.json").write_text("{}")
    options = DataOptions(data="synthetic", synthetic_dir=str(tmp_path))
    options.validate()
    with pytest.raises(UserError, match="--synthetic_train_rows=-1 must be 0 or more"):
        dataclasses.replace(options, synthetic_train_rows=-1).validate()


def test_the_schema_of_parquet_files_is_read_before_tensorflow_starts(tmp_path):
    (tmp_path / "train").mkdir()
    options = DataOptions(data="parquet", data_dir=str(tmp_path), data_schema="avazu")
    options.validate()
    missing = dataclasses.replace(options, data_schema=str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="^--data_schema=.*none.toml: .*\\.$"):
        missing.validate()
    assert options.with_absolute_paths() == options


def test_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = DataOptions(data="synthetic", synthetic_dir="twin").with_absolute_paths()
    assert options.synthetic_dir == str(tmp_path / "twin") and options.data_dir == ""


def test_lookups_of_a_random_length_are_bounded_by_the_table():
    dataclasses.replace(
        RANDOM,
        random_indices_per_lookup=4,
        random_repeats=False,
        random_indices_per_lookup_fixed=False,
    ).validate()


def test_no_dense_features_means_no_bottom_mlp():
    config = TrainingConfig(data=dataclasses.replace(RANDOM, random_dense_features=0))
    with pytest.raises(UserError, match="--bottom_mlp=512,256,64,16 must be empty"):
        config.validate()


def test_models_without_a_bottom_mlp_take_any_number_of_dense_features():
    for count in (0, 13):
        data = dataclasses.replace(RANDOM, random_dense_features=count)
        TrainingConfig(data=data, model=ModelOptions(model="dcn", embedding_dim=5)).validate()


@pytest.mark.parametrize(("model", "export"), [("x", "x"), ("x", "x/export"), ("x/run", "x")])
def test_exports_and_checkpoints_lie_in_folders_of_their_own(tmp_path, model, export):
    options = RunOptions(model_dir=str(tmp_path / model), export_dir=str(tmp_path / export))
    with pytest.raises(UserError, match="must be two folders, neither inside the other"):
        options.validate()


def test_an_export_replaces_only_an_export(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no saved_model.pb"):
        RunOptions(export_dir=str(tmp_path)).validate()
    (tmp_path / "saved_model.pb").write_text("")
    RunOptions(export_dir=str(tmp_path)).validate()


def test_mistaken_flags_are_told_before_tensorflow_starts():
    code = "import sys, tf_dlrm.training.options.config; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
