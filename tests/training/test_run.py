import json
import os
import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.embeddings.kernels import choice
from tf_dlrm.errors import UserError
from tf_dlrm.training import run as training_run
from tf_dlrm.training.checkpoints import checkpoint_folder
from tf_dlrm.training.restore import restore_model
from tf_dlrm.training.run import train
from tfrecords.errors import DataError

METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration")


def evaluations(config):
    path = pathlib.Path(config.run.model_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def newest(config):
    return tf.train.latest_checkpoint(checkpoint_folder(config.run.model_dir))


def table_values(config):
    model, _, _ = restore_model(config.run.model_dir)
    return {name: table.read_rows().numpy() for name, table in _tables(model)}


def _tables(model):
    return [(name, model.embeddings.tables[name]) for name in model.embeddings.tables]


def test_training_learns_and_reports_what_it_did(tiny):
    config = tiny(
        epochs=6,
        eval_every_steps=40,
        embedding_optimizer="adagrad",
        dense_optimizer="adam",
        dense_learning_rate=0.01,
    )
    result = train(config)
    assert result["step"] == 6 * 20
    assert result["examples"] == 6 * 1950
    assert result["auc"] > 0.6
    assert 0.9 < result["calibration"] < 1.1
    assert result["parameters"] == (50 + 60 + 70) * 4 + (4 * 8 + 8 + 8 * 4 + 4) + (10 * 8 + 8 + 9)
    assert [e["step"] for e in evaluations(config)] == [40, 80, 120]
    assert evaluations(config)[-1]["auc"] == result["auc"]
    assert newest(config).endswith("-120")


def test_training_in_two_halves_equals_training_at_once(tiny, tmp_path):
    options = {"epochs": 2, "embedding_optimizer": "lazy_adam", "dense_optimizer": "adam"}
    options |= {"embedding_learning_rate": 0.01, "dense_learning_rate": 0.01}
    options |= {"warmup_steps": 8, "decay_start_step": 20, "decay_steps": 18, "dropout": 0.2}
    whole = tiny(**options, model_dir=str(tmp_path / "whole"))
    expected = train(whole)
    halves = tiny(**options, train_steps=13)
    train(halves)
    result = train(tiny(**options))
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    assert result["step"] == expected["step"] == 40
    for name, values in table_values(whole).items():
        np.testing.assert_array_equal(values, table_values(halves)[name])


@pytest.mark.parametrize("repeats", [True, False])
def test_ragged_features_train_and_resume_like_others(tiny, tmp_path, repeats):
    options = {
        "epochs": 2,
        "random_indices_per_lookup": 4,
        "random_indices_per_lookup_fixed": False,
        "random_repeats": repeats,
        "embedding_optimizer": "adagrad",
        "dense_optimizer": "adam",
        "dense_learning_rate": 0.01,
    }
    whole = tiny(**options, model_dir=str(tmp_path / "whole"))
    expected = train(whole)
    assert expected["auc"] > 0.55
    train(tiny(**options, train_steps=13))
    result = train(tiny(**options))
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    for name, values in table_values(whole).items():
        np.testing.assert_array_equal(values, table_values(tiny())[name])


def test_a_finished_run_is_not_trained_again(tiny):
    first = train(tiny())
    path = newest(tiny())
    before = os.stat(path + ".index").st_mtime_ns
    again = train(tiny())
    assert again["examples_per_second"] == 0
    assert {k: again[k] for k in (*METRICS, "step", "examples")} == {
        k: first[k] for k in (*METRICS, "step", "examples")
    }
    assert os.stat(path + ".index").st_mtime_ns == before


def test_another_batch_size_on_resume_loses_no_row(tiny):
    train(tiny(train_steps=7))
    result = train(tiny(batch_size=250))
    # 700 rows in 7 steps, the other 1250 of the epoch in 5 steps of 250.
    assert result["step"] == 12
    assert result["examples"] == 1950


def test_target_auc_stops_training_and_holds_when_run_again(tiny):
    options = {"epochs": 50, "eval_every_steps": 20, "target_auc": 0.55}
    options |= {
        "embedding_optimizer": "adagrad",
        "dense_optimizer": "adam",
        "dense_learning_rate": 0.01,
    }
    result = train(tiny(**options))
    assert result["reached_target"] is True
    assert result["step"] < 50 * 20
    assert train(tiny(**options))["step"] == result["step"]


def test_profile_and_tensorboard_logs_are_written(tiny):
    config = tiny(profile_steps=(5, 8))
    train(config)
    logs = pathlib.Path(config.run.model_dir) / "tensorboard"
    assert list(logs.glob("events.out.tfevents.*"))
    assert list(logs.glob("plugins/profile/*/*.xplane.pb"))


def test_only_the_newest_checkpoints_are_kept(tiny):
    config = tiny(checkpoint_every_steps=5, keep_checkpoints=3)
    train(config)
    state = tf.train.get_checkpoint_state(checkpoint_folder(config.run.model_dir))
    steps = [int(path.rsplit("-", 1)[1]) for path in state.all_model_checkpoint_paths]
    assert steps == [10, 15, 20]


def test_checkpoints_hold_one_logical_tensor_for_each_table_and_slot(tiny):
    config = tiny(embedding_optimizer="rowwise_adagrad")
    train(config)
    shapes = tf.train.load_checkpoint(newest(config)).get_variable_to_shape_map()
    tables = sorted(shape for key, shape in shapes.items() if "table:" in key)
    assert tables == [[50], [50, 4], [60], [60, 4], [70], [70, 4]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"top_mlp": (9, 1)}, "holds a run with --top_mlp=8,1, but this one has --top_mlp=9,1"),
        ({"seed": 4}, "holds a run with --seed=3"),
        ({"embedding_optimizer": "ftrl"}, "--embedding_optimizer=sgd"),
        ({"random_train_rows": 1951}, "holds a run on other data"),
        ({"random_tables": ("50", "60", "71")}, "holds a run on other data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tiny, change, sentence):
    config = tiny(train_steps=3)
    train(config)
    before = newest(config)
    with pytest.raises(UserError) as error:
        train(tiny(**change))
    assert sentence in str(error.value)
    assert newest(config) == before


def test_a_damaged_checkpoint_is_refused(tiny):
    config = tiny(train_steps=3)
    train(config)
    data = pathlib.Path(newest(config) + ".data-00000-of-00001")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    data.write_bytes(damaged)
    with pytest.raises(UserError, match="can't be restored"):
        train(tiny())


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_last_good_checkpoint(tiny):
    good = tiny(train_steps=4)
    train(good)
    before = newest(good)
    with pytest.raises(UserError, match="stopped; the last good checkpoint is .*-4") as error:
        train(tiny(dense_learning_rate=1e30, checkpoint_every_steps=15))
    assert "loss became" in str(error.value)
    assert newest(good) == before
    assert restore_model(good.run.model_dir)[2].step == 4


def test_weights_that_are_not_finite_are_not_written(tiny, monkeypatch):
    monkeypatch.setattr(training_run, "find_non_finite", lambda model, optimizer: "table 'C1'")
    config = tiny()
    with pytest.raises(UserError, match="After step 20 table 'C1' has values that are not finite"):
        train(config)
    assert newest(config) is None


def test_find_non_finite_names_table_or_weight(tiny):
    config = tiny(train_steps=1, embedding_optimizer="adagrad")
    train(config)
    model, _, _ = restore_model(config.run.model_dir)
    optimizer = training_run.build_dense_optimizer(config.optimizer, model)
    assert training_run.find_non_finite(model, optimizer) is None
    model.embeddings.tables["C2"].assign_rows(np.full((1, 4), np.inf, np.float32), start=59)
    assert training_run.find_non_finite(model, optimizer) == "table 'C2'"
    model.embeddings.tables["C2"].assign_rows(np.zeros((1, 4), np.float32), start=59)
    bias = model.top_mlp.dense_layers[0].bias
    bias.assign(np.full(bias.shape, np.nan))
    assert "bias" in training_run.find_non_finite(model, optimizer)


def test_a_full_disk_keeps_the_last_good_checkpoint(tiny):
    good = tiny(train_steps=4)
    train(good)
    before = newest(good)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As on a full disk, writing more than this fails; run.json is smaller, tables are not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(UserError, match="checkpoint of step 20 can't be written") as error:
            train(tiny(tensorboard=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert before in str(error.value)
    assert newest(good) == before
    left = os.listdir(checkpoint_folder(good.run.model_dir))
    assert not [name for name in left if "-20" in name]
    assert train(tiny())["step"] == 20


def test_leftovers_of_an_interrupted_save_are_removed(tiny):
    config = tiny(train_steps=3)
    train(config)
    folder = pathlib.Path(checkpoint_folder(config.run.model_dir))
    (folder / "checkpoint-9_temp").mkdir()
    (folder / "checkpoint-9_temp" / "part-00000-of-00001.data").write_bytes(b"half")
    (folder / "checkpoint-9.data-00000-of-00001").write_bytes(b"half")
    train(config)
    assert not [path for path in folder.iterdir() if "checkpoint-9" in path.name]
    assert newest(config).endswith("-3")


def test_an_ensemble_trains_and_exports_the_mean_of_its_members(tiny, tmp_path):
    config = tiny(ensemble_size=3, export_dir=str(tmp_path / "export"))
    result = train(config)
    alone = train(tiny(model_dir=str(tmp_path / "alone")))
    assert result["parameters"] == 3 * alone["parameters"]
    model, _, _ = restore_model(config.run.model_dir)
    first, _, _ = restore_model(str(tmp_path / "alone"))
    features, _ = next(iter(training_run.open_source(config.data).batches("evaluation", 50)))
    # Each member learns as it would alone, whatever the others do.
    np.testing.assert_allclose(model.members[0](features), first(features), atol=1e-6)
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = tf.saved_model.load(config.run.export_dir).signatures["serving_default"](**ids)
    np.testing.assert_allclose(served["probability"], tf.sigmoid(model(features))[:, 0], atol=1e-6)


def test_a_missing_state_file_deletes_no_checkpoint(tiny):
    config = tiny(train_steps=3)
    train(config)
    folder = pathlib.Path(checkpoint_folder(config.run.model_dir))
    (folder / "checkpoint").write_text("")
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(UserError, match="its file 'checkpoint'.*is missing or damaged"):
        train(tiny())
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("length", [0, 100])
def test_a_truncated_checkpoint_is_refused(tiny, length):
    config = tiny(train_steps=3)
    train(config)
    data = pathlib.Path(newest(config) + ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:length])
    with pytest.raises(UserError, match="can't be restored"):
        train(tiny())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.jsonl", '{"step": 1', "metrics.jsonl, line 1, is no evaluation"),
        ("metrics.jsonl", "3", "metrics.jsonl, line 1, is no evaluation"),
        ("run.json", '{"format": 1}', "run.json is not a description of a training run"),
        ("run.json", '{"format": 2}', "its format is 2, not 1"),
        ("run.json", "[", "run.json is not a description of a training run"),
    ],
)
def test_damaged_files_of_a_run_are_named(tiny, name, content, sentence):
    config = tiny(train_steps=3)
    train(config)
    (pathlib.Path(config.run.model_dir) / name).write_text(content)
    with pytest.raises(UserError) as error:
        train(tiny())
    assert sentence in str(error.value)


