"""Compares models on the same data, as Figure 5 of the DLRM paper does.

python -m tf_dlrm.compare --models=dlrm,dcn --output_dir=DIR --flagfile=flags/X.flags [--flag=value]

All flags of tf_dlrm.train describe what the runs have in common, but for seed, optimizers and
folders; one that only some models read goes to those. Each model is trained with each optimizer and
seed, one after the other, into DIR/MODEL/OPTIMIZER/seed_N. Started again, the command goes on where
it was interrupted. DIR gets comparison.md, comparison.json and curves.svg.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.comparing.options import CompareOptions
from tf_dlrm.errors import UserError
from tf_dlrm.options import define_flags, options_from_flags
from tf_dlrm.training.options.config import TRAINING_OPTIONS, TrainingConfig
from tfrecords import files

define_flags(CompareOptions, *TRAINING_OPTIONS)


def main() -> dict[str, Any]:
    """Checks the flags, trains what is missing, and writes the comparison."""
    options = options_from_flags(CompareOptions)
    options.validate()
    if flags.FLAGS["model"].present:
        raise UserError("--model has no use here: --models names the models to compare.")
    return compare(options, TrainingConfig.from_flags())


def compare(options: CompareOptions, common: TrainingConfig) -> dict[str, Any]:
    """Trains what is missing, writes the comparison, and returns where it is.

    Raises:
        UserError: If options do not fit, or a run fails.
    """
    from tf_dlrm.comparing.runs import plan_runs, train_all

    common = dataclasses.replace(
        common, run=dataclasses.replace(common.run, export_dir="", tensorboard=True)
    )
    runs = plan_runs(options, common)
    # Only now: TensorFlow takes seconds to start.
    from tf_dlrm.comparing.budget import dense_parameters, matched
    from tf_dlrm.training.sources import open_source, rows_or_none

    source = open_source(common.data)
    if not rows_or_none(source, "evaluation"):
        raise UserError("The data has no evaluation rows, so there is nothing to compare.")
    schema = source.schema
    configs = {run.model: run.config for run in runs}
    # Of all models, so that one that cannot read the data is known before any is trained.
    counts = {model: dense_parameters(config, schema)[0] for model, config in configs.items()}
    if options.match_parameters:
        first, *others = options.models
        sizes = {model: matched(configs[model], schema, counts[first]) for model in others}
        for k, run in enumerate(runs):
            config = dataclasses.replace(run.config, model=sizes.get(run.model, run.config.model))
            runs[k] = dataclasses.replace(run, config=config)
    results = train_all(runs, options.keep_models, source.fingerprint)
    from tf_dlrm.comparing.curves import draw_curves
    from tf_dlrm.comparing.table import comparison_table

    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = {
        (model, optimizer): [] for optimizer in options.optimizers for model in options.models
    }
    for run, result in zip(runs, results, strict=True):
        by_kind[run.model, run.optimizer].append(result | {"seed": run.seed})
    folder = pathlib.Path(options.output_dir)
    table = comparison_table(by_kind)
    sys.stderr.write("\n" + table)
    if not common.run.eval_every_steps:
        sys.stderr.write("The curves have one evaluation: --eval_every_steps makes more.\n")
    files.write_bytes(str(folder / "comparison.md"), table.encode())
    entries = [
        {"model": run.model, "optimizer": run.optimizer, "seed": run.seed, **result}
        | {"top_mlp": list(run.config.model.top_mlp)}
        for run, result in zip(runs, results, strict=True)
    ]
    files.write_bytes(str(folder / "comparison.json"), json.dumps(entries, indent=1).encode())
    draw_curves(runs, folder / "curves.svg")
    return {"runs": len(runs), "table": str(folder / "comparison.md")}


if __name__ == "__main__":
    entry_point.run(main)
