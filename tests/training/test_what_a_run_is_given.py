"""What of a run's options reaches what they are for, compared with values written by hand."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.training import run as training_run
from tf_dlrm.training.distribution import distribution
from tf_dlrm.training.loss import CrossEntropy
from tf_dlrm.training.run import train


@pytest.fixture
def calls(monkeypatch):
    """The calls of the source's `batches` by runs of this test: split, size and other arguments."""
    found = []
    opened = training_run.open_source

    class Recording:
        def __init__(self, source):
            self._source = source

        def __getattr__(self, name):
            return getattr(self._source, name)

        def batches(self, split, batch_size, **arguments):
            found.append((split, batch_size, arguments))
            return self._source.batches(split, batch_size, **arguments)

    monkeypatch.setattr(training_run, "open_source", lambda options: Recording(opened(options)))
    return found


def _epoch(number, first_row=0, size=100, seed=3):
    return "train", size, {"shuffle_seed": seed, "epoch": number, "first_row": first_row}


def test_every_epoch_has_its_own_order_and_goes_on_where_it_stopped(tiny, calls):
    evaluation = ("evaluation", 350, {})
    # 19 batches of 100 rows and one of 50 are an epoch.
    train(tiny(epochs=3, train_steps=27))
    assert calls == [_epoch(0), _epoch(1), evaluation]
    calls.clear()
    # The other 1250 rows of the second epoch, from row 700 on, are 6 batches of 220.
    result = train(tiny(epochs=3, batch_size=220, eval_every_steps=33))
    # Made once: TensorFlow keeps what it needs of each for good.
    assert calls == [_epoch(1, 700, 220), evaluation, _epoch(2, 0, 220)]
    lines = (pathlib.Path(tiny().run.model_dir) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [27, 33, 42]
    assert (result["step"], result["epoch"]) == (27 + 6 + 9, 3.0)


def test_rows_that_are_not_shuffled_have_no_seed(tiny, calls):
    train(tiny(shuffle=False, seed=8, train_steps=1))
    train(tiny(model_dir="", seed=8, train_steps=1))
    assert [call for call in calls if call[0] == "train"] == [
        _epoch(0, seed=None),
        _epoch(0, seed=8),
    ]


def test_an_evaluation_takes_the_rows_that_are_asked_for(tiny, calls):
    result = train(tiny(eval_batch_size=80, eval_steps=3, train_steps=1))
    assert calls[1:] == [("evaluation", 80, {})]
    assert result["evaluation_examples"] == 240


def test_a_run_ends_where_its_rows_or_its_steps_do(tiny, begun):
    # 300 of 1950 rows are done; then 4 batches of 450 (the last of 300), and 5 of each other epoch.
    for options, end in (
        ({"batch_size": 450}, 3 + 4),
        ({"batch_size": 450, "epochs": 3}, 3 + 4 + 2 * 5),
        ({"batch_size": 450, "epochs": 3, "train_steps": 9}, 9),
        ({"train_steps": 2}, 2),
    ):
        config = tiny(**options)
        loop = training_run.Loop(config.run, training_run.open_source(config.data), *[None] * 10)
        assert loop._total_steps(training_run.Position(3, 0, 300)) == end


def test_weights_and_seeds_are_those_of_the_flags(tiny, monkeypatch):
    given = {}
    make, build = distribution.make_training_steps, training_run.build_model

    def steps(model, optimizer, strategy, loss):
        given["loss"] = loss
        return make(model, optimizer, strategy, loss)

    def model(*arguments):
        built = build(*arguments)
        # Before the first step.
        given["rows"] = built.embeddings.tables["C2"].read_rows(7, 2).numpy()
        given["kernel"] = built.top_mlp.dense_layers[0].kernel.numpy()
        given["config"] = built.config
        return built

    monkeypatch.setattr(distribution.Distribution, "make_steps", staticmethod(steps))
    monkeypatch.setattr(training_run, "build_model", model)
    options = {"positive_weight": 5.0, "negative_weight": 0.25, "prediction_clamp": 0.125}
    train(tiny(**options, dropout=0.5, seed=11, train_steps=1))
    assert given["loss"] == CrossEntropy(negative_weight=0.25, positive_weight=5.0)
    assert given["config"].seed == 11
    assert given["config"].dropout == 0.5
    assert given["config"].prediction_clamp == 0.125
    table = given["config"].features[1].table
    np.testing.assert_array_equal(given["rows"], table.initial_rows(11, 7, 2))
    assert not np.array_equal(given["rows"], table.initial_rows(0, 7, 2))


def test_two_runs_of_other_seeds_begin_with_other_weights(tiny):
    config = tiny()
    schema = training_run.open_source(config.data).schema
    one, again, other = (
        training_run.build_model(config.model, config.optimizer, schema, seed) for seed in (3, 3, 4)
    )
    features = {"dense": tf.ones((1, 4)), **{f"C{k}": tf.constant([k]) for k in (1, 2, 3)}}
    assert one(features) == again(features) != other(features)
    for mine, same, others in zip(
        one.trainable_variables, again.trainable_variables, other.trainable_variables, strict=True
    ):
        if mine.shape.rank:
            np.testing.assert_array_equal(mine, same)
            assert not np.array_equal(mine, others), mine.name


def _by_hand(step):
    """0.8 after a warm-up of 3 steps; from step 5 on in 4 steps to a quarter of it, by power 3."""
    if step < 3:
        return 0.8 * (step + 1) / 3
    left = 1 - min(max(step - 5, 0) / 4, 1)
    return 0.2 + 0.6 * left**3


RATES = {"warmup_steps": 3, "decay_start_step": 5, "decay_steps": 4, "decay_power": 3.0}
RATES |= {"final_learning_rate_fraction": 0.25}


def test_tables_and_layers_learn_at_the_rate_of_the_step(tiny):
    rates = {"embedding_learning_rate": 0.8, "dense_learning_rate": 0.4}
    config = tiny(**RATES, **rates)
    schema = training_run.open_source(config.data).schema
    model = training_run.build_model(config.model, config.optimizer, schema, seed=0)
    optimizer = training_run.build_dense_optimizer(config.optimizer, model)
    table = model.embeddings.tables["C1"]
    weights = [v for v in model.trainable_variables if v.shape.rank]
    trap = [v for v in model.trainable_variables if not v.shape.rank]
    ids = {f"C{k}": tf.constant([4]) for k in (1, 2, 3)}
    moved = []
    for _ in range(11):
        before = [table.read_rows(4, 1).numpy(), *(w.numpy() for w in weights)]
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.embeddings(ids)["C1"])  # of which each number has gradient 1
        tape.gradient(loss, trap)
        optimizer.apply_gradients([(tf.ones(w.shape), w) for w in weights])
        after = [table.read_rows(4, 1).numpy(), *(w.numpy() for w in weights)]
        moved.append([np.mean(old - new) for old, new in zip(before, after, strict=True)])
    wanted = [[_by_hand(step), *[_by_hand(step) / 2] * len(weights)] for step in range(11)]
    np.testing.assert_allclose(moved, wanted, rtol=1e-4)


