"""Every --model trains, evaluates and exports like every other."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm import models
from tf_dlrm.errors import UserError
from tf_dlrm.training.build import build_model
from tf_dlrm.training.evaluation.assessment import assess
from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions, TrainingConfig
from tf_dlrm.training.options.evaluation import EvaluationOptions
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.run import count_parameters, open_source, train
from tfrecords.schema import CategoricalColumn, Schema

BOTTOM = ModelOptions().bottom_mlp
PAIR = {"random_tables": ("50", "60"), "random_dense_features": 0}
# For each model its class, its options, and its parameters: 3 tables of 180 rows in all and 4 dense
# features, or 2 tables of 110 rows.
MODELS = {
    "dlrm": (models.DLRM, {"bottom_mlp": (8, 4)}, 180 * 4 + 40 + 36 + 11 * 8 + 9),
    "dlrm_dcnv2": (
        models.DLRMDCNv2,
        {"bottom_mlp": (8, 4), "cross_rank": 2},
        180 * 4 + 40 + 36 + 3 * (2 * 2 * 16 + 16) + 17 * 8 + 9,
    ),
    "dcn": (models.DCN, {}, 180 * 4 + 6 * 2 * 16 + 16 + 17 * 8 + 9),
    "wide_and_deep": (models.WideAndDeep, {}, 180 * 5 + 17 * 8 + 9),
    "deepfm": (models.DeepFM, {}, 184 * 5 + 29 * 8 + 9),
    "xdeepfm": (
        models.XDeepFM,
        {"interaction_units": (3, 2)},
        184 * 5 + 29 * 8 + 9 + 3 * 49 + 2 * 21 + 5,
    ),
    "factorization_machine": (models.FM, {"top_mlp": (512, 256, 1)}, 184 * 5 + 1),
    "neural_collaborative_filtering": (models.NeuMF, {**PAIR, "gmf_dim": 1}, 110 * 4 + 1 + 56 + 9),
    "matrix_factorization": (
        models.MatrixFactorization,
        {**PAIR, "top_mlp": (512, 256, 1)},
        110 * 5 + 1,
    ),
}


# Of one and of two inputs: an evaluation of what a run has left does not depend on the model.
WHOLE = ("dlrm", "neural_collaborative_filtering")


@pytest.mark.parametrize("name", MODELS)
def test_training_evaluation_and_export(tiny, tmp_path, name):
    make, options, parameters = MODELS[name]
    common = {"bottom_mlp": BOTTOM, **options, "model": name}
    common |= {"embedding_optimizer": "adagrad", "dense_optimizer": "adam"}
    common |= {"embedding_initializer_scale": 0.1, "dense_learning_rate": 0.01}
    result = train(tiny(**common, export_dir=str(tmp_path / "export")))
    assert result["parameters"] == parameters
    assert result["step"] == 20
    model, _ = CheckpointedRun(str(tmp_path / "run")).restore()
    assert type(model) is make
    features, _ = next(iter(open_source(tiny(**common).data).batches("evaluation", 50)))
    ids = {k: v if k == "dense" else tf.cast(v, tf.int64) for k, v in features.items()}
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"](**ids)
    expected = tf.sigmoid(model(features))[:, 0]
    np.testing.assert_allclose(served["probability"], expected, atol=1e-6)
    assert np.std(expected) > 0.01
    if name not in WHOLE:
        return
    for finished in (
        {"model_dir": str(tmp_path / "run")},
        {"saved_model": str(tmp_path / "export")},
    ):
        found = assess(EvaluationOptions(**finished, eval_batch_size=256))
        assert found["log_loss"] == pytest.approx(result["log_loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepfm", pytest.param("dcn", marks=pytest.mark.exhaustive)])
def test_two_replicas_learn_as_one_device(tiny, tmp_path, name):
    common = {"bottom_mlp": BOTTOM, "model": name, "embedding_optimizer": "adagrad"}
    common["train_steps"] = 6
    mirrored = {"distribution": "mirrored", "virtual_devices": 2}
    one = train(tiny(**common, model_dir=str(tmp_path / "one")))
    two = train(tiny(**common, **mirrored, model_dir=str(tmp_path / "two")))
    assert two["log_loss"] == pytest.approx(one["log_loss"], rel=1e-5)


def test_an_ensemble_of_another_model(tiny):
    common = {"bottom_mlp": BOTTOM, "model": "dcn", "train_steps": 2}
    result = train(tiny(**common, ensemble_size=2))
    assert result["parameters"] == 2 * MODELS["dcn"][2]
    model, _ = CheckpointedRun(tiny(**common).run.model_dir).restore()
    assert [type(member) for member in model.members] == [models.DCN, models.DCN]


def test_data_that_a_model_cannot_read():
    schema = Schema(("x",), (CategoricalColumn("a", 5), CategoricalColumn("b", 5)))
    options = ModelOptions(model="matrix_factorization")
    with pytest.raises(UserError, match=r"there are 2 \(a, b\) and 1 dense ones\.$"):
        build_model(options, OptimizerOptions(), schema, seed=0)


def test_sizes_that_depend_on_the_model():
    schema = Schema((), (CategoricalColumn("a", 5), CategoricalColumn("b", 5)))

    def config(**options):
        model = ModelOptions(embedding_dim=4, **options)
        model.validate()
        return build_model(model, OptimizerOptions(), schema, seed=7).config

    assert config(model="dcn").cross_layers == 6
    assert config(model="dcn", cross_layers=2).cross_layers == 2
    dcnv2 = config(model="dlrm_dcnv2", bottom_mlp=())
    assert (dcnv2.cross_layers, dcnv2.cross_rank, dcnv2.seed) == (3, 512, 7)
    assert config(model="dlrm", bottom_mlp=(), interaction_itself=True).self_interaction
    gmf = config(model="neural_collaborative_filtering", gmf_dim=4, top_mlp=())
    assert gmf.dims == [4, 4] and not gmf.top_mlp
    assert config(model="factorization_machine").dims == [5, 5]


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_gives_nearly_the_same_logits_as_float32(tiny, name):
    _, options, _ = MODELS[name]
    config = tiny(**{"bottom_mlp": BOTTOM, **options}, model=name, embedding_initializer_scale=0.5)
    source = open_source(config.data)
    features, _ = next(iter(source.batches("evaluation", 50)))
    logits = []
    for dtype in ("float32", "bfloat16"):
        model_options = dataclasses.replace(config.model, compute_dtype=dtype)
        model = build_model(model_options, config.optimizer, source.schema, seed=0)
        logits.append(model(features))
        assert logits[-1].dtype == tf.float32
    # bfloat16 has 3 digits less, of large logits too.
    np.testing.assert_allclose(logits[1], logits[0], rtol=0.03, atol=0.1)
    assert np.abs(logits[0] - logits[1]).max() > 0


@pytest.mark.parametrize(
    ("options", "inputs"),
    # 4 vectors of 4 side by side; or 10 products after the bottom MLP's 4 in place of 6.
    [({"interaction": "concat"}, 16), ({"interaction_itself": True}, 14), ({}, 10)],
    ids=["concat", "itself", "dot"],
)
def test_the_interaction_is_that_of_the_flags(tiny, options, inputs):
    config = tiny(**options)
    # As a run's description has it, from which a checkpoint's model is built.
    config = TrainingConfig.from_json(json.loads(json.dumps(config.to_json())))
    schema = open_source(config.data).schema
    model = build_model(config.model, config.optimizer, schema, seed=0)
    assert count_parameters(model) == 180 * 4 + 40 + 36 + inputs * 8 + 8 + 9
    assert model.config.interaction == options.get("interaction", "dot")
    assert model.config.self_interaction == options.get("interaction_itself", False)


def test_the_projected_interaction_is_trained_by_flags(tiny):
    units = {"first_projection": (6, 8), "second_projection": (12,)}
    result = train(tiny(interaction="projection", **units, train_steps=2))
    # 4 vectors of 4 side by side, 2 x 3 products after the bottom MLP's 4.
    branches = 16 * 6 + 6 + 6 * 8 + 8 + 16 * 12 + 12
    assert result["parameters"] == 180 * 4 + 40 + 36 + branches + 10 * 8 + 8 + 9
    assert result["step"] == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"interaction": "projection"}, "--first_projection= must have layers if and only if"),
        ({"first_projection": (8,)}, "--first_projection=8 must have layers if and only if"),
        (
            {"interaction": "projection", "first_projection": (6,), "second_projection": (8,)},
            "--first_projection=6 must end in a multiple of --embedding_dim=4.",
        ),
        (
            {"interaction": "concat", "interaction_itself": True},
            "--interaction_itself contradicts --interaction=concat.",
        ),
    ],
)
def test_interactions_that_do_not_fit_are_said_in_a_sentence(tiny, options, sentence):
    with pytest.raises(UserError) as error:
        tiny(**options)
    assert str(error.value).startswith(sentence)
