import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.kernels import use
from tf_dlrm.training import run as training_run
from tf_dlrm.training.checkpoints import checkpoint_folder
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import train
from tfrecords.errors import DataError

METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration")


def evaluations(config):
    path = pathlib.Path(config.run.model_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def newest(config):
    return tf.train.latest_checkpoint(checkpoint_folder(config.run.model_dir))


def table_values(config):
    model, _ = CheckpointedRun(config.run.model_dir).restore()
    return {name: table.read_rows().numpy() for name, table in _tables(model)}


def _tables(model):
    return [(name, model.embeddings.tables[name]) for name in model.embeddings.tables]


def test_training_learns_and_reports_what_it_did(tiny):
    config = tiny(
        epochs=6,
        eval_every_steps=40,
        eval_batch_size=256,
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


def test_training_in_parts_equals_training_at_once(tiny, tmp_path):
    options = {"epochs": 2, "embedding_optimizer": "lazy_adam", "dense_optimizer": "adam"}
    options |= {"embedding_learning_rate": 0.01, "dense_learning_rate": 0.01}
    options |= {"warmup_steps": 8, "decay_start_step": 20, "decay_steps": 18, "dropout": 0.2}
    whole = tiny(**options, model_dir=str(tmp_path / "whole"))
    expected = train(whole)
    parts = tiny(**options, train_steps=13)
    assert train(parts)["step"] == 13
    result = train(tiny(**options))
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    assert result["step"] == expected["step"] == 40
    for name, values in table_values(whole).items():
        np.testing.assert_array_equal(values, table_values(parts)[name])


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [pytest.param(True, marks=pytest.mark.exhaustive), False])
def test_rows_that_are_made_while_training_are_the_same_after_a_resume(
    rows_as_they_are_made, tiny, tmp_path, copy_as_of, repeats
):
    options = {
        "checkpoint_every_steps": 13,
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
    copy_as_of(whole.run.model_dir, str(tmp_path / "run"), 13)
    result = train(tiny(**options))
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    for name, values in table_values(whole).items():
        np.testing.assert_array_equal(values, table_values(tiny())[name])


@pytest.mark.slow
def test_a_run_that_came_to_its_end_is_given_more_epochs(tiny, tmp_path):
    options = {"embedding_optimizer": "lazy_adam", "dense_optimizer": "adam", "dropout": 0.2}
    expected = train(tiny(**options, epochs=2, model_dir=str(tmp_path / "whole")))
    assert train(tiny(**options, epochs=1))["step"] == 20
    result = train(tiny(**options, epochs=2))
    assert result["step"] == 40
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}


@pytest.mark.slow
def test_ragged_features_train_and_resume_like_others(tiny, tmp_path, copy_as_of):
    options = {
        "random_indices_per_lookup": 4,
        "random_indices_per_lookup_fixed": False,
        "embedding_optimizer": "adagrad",
        "dense_optimizer": "adam",
        "dense_learning_rate": 0.01,
        "checkpoint_every_steps": 13,
    }
    whole = tiny(**options, model_dir=str(tmp_path / "whole"))
    expected = train(whole)
    assert expected["auc"] > 0.55
    copy_as_of(whole.run.model_dir, str(tmp_path / "run"), 13)
    result = train(tiny(**options))
    assert result["step"] == expected["step"] == 20
    assert {k: result[k] for k in METRICS} == {k: expected[k] for k in METRICS}
    for name, values in table_values(whole).items():
        np.testing.assert_array_equal(values, table_values(tiny())[name])


def test_a_finished_run_is_neither_trained_nor_evaluated_again(finished, monkeypatch):
    monkeypatch.setattr(training_run, "Evaluation", lambda *arguments: None)
    config, first = finished
    path = newest(config)
    before = os.stat(path + ".index").st_mtime_ns
    again = train(config)
    assert again["examples_per_second"] == 0
    assert {k: again[k] for k in (*METRICS, "step", "examples")} == {
        k: first[k] for k in (*METRICS, "step", "examples")
    }
    assert os.stat(path + ".index").st_mtime_ns == before


def test_another_batch_size_on_resume_loses_no_row(tiny, begun):
    result = train(tiny(batch_size=450))
    # 300 rows in 3 steps, the other 1650 of the epoch in 4 steps of 450.
    assert result["step"] == 7
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
    config = tiny(profile_steps=(2, 3), train_steps=4)
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
    schema = training_run.open_source(config.data).schema
    model = training_run.build_model(config.model, config.optimizer, schema, seed=0)
    checkpoints = training_run.Checkpoints(config.run.model_dir, 2, model=model)
    checkpoints.save(training_run.Position(7, 1, 300))
    shapes = tf.train.load_checkpoint(newest(config)).get_variable_to_shape_map()
    tables = sorted(shape for key, shape in shapes.items() if "table:" in key)
    assert tables == [[50], [50, 4], [60], [60, 4], [70], [70, 4]]
    assert checkpoints.restore() == training_run.Position(7, 1, 300)


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_last_good_checkpoint(tiny, begun):
    before = newest(begun)
    with pytest.raises(UserError, match="stopped; the last good checkpoint is .*-3") as error:
        train(tiny(dense_learning_rate=1e30, checkpoint_every_steps=15))
    assert "loss became" in str(error.value)
    assert newest(begun) == before
    assert CheckpointedRun(begun.run.model_dir).restore()[1].step == 3


def test_weights_that_are_not_finite_are_not_written(tiny, monkeypatch):
    monkeypatch.setattr(training_run, "find_non_finite", lambda model, optimizer: "table 'C1'")
    config = tiny(train_steps=2)
    with pytest.raises(UserError, match="After step 2 table 'C1' has values that are not finite"):
        train(config)
    assert newest(config) is None


def test_find_non_finite_names_table_or_weight_or_slot(tiny):
    config = tiny(embedding_optimizer="adagrad", dense_optimizer="adam")
    schema = training_run.open_source(config.data).schema
    model = training_run.build_model(config.model, config.optimizer, schema, seed=0)
    optimizer = training_run.build_dense_optimizer(config.optimizer, model)

    def found():
        return training_run.find_non_finite(model, optimizer)

    assert found() is None
    table = model.embeddings.tables["C2"]
    for slot in ("rows", "accumulator"):
        before = table.read_rows(59, 1, slot=slot)
        table.assign_rows(np.full((1, 4), np.inf, np.float32), start=59, slot=slot)
        assert found() == "table 'C2'"
        table.assign_rows(before, start=59, slot=slot)
    bias = model.top_mlp.dense_layers[0].bias
    bias.assign(np.full(bias.shape, np.nan))
    assert "bias" in found()
    bias.assign(np.zeros(bias.shape))
    assert found() is None
    slot = next(v for v in optimizer.variables if v.shape == bias.shape)
    slot.assign(np.full(bias.shape, -np.inf))
    assert slot.name in found()


@pytest.mark.slow
def test_an_ensemble_trains_and_exports_the_mean_of_its_members(tiny, tmp_path, finished):
    folder = str(tmp_path / "ensemble")
    config = tiny(ensemble_size=2, model_dir=folder, export_dir=str(tmp_path / "export"))
    result = train(config)
    assert result["parameters"] == 2 * finished[1]["parameters"]
    model, _ = CheckpointedRun(folder).restore()
    first, _ = CheckpointedRun(tiny().run.model_dir).restore()
    features, _ = next(iter(training_run.open_source(config.data).batches("evaluation", 50)))
    # Each member learns as it would alone, whatever the others do.
    np.testing.assert_allclose(model.members[0](features), first(features), atol=1e-6)
    assert np.abs(model.members[1](features) - first(features)).max() > 1e-2
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = tf.saved_model.load(config.run.export_dir).signatures["serving_default"](**ids)
    np.testing.assert_allclose(served["probability"], tf.sigmoid(model(features))[:, 0], atol=1e-6)


def test_a_run_that_never_saved_may_be_begun_anew_with_other_options(tiny):
    with pytest.raises(UserError, match="loss became"):
        train(tiny(dense_learning_rate=1e30))
    assert train(tiny(top_mlp=(9, 1)))["step"] == 20


def test_options_added_later_do_not_break_older_runs(begun):
    path = pathlib.Path(begun.run.model_dir) / "run.json"
    run = json.loads(path.read_text())
    del run["config"]["model"]["ensemble_size"]
    path.write_text(json.dumps(run))
    assert train(begun)["step"] == 3


def test_an_evaluation_on_other_rows_is_made_anew(tiny, finished):
    result = train(tiny(eval_steps=2, eval_batch_size=10))
    assert result["evaluation_examples"] == 20


def test_an_evaluation_that_a_stop_prevented_is_made_up(tiny, begun):
    # As if the process had died between the checkpoint of step 3 and its evaluation.
    config = tiny(eval_every_steps=3, train_steps=4)
    (pathlib.Path(config.run.model_dir) / "metrics.jsonl").write_text("")
    train(config)
    assert [e["step"] for e in evaluations(config)] == [3, 4]


def test_only_one_process_trains_into_a_folder(finished):
    config, _ = finished
    with training_run._only_process(config.run.model_dir):
        with pytest.raises(UserError, match="Another process is training into"):
            train(config)
    assert train(config)["step"] == 20


def test_what_killed_processes_left_of_small_files_is_removed(tmp_path):
    left = tmp_path / "metrics.jsonl.0a1b2c3d.incomplete"
    # Of the user, or at another length of the token.
    others = [tmp_path / name for name in ("notes.incomplete", "a.0a1b2c3.incomplete", "run.json")]
    for path in (left, *others):
        path.write_text("part of")
    with training_run._only_process(str(tmp_path)):
        assert not left.exists()
        assert [path.read_text() for path in others] == ["part of"] * 3


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
    result = train(tiny(train_steps=2))
    assert result["step"] == 2
    assert all(result[name] is None for name in METRICS)
    for name in ("eval_every_steps", "eval_steps"):
        with pytest.raises(UserError, match=f"--{name}=5 needs evaluation rows"):
            train(tiny(**{name: 5}))


def test_a_model_with_weights_that_are_not_finite_is_not_exported(
    tiny, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_run, "find_non_finite", lambda model, optimizer: "table 'C1'")
    with pytest.raises(UserError, match="so nothing was exported"):
        train(tiny(export_dir=str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()


def test_kernels_go_on_from_a_checkpoint_of_tensorflow(tiny, tmp_path, copy_as_of):
    options = {"embedding_optimizer": "adagrad", "checkpoint_every_steps": 10}
    whole = tiny(**options, kernels="tensorflow", model_dir=str(tmp_path / "whole"))
    expected = train(whole)
    copy_as_of(whole.run.model_dir, str(tmp_path / "run"), 10)
    result = train(tiny(**options, kernels="native"))
    assert result["step"] == expected["step"] == 20
    assert result["log_loss"] == pytest.approx(expected["log_loss"], rel=1e-5)


def test_kernels_that_cannot_be_compiled_are_an_error_only_where_they_were_asked_for(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", str(tmp_path / "no_compiler"))
    monkeypatch.setenv("TF_DLRM_CACHE", str(tmp_path / "cache"))
    use._load.cache_clear()
    try:
        with pytest.raises(UserError, match="TF_DLRM_KERNELS is 'native', but .*no_compiler"):
            train(tiny(kernels="native"))
        assert train(tiny(train_steps=1))["step"] == 1
    finally:
        use._load.cache_clear()


def test_a_model_that_computes_in_bfloat16_trains_and_exports_what_it_learned(
    tiny, tmp_path, finished
):
    export, folder = str(tmp_path / "export"), str(tmp_path / "bfloat16")
    result = train(tiny(compute_dtype="bfloat16", model_dir=folder, export_dir=export))
    # bfloat16 has eight bits; how the products round their sums depends on the processor.
    assert result["log_loss"] == pytest.approx(finished[1]["log_loss"], rel=2**-8)
    model, _ = CheckpointedRun(folder).restore()
    assert model.top_mlp.compute_dtype == model.bottom_mlp.compute_dtype == "bfloat16"
    features, _ = next(iter(training_run.open_source(tiny().data).batches("evaluation", 50)))
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    serve = tf.saved_model.load(export).signatures["serving_default"]
    served = serve(**ids)["probability"]
    np.testing.assert_allclose(served, tf.sigmoid(model(features))[:, 0], atol=1e-2)
    nodes = [n for f in serve.graph.as_graph_def().library.function for n in f.node_def]
    products = [node.attr["T"].type for node in nodes if node.op == "MatMul"]
    assert products.count(tf.bfloat16.as_datatype_enum) == 4  # the layers of both MLPs