@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_other_optimizers_of_layers_follow_the_rate_too(tiny, name):
    config = tiny(**RATES, dense_optimizer=name, dense_learning_rate=0.8)
    schema = training_run.open_source(config.data).schema
    model = training_run.build_model(config.model, config.optimizer, schema, seed=0)
    optimizer = training_run.build_dense_optimizer(config.optimizer, model)
    weight = model.top_mlp.dense_layers[0].kernel
    for step in range(11):
        before = weight.numpy()
        optimizer.apply_gradients([(tf.fill(weight.shape, 2.0), weight)])
        # Of equal gradients Adagrad's step is 1 / sqrt(steps) of the rate, and Adam's all of it.
        wanted = _by_hand(step) * (1.0 if name == "adam" else (step + 1) ** -0.5)
        np.testing.assert_allclose(before - weight, wanted, rtol=1e-3)


def test_every_option_of_the_model_reaches_it(tiny):
    config = tiny(interaction_itself=True, dropout=0.25, ensemble_size=1)
    schema = training_run.open_source(config.data).schema
    optimizer = dataclasses.replace(
        config.optimizer, embedding_optimizer="adagrad", embedding_initial_accumulator=0.375
    )
    built = training_run.build_model(
        dataclasses.replace(config.model, embedding_initializer_scale=0.5), optimizer, schema, 0
    )
    for name, rows in (("C1", 50), ("C2", 60), ("C3", 70)):
        table = built.embeddings.tables[name]
        np.testing.assert_array_equal(
            table.read_rows(slot="accumulator"), np.full((rows, 4), 0.375)
        )
        assert 0.45 < np.abs(table.read_rows()).max() <= 0.5
    assert built.config.dropout == 0.25 and built.config.self_interaction
    # The paper's scale.
    plain = training_run.build_model(config.model, optimizer, schema, 0)
    largest = np.abs(plain.embeddings.tables["C3"].read_rows()).max()
    assert 0.95 * 70**-0.5 < largest <= 70**-0.5
