"""Makes the model and its optimizers from the options and the data set's schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_dlrm import embeddings, models
from tf_dlrm.embeddings.optimizers import optimizer_of_flag
from tf_dlrm.embeddings.schedules import LearningRateSchedule
from tf_dlrm.embeddings.stack import chunks
from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.errors import as_user_error
from tf_dlrm.keras_api import computing_in, keras
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.models.ranking_model import copy_dense_weights, features_of
from tf_dlrm.training.fused_optimizers import FusedAdagrad, FusedAdam, FusedSGD
from tf_dlrm.training.memory import check_memory, said_when_it_runs_out
from tf_dlrm.training.options.config import ModelOptions, OptimizerOptions
from tf_dlrm.training.table_storage import storages
from tfrecords.schema import Schema

_MODELS: dict[str, type[models.RankingModel]] = {
    "dlrm": models.DLRM,
    "dlrm_dcnv2": models.DLRMDCNv2,
    "dcn": models.DCN,
    "wide_and_deep": models.WideAndDeep,
    "deepfm": models.DeepFM,
    "xdeepfm": models.XDeepFM,
    "neural_collaborative_filtering": models.NeuMF,
    "factorization_machine": models.FM,
    "matrix_factorization": models.MatrixFactorization,
}


def build_model(
    options: ModelOptions,
    optimizer: OptimizerOptions,
    schema: Schema,
    seed: int,
    plan: Any = None,
    communication_dtype: str = "float32",
) -> RankingModel | Ensemble:
    """Builds the model with its variables, tables included, under the current strategy.

    Raises:
        UserError: if the options do not fit the schema, the plan does not fit the tables, or the
            model does not fit into memory.
    """
    options.check_dense(len(schema.dense))
    model = _MODELS[options.model]
    sizes = options.sizes
    if "interaction_itself" in sizes:
        sizes["self_interaction"] = sizes.pop("interaction_itself")
    if sizes.get("cross_layers") == 0:
        del sizes["cross_layers"]  # the config has the model's own
    features = build_features(options, optimizer, schema)
    if not isinstance(plan, FrozenTables):  # then its tables are empty
        check_memory(options, len(schema.dense), features)
    with (
        as_user_error(),
        computing_in(options.compute_dtype),
        said_when_it_runs_out("Take smaller sizes."),
    ):
        config = model.config_class(
            dense_features=len(schema.dense),
            features=features,
            seed=seed,
            prediction_clamp=options.prediction_clamp,
            **sizes,
        )
        if options.ensemble_size > 1:
            size = options.ensemble_size
            return models.Ensemble(config, size, plan, communication_dtype, model=model)
        return model(config, plan, communication_dtype)


def build_features(
    options: ModelOptions, optimizer: OptimizerOptions, schema: Schema
) -> tuple[embeddings.FeatureConfig, ...]:
    """Returns the categorical features, each with a table of its own.

    Raises:
        UserError: if a table cannot be stored as the options say.
    """
    dim = _MODELS[options.model].first_order_columns + options.embedding_dim
    initializer = embeddings.Uniform(options.embedding_initializer_scale or None)
    choices: dict[str, Any] = {}
    if optimizer.embedding_initial_accumulator:
        choices["initial_accumulator"] = optimizer.embedding_initial_accumulator
    table_optimizer = optimizer_of_flag(optimizer.embedding_optimizer)(
        learning_rate=learning_rate(optimizer.embedding_learning_rate, optimizer), **choices
    )
    rows = [column.vocabulary_size for column in schema.categorical]
    stored = storages(options, rows, dim)
    with as_user_error():
        return features_of(
            *(schema.categorical, dim, table_optimizer), initializer=initializer, storage=stored
        )


def copy_weights(source: RankingModel | Ensemble, target: RankingModel | Ensemble) -> None:
    """Copies all weights and tables, but no optimizer's state, to an equal model placed anyhow."""
    copy_dense_weights(source, target)
    for giver, taker in zip(source.collections, target.collections, strict=True):
        for name in giver.tables:
            for start, count in chunks(giver.tables[name].shape()):
                taker.tables[name].assign_rows(giver.tables[name].read_rows(start, count), start)


def build_dense_optimizer(options: OptimizerOptions, model: RankingModel | Ensemble) -> Any:
    """Returns the Keras optimizer of the MLPs, its slots made, so that it can be restored."""
    rate = _KerasSchedule(learning_rate(options.dense_learning_rate, options))
    # As the paper's code has it, Adagrad has nothing accumulated at first.
    optimizers: dict[str, Callable[[], Any]] = {
        "sgd": lambda: FusedSGD(rate, jit_compile=False),
        "adagrad": lambda: FusedAdagrad(
            rate, initial_accumulator_value=0.0, epsilon=1e-10, jit_compile=False
        ),
        "adam": lambda: FusedAdam(rate, jit_compile=False),
    }
    optimizer = optimizers[options.dense_optimizer]()
    optimizer.build(model.trainable_variables)
    return optimizer


def learning_rate(base: float, options: OptimizerOptions) -> float | LearningRateSchedule:
    """Returns the constant rate `base`, or its schedule by step."""
    if not options.warmup_steps and not options.decay_steps:
        return base
    return LearningRateSchedule(
        base,
        warmup_steps=options.warmup_steps,
        decay_start_step=options.decay_start_step,
        decay_steps=options.decay_steps,
        power=options.decay_power,
        final_rate=base * options.final_learning_rate_fraction,
    )


class _KerasSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The same schedule for a Keras optimizer, so that both kinds of weights follow one curve."""

    def __init__(self, rate: float | LearningRateSchedule) -> None:
        self._rate = rate

    def __call__(self, step: Any) -> tf.Tensor:
        if isinstance(self._rate, float):
            return tf.constant(self._rate, tf.float32)
        return self._rate(step)

    def get_config(self) -> dict[str, Any]:
        rate = self._rate
        return {"rate": rate if isinstance(rate, float) else rate.to_dict()}
