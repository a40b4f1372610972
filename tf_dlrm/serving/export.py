"""Exports a model as a SavedModel that TensorFlow alone can load."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import tensorflow as tf

from tf_dlrm import __version__
from tf_dlrm.embeddings.row_format import RowFormat
from tf_dlrm.embeddings.stack import chunks
from tf_dlrm.embeddings.stores.frozen import EmptyShard, FrozenTables
from tf_dlrm.errors import UserError, as_user_error, first_line
from tf_dlrm.models import Ensemble, RankingModel
from tf_dlrm.models.ranking_model import copy_dense_weights
from tf_dlrm.serving.foreign_files import files_of, read_description
from tf_dlrm.serving.increment import GRAPH, INCREMENT, fold_into, write_increment, written_whole
from tf_dlrm.serving.raw_table import RawTable
from tf_dlrm.serving.signatures import Signatures, example_of_zeros, placements
from tf_dlrm.serving.variable_files import Rows, key_of, replace_variables
from tf_dlrm.serving.warmup import write_warmup
from tfrecords.schema import Schema

# TensorFlow Serving leaves this folder of a SavedModel alone; its warm-up requests lie here too.
EXTRA_ASSETS = "assets.extra"
# The file by which a SavedModel is known.
SAVED_MODEL = "saved_model.pb"

# (collection of tables, table, first row, count) -> float32 [count, dim].
TableRows = Callable[[int, str, int, int], np.ndarray]


def export_model(
    model: RankingModel | Ensemble,
    schema: Schema,
    export_dir: str,
    run: dict[str, Any],
    *,
    table_dtype: str = "float32",
    candidate_features: Collection[str] = (),
    raw: RawTable | None = None,
    rows: TableRows | None = None,
    check: Callable[[str], None] | None = None,
    incremental_from: str = "",
) -> None:
    """Writes a SavedModel.

    Its signatures, each from named tensors to `probability` float32 [batch]:

    - `serving_default`: `dense` float32 [batch, dense columns] and each categorical feature int64
      [batch] or [batch, hotness]; of any number of ids a row as two tensors, all ids one after the
      other, and `NAME_row_lengths` int64 [batch].
    - `serve_packed`, unless a feature has any number of ids: `dense` as above, and `ids` int64
      [batch, all ids of a row], feature after feature.
    - `serve_examples`: `examples` string [batch], serialized tf.train.Example with the same names.
    - `rank`, with `candidate_features`: the user's features once, without the batch dimension, and
      the candidates' as above (`candidate_dense` for those of the dense columns).
    - `serve_raw`, with `raw`: the fields of the log as text.

    Any batch size. An id outside a vocabulary goes to the table's out-of-vocabulary row; where it
    has none, the request is an error.

    The SavedModel holds plain TensorFlow ops and variables: no Keras, no custom code. It appears
    whole or not at all; one that is there already is replaced once the new one is whole. Tables are
    written piece by piece and are never in memory as a whole.

    Args:
        model: The trained model; or with `rows` one that was built with `FrozenTables`.
        schema: The columns it was trained on.
        export_dir: The folder to write.
        run: The run's description, kept in `assets.extra/run.json` with what is exported.
        table_dtype: In which type the tables' rows are kept: one of `TABLE_DTYPES`.
        candidate_features: The columns that differ from candidate to candidate.
        raw: The fields of the log and the vocabulary.
        rows: Where the rows of tables come from, if not from the model.
        check: Called with the folder of the whole SavedModel before it takes its place; what it
            raises leaves everything as it was.
        incremental_from: An earlier export. What is written is then no SavedModel but what of it
            changed since, for `increment.fold`.

    Raises:
        UserError: if the folder can't be written, or holds something that is no SavedModel; or if
            names contradict each other or numbers do not fit `table_dtype`.
    """
    if rows is None:
        rows = _rows_of(model)
        model = _without_tables(model, table_dtype)
    run = run | {
        "export": {
            "table_dtype": placements(model)[0].format.name,
            "compute_dtype": model.compute_dtype,
            "candidate_features": list(candidate_features),
            "serve_raw": raw is not None,
            "tensorflow": tf.__version__,
            "tf_dlrm": __version__,
        }
    }
    write = functools.partial(_write_graph, model, schema, run, candidate_features, raw, rows)
    what = "The model can't be exported to"
    if incremental_from:
        _check_same_offer(incremental_from, run["export"])
        with written_whole(export_dir, INCREMENT, "increment", what) as folder:
            content = write(os.path.join(folder.work, GRAPH))
            write_increment(folder.work, incremental_from, content, run["step"])
            if check is not None:
                with tempfile.TemporaryDirectory(dir=folder.work) as whole:
                    fold_into(whole, incremental_from, folder.work)
                    check(whole)
    else:
        with written_whole(export_dir, SAVED_MODEL, "SavedModel", what) as folder:
            replace_variables(folder.work, write(folder.work))
            if check is not None:
                check(folder.work)


def _check_same_offer(base: str, export: dict[str, Any]) -> None:
    """Raises UserError if an increment would take something away that its base offers."""
    try:
        files_of(base)
        before = read_description(os.path.join(base, EXTRA_ASSETS, "run.json")).get("export")
        if not isinstance(before, dict):
            raise ValueError("its run.json does not say how it was exported")
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"--incremental_from={base} is no SavedModel that tf_dlrm exported: "
            f"{first_line(error)}."
        ) from error
    for name in ("candidate_features", "serve_raw", "compute_dtype"):
        if before.get(name) != export[name]:
            raise UserError(
                f"--incremental_from={base} was exported with --{name}={before.get(name)}, but "
                f"here it is {export[name]}; an increment must offer what its base does."
            )


def _write_graph(
    model: RankingModel | Ensemble,
    schema: Schema,
    run: dict[str, Any],
    candidate_features: Collection[str],
    raw: RawTable | None,
    rows: TableRows,
    folder: str,
) -> dict[str, Rows]:
    """Writes a SavedModel whose tables are empty, and returns their content by key."""
    for weight in model.weights:
        if not np.isfinite(weight.numpy()).all():
            raise UserError(
                f"{weight.name} of the model can't be exported: it holds numbers that are not "
                "finite, which would become probabilities; export an earlier checkpoint."
            )
    module = Signatures(model, schema, candidate_features, raw)
    tf.saved_model.save(
        module,
        folder,
        signatures={name: f.get_concrete_function() for name, f in module.functions.items()},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
    content = {}
    shards = [
        (k, shard, placement.format)
        for k, placement in enumerate(placements(model))
        for shard in placement.shards
    ]
    for index, (k, shard, format) in enumerate(shards):
        read = functools.partial(_shard_rows, functools.partial(rows, k), shard, format)
        shape = (shard.rows, format.width(shard.dim))
        content[key_of("tables", index)] = Rows(shape, format.dtype, read)
    if raw is not None:
        for index, values in enumerate(raw.rows()):
            content[key_of("raw/vocabulary", index)] = values
    extra = os.path.join(folder, EXTRA_ASSETS)
    os.makedirs(extra)
    with open(os.path.join(extra, "run.json"), "w", encoding="utf-8") as out:
        json.dump(run, out, indent=1)
    texts = {"examples": example_of_zeros(schema), **(raw.example() if raw else {})}
    write_warmup(extra, {n: f.input_signature[0] for n, f in module.functions.items()}, texts)
    return content


def _shard_rows(
    rows: Callable[[str, int, int], np.ndarray],
    shard: EmptyShard,
    format: RowFormat,
    start: int,
    count: int,
) -> np.ndarray:
    """Returns rows of a shard as its variable holds them."""
    encoded = []
    for block in shard.blocks:
        table = block.table
        first = max(start - block.offset, 0)
        stop = min(start + count - block.offset, table.vocabulary_size)
        # Ranges of rows as checkpoints have them, so that none of these is read in parts.
        for begin, size in chunks((table.vocabulary_size, table.dim)):
            begin, end = max(begin, first), min(begin + size, stop)
            if begin >= end:
                continue
            values = rows(table.name, begin, end - begin)
            if not np.isfinite(values).all():
                raise UserError(
                    f"Table {table.name} can't be exported: it holds numbers that are not finite, "
                    "which would become probabilities; export an earlier checkpoint."
                )
            with as_user_error(f"Table {table.name} can't be exported as {format.name}: "):
                encoded.append(format.encode(values))
    return np.concatenate(encoded)


def _rows_of(model: RankingModel | Ensemble) -> TableRows:
    def rows(collection: int, table: str, start: int, count: int) -> np.ndarray:
        return model.collections[collection].tables[table].read_rows(start, count).numpy()

    return rows


def _without_tables(model: RankingModel | Ensemble, table_dtype: str) -> RankingModel | Ensemble:
    """Returns the model with tables that are looked up only and are empty."""
    with as_user_error():
        config = model.get_config() | {"plan": FrozenTables(table_dtype)}
        copy: RankingModel | Ensemble = type(model).from_config(config)
    copy_dense_weights(model, copy)
    return copy