def test_a_run_that_never_saved_may_be_begun_anew_with_other_options(tiny):
    with pytest.raises(UserError, match="loss became"):
        train(tiny(dense_learning_rate=1e30))
    assert train(tiny(top_mlp=(9, 1)))["step"] == 20


def test_options_added_later_do_not_break_older_runs(tiny):
    config = tiny(train_steps=3)
    train(config)
    path = pathlib.Path(config.run.model_dir) / "run.json"
    run = json.loads(path.read_text())
    del run["config"]["model"]["ensemble_size"]
    path.write_text(json.dumps(run))
    assert train(tiny())["step"] == 20


def test_an_evaluation_on_other_rows_is_made_anew(tiny):
    train(tiny())
    result = train(tiny(eval_steps=1, eval_batch_size=10))
    assert result["evaluation_examples"] == 10


def test_an_evaluation_that_a_stop_prevented_is_made_up(tiny):
    options = {"eval_every_steps": 10, "checkpoint_every_steps": 10}
    train(tiny(**options, train_steps=10))
    # As if the process had died between the checkpoint of step 10 and its evaluation.
    config = tiny(**options)
    (pathlib.Path(config.run.model_dir) / "metrics.jsonl").write_text("")
    train(config)
    assert [e["step"] for e in evaluations(config)] == [10, 20]


