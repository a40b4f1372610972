"""One training run from options to result: build, resume, train, evaluate, export."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm.embeddings import native, stored_features, tables_of
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.embeddings.stores.frozen import FrozenTables
from tf_dlrm.errors import UserError, as_user_error
from tf_dlrm.keras_api import keras
from tf_dlrm.kernels.use import kernels_chosen
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.options import in_flag
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.exporting import checkpoint_rows
from tf_dlrm.serving.signatures import check_inputs
from tf_dlrm.training.build import build_dense_optimizer, build_model
from tf_dlrm.training.checkpoints import (
    Checkpoints,
    Position,
    checkpoint_folder,
    newest_checkpoint,
    read_run,
    write_run,
)
from tf_dlrm.training.distribution.choose import distribution_of
from tf_dlrm.training.distribution.distribution import Distribution
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.evaluation.evaluation import Evaluation
from tf_dlrm.training.history import History
from tf_dlrm.training.init_from import check_same_options, write_first_checkpoint
from tf_dlrm.training.loop import Loop
from tf_dlrm.training.loss import CrossEntropy
from tf_dlrm.training.options.config import RunOptions, TrainingConfig
from tf_dlrm.training.restore import CheckpointedRun
from tf_dlrm.training.sources import (
    Source,
    meanings,
    only_label,
    open_source,
    rows_or_none,
    vocabulary_checksums,
)
from tfrecords import files
from tfrecords.lock import Lock, LockHeld
from tfrecords.machine import check_memory

_LOG = logging.getLogger(__name__)

# Given as null where there are no evaluation rows.
METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration", "epoch")


def train(config: TrainingConfig, strategy: tf.distribute.Strategy | None = None) -> dict[str, Any]:
    """Trains, or goes on where the model directory's newest checkpoint is.

    Args:
        config: The options.
        strategy: That of the options, where this process has made it already: TensorFlow allows one
            strategy of several processes in each.

    Returns:
        The last evaluation's metrics, and `step`, `epoch`, `examples` (rows trained on in all),
        `examples_per_second` (training alone, in this call), `reached_target`, `parameters`.

    Raises:
        UserError: on anything that the user can mend.
    """
    options = config.run
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    distribution = distribution_of(config.distribution)
    distribution.serve()
    strategy = strategy or distribution.make_strategy()
    keras.utils.set_random_seed(options.seed)
    source = open_source(config.data)
    _check_splits(options, source)
    for split, option in (("train", "batch_size"), ("evaluation", "eval_batch_size")):
        rows = min(getattr(options, option), rows_or_none(source, split))
        check_memory(f"A batch of --{option}={rows}", rows * source.schema.row_bytes)
    for column, name in check_inputs(source.schema).items():
        _LOG.info("column %r is the input %r of an exported model", column, name)
    _LOG.info("%d rows to train on; first the model is made", rows_or_none(source, "train"))
    processes = Processes(strategy)
    processes.check_equal(_what_must_be_equal(config, source))
    # The first process has the lock for all.
    with (
        _only_process(options.model_dir if processes.is_first else ""),
        kernels_chosen(options.kernels),
    ):
        with as_user_error():
            native.check()
        # Before the first step too another process may end.
        with processes.readable_errors("Start all of them again to go on."):
            return _train(config, source, distribution, strategy, processes)


def _train(
    config: TrainingConfig,
    source: Source,
    distribution: Distribution,
    strategy: tf.distribute.Strategy,
    processes: Processes,
) -> dict[str, Any]:
    options, schema = config.run, source.schema
    run = describe_run(config, source)
    if options.model_dir:
        _check_same_run(options.model_dir, run)
    plan = distribution.plan_tables(config, source, strategy)
    if isinstance(plan, Plan):
        processes.check_equal(
            {f"the plan of table {name}": repr(table) for name, table in plan.tables.items()}
        )
        if options.model_dir and processes.is_first:
            path = files.join(options.model_dir, "plan.json")
            files.write_bytes(path, plan.to_json().encode("utf-8"))
    with strategy.scope():
        model = build_model(
            config.model,
            config.optimizer,
            schema,
            options.seed,
            plan,
            config.distribution.communication_dtype,
        )
        optimizer = build_dense_optimizer(config.optimizer, model)
    checkpoints, position = None, Position()
    if options.init_from and not newest_checkpoint(options.model_dir):
        if processes.is_first:
            write_run(options.model_dir, run)
            write_first_checkpoint(config, source, model)
        processes.least(0)  # the others wait until it is there
    if options.model_dir:
        checkpoints = Checkpoints(
            options.model_dir,
            options.keep_checkpoints,
            processes,
            model=model,
            optimizer=optimizer,
        )
        checkpoints.remove_leftovers()
        if checkpoints.latest:
            position = checkpoints.restore()
            _LOG.info("resuming at step %d from %s", position.step, checkpoints.latest)
        if processes.is_first:
            write_run(options.model_dir, run)
    history = History(
        options.model_dir or None, options.tensorboard, position.step, processes.is_first
    )
    loss = CrossEntropy(config.optimizer.negative_weight, config.optimizer.positive_weight)
    up_to_date = distribution.evaluated_logits(config, schema, model, strategy)
    evaluation = Evaluation(source, "evaluation", options.eval_batch_size, options.eval_steps)
    loop = Loop(
        options=options,
        source=source,
        shuffle=config.data.shuffle,
        data_service=config.data.data_service,
        distribute=lambda batches: distribution.share_out(
            strategy, batches, options.batch_size, model
        ),
        training_steps=distribution.make_steps(model, optimizer, strategy, loss),
        evaluate=lambda: evaluation(up_to_date()),
        find_non_finite=lambda: find_non_finite(model, optimizer),
        checkpoints=checkpoints,
        history=history,
        processes=processes,
        skipped_updates=lambda: sum(c.tables.skipped_updates for c in model.collections),
    )
    try:
        position, rows_per_second = loop.run(position)
    finally:
        history.flush()
    result = dict.fromkeys(METRICS) | (history.last or {})
    if options.export_dir:
        bad = "".join(processes.texts(find_non_finite(model, optimizer) or ""))
        if bad:
            raise UserError(f"{bad} has values that are not finite, so nothing was exported.")
        if processes.is_first:
            described, rows = run | {"step": position.step, "metrics": history.last}, None
            if not distribution.holds_all_tables:
                # Other processes hold rows, and have just written them.
                written = CheckpointedRun(options.model_dir)
                model, _ = written.restore(FrozenTables())
                rows = checkpoint_rows(model, written.checkpoint)
            export_model(model, schema, options.export_dir, described, rows=rows)
            _LOG.info("exported to %s", options.export_dir)
        processes.least(0)  # nobody ends before the export is written
    return result | {
        "step": position.step,
        "examples": position.epoch * source.rows("train") + position.row,
        "examples_per_second": round(rows_per_second, 1),
        "reached_target": bool(options.target_auc)
        and (result.get("auc") or 0.0) >= options.target_auc,
        "parameters": count_parameters(model),
    }


def _what_must_be_equal(config: TrainingConfig, source: Source) -> dict[str, str]:
    """Returns what all processes of a run have to agree on, by what a message calls it."""
    flags = {
        f"--{field.name}": in_flag(getattr(part, field.name))
        for part in config.parts
        for field in dataclasses.fields(part)
    }
    return flags | {"the data's fingerprint": source.fingerprint}


def _check_splits(options: RunOptions, source: Source) -> None:
    """Refuses data that the run can't train on, or can't evaluate on where that is asked for."""
    if not rows_or_none(source, "train"):
        raise UserError("The data has no training rows: its split 'train' is empty or missing.")
    if not source.schema.categorical:
        raise UserError(
            "The data has no categorical column, but the models need one at least, for their "
            "tables."
        )
    _check_labels(options, source)
    if not rows_or_none(source, "evaluation"):
        for name in ("eval_every_steps", "eval_steps", "target_auc"):
            if getattr(options, name):
                raise UserError(
                    f"--{name}={getattr(options, name)} needs evaluation rows, but the data has "
                    "none."
                )
        _LOG.warning("the data has no evaluation rows, so there will be no metrics")


def _check_labels(options: RunOptions, source: Source) -> None:
    """Refuses labels that are all alike, where that is known before training."""
    label = only_label(source, "train")
    if label is not None:
        raise UserError(
            f"All {source.rows('train')} training rows have the label {label:g}, so there is "
            "nothing to learn. Train on rows of both labels, or correct what the label is made of."
        )
    label = only_label(source, "evaluation")
    if label is not None and options.target_auc:
        raise UserError(
            f"--target_auc={options.target_auc} is never reached: all evaluation rows have the "
            f"label {label:g}, so they have no AUC."
        )


@contextlib.contextmanager
def _only_process(model_dir: str) -> Iterator[None]:
    """Keeps a second process from training into the same folder meanwhile.

    Object stores have no locks: there, the user has to see to it.
    """
    if not model_dir or files.is_remote(model_dir):
        yield
        return
    files.makedirs(checkpoint_folder(model_dir))
    try:
        lock = Lock(os.path.join(files.local(model_dir), ".lock"))
    except LockHeld:
        raise UserError(
            f"Another process is training into --model_dir={model_dir} at this moment; wait until "
            "it has ended."
        ) from None
    try:
        files.remove_incomplete(model_dir)
        yield
    finally:
        lock.release()


def describe_run(config: TrainingConfig, source: Source) -> dict[str, Any]:
    """Returns what run.json holds: enough to rebuild the model and to know its data."""
    # Absolute paths, so that evaluations find the data from any folder.
    data = config.data.with_absolute_paths()
    return {
        "format": 1,
        "config": dataclasses.replace(config, data=data).to_json(),
        "schema": source.schema.to_json(),
        "data_fingerprint": source.fingerprint,
        "vocabularies": vocabulary_checksums(source),
        "meanings": {name: dataclasses.asdict(said) for name, said in meanings(source).items()},
    }


def find_non_finite(model: RankingModel | Ensemble, optimizer: Any) -> str | None:
    """Returns the name of the first table or weight with a NaN or infinity, or None."""
    for collection in model.collections:
        table = collection.tables.find_non_finite()
        if table:
            return f"table {table!r}"
    for variable in [*model.trainable_variables, *optimizer.variables]:
        value = variable.numpy()
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            return f"weight {variable.name!r}"
    return None


def count_parameters(model: RankingModel | Ensemble) -> int:
    """Returns the number of trained numbers, tables included."""
    tables = tables_of(stored_features(model.config.features))
    dense = sum(int(np.prod(v.shape)) for v in model.trainable_variables if v.shape.rank)
    rows = sum(table.vocabulary_size * table.dim for table in tables)
    return dense + rows * len(model.collections)


def _check_same_run(model_dir: str, run: dict[str, Any]) -> None:
    """Refuses to go on from checkpoints of another model, other data or another order of rows."""
    before = read_run(model_dir)
    if not newest_checkpoint(model_dir):
        return
    if before is None:
        raise UserError(
            f"--model_dir={model_dir} has checkpoints but no run.json, so it can't be told "
            "whether they are of this model; choose another --model_dir."
        )
    fixed = {
        "model": None,
        "optimizer": ["embedding_optimizer", "dense_optimizer"],
        "run": ["seed"],
        "data": ["shuffle", "shuffle_window_rows"],
    }
    config = TrainingConfig.from_json(run["config"])
    check_same_options(f"--model_dir={model_dir}", before, config, fixed)
    if before["data_fingerprint"] != run["data_fingerprint"]:
        raise UserError(
            f"--model_dir={model_dir} holds a run on other data ({before['data_fingerprint']}, now "
            f"{run['data_fingerprint']}); use the same data or another --model_dir."
        )
    # Equal data have equal columns, so this one was edited, or damaged.
    if before["schema"] != run["schema"]:
        raise UserError(
            f"{files.join(model_dir, 'run.json')} describes other columns than its own data has; "
            "restore it, or use another --model_dir."
        )