def test_only_one_process_trains_into_a_folder(tiny):
    config = tiny()
    with training_run._only_process(config.run.model_dir):
        with pytest.raises(UserError, match="Another process is training into"):
            train(config)
    assert train(config)["step"] == 20


class _WithoutEvaluation:
    """A source that has training rows only."""

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def rows(self, split):
        if split != "train":
            raise DataError(f"no split {split}")
        return self._source.rows(split)


def test_data_without_evaluation_rows_trains_and_says_that_there_are_no_metrics(tiny, monkeypatch):
    opened = training_run.open_source
    monkeypatch.setattr(training_run, "open_source", lambda o: _WithoutEvaluation(opened(o)))
    result = train(tiny())
    assert result["step"] == 20
    assert all(result[name] is None for name in METRICS)
    with pytest.raises(UserError, match="--target_auc=0.9 needs|--eval_every_steps=5 needs"):
        train(tiny(target_auc=0.9, eval_every_steps=5))


def test_more_epochs_on_resume_continue(tiny, tmp_path):
    once = train(tiny(epochs=2, model_dir=str(tmp_path / "once")))
    train(tiny(epochs=1))
    again = train(tiny(epochs=2))
    assert {k: again[k] for k in METRICS} == {k: once[k] for k in METRICS}


def test_a_model_with_weights_that_are_not_finite_is_not_exported(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training_run, "find_non_finite", lambda model, optimizer: "table 'C1'")
    with pytest.raises(UserError, match="so nothing was exported"):
        train(tiny(model_dir="", export_dir=str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


def test_kernels_and_tensorflow_go_on_from_each_others_checkpoints(tiny, tmp_path):
    options = {"embedding_optimizer": "adagrad", "eval_every_steps": 20}
    expected = train(tiny(**options, kernels="native", model_dir=str(tmp_path / "whole")))
    half = {**options, "checkpoint_every_steps": 10}
    train(tiny(**half, kernels="tensorflow", train_steps=10))
    result = train(tiny(**half, kernels="native"))
    assert result["step"] == expected["step"] == 20
    assert result["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-5)
    assert os.environ.get("TF_DLRM_KERNELS") is None


def test_kernels_that_cannot_be_compiled_are_an_error_only_where_they_were_asked_for(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    monkeypatch.setenv("TF_DLRM_CACHE", str(tmp_path / "cache"))
    choice._load.cache_clear()
    try:
        with pytest.raises(UserError, match="TF_DLRM_KERNELS is 'native', but .*no_compiler"):
            train(tiny(kernels="native"))
        assert train(tiny())["step"] == 20
    finally:
        choice._load.cache_clear()


def test_a_model_that_computes_in_bfloat16_trains_and_exports_what_it_learned(tiny, tmp_path):
    export = str(tmp_path / "export")
    result = train(tiny(compute_dtype="bfloat16", export_dir=export))
    exact = train(tiny(model_dir=str(tmp_path / "exact")))
    # bfloat16 has eight bits; how the products round their sums depends on the processor.
    assert result["log_loss"] == pytest.approx(exact["log_loss"], rel=2**-8)
    assert result["log_loss"] != exact["log_loss"]
    model, _, _ = restore_model(tiny().run.model_dir)
    features, _ = next(iter(training_run.open_source(tiny().data).batches("evaluation", 50)))
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = tf.saved_model.load(export).signatures["serving_default"](**ids)["probability"]
    np.testing.assert_allclose(served, tf.sigmoid(model(features))[:, 0], atol=1e-2)
