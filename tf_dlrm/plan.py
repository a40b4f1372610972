"""Plans which device holds which part of which table, and predicts the step.

python -m tf_dlrm.plan --data_dir=DIR --devices=8 --output=plan.json     for a data set
python -m tf_dlrm.plan --model=mlperf_multi_hot --devices=8,64,512,4096  how a known model scales
python -m tf_dlrm.plan --calibrate=FILE                                  measures this machine

The report goes to standard error, the result to standard output as one line of JSON. The plan that
--output writes is a text that can be edited, and given to training.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tf_dlrm import entry_point
from tf_dlrm.errors import UserError, as_user_error
from tf_dlrm.options import Options, commas, define_flags, option, options_from_flags
from tf_dlrm.training.options.config import EMBEDDING_OPTIMIZERS
from tfrecords import files

if TYPE_CHECKING:
    from tf_dlrm import planner
    from tf_dlrm.embeddings import FeatureConfig, Optimizer

# The load of every device is weighed for every part of a table.
_MOST_DEVICES = 16_384
_MOST_COLUMNS = 1_000_000
_MODELS = ("", "mlperf", "mlperf_multi_hot", "criteo_kaggle", "paper_sample", "trillions")


@dataclasses.dataclass(frozen=True)
class PlanOptions(Options):
    """What to plan for; every field is a flag."""

    data_dir: str = option("", "Data set folder: tables and ids per example are its columns'.")
    model: str = option("", "A known model instead of a data set.", _MODELS)
    tables: tuple[int, ...] = option(
        (), "Vocabulary sizes of the tables instead of a data set.", least=1
    )
    hotness: tuple[str, ...] = option(
        (),
        "Ids per example: one number for all tables, or one for each. Default: the model's or the "
        "data set's own (ragged columns: the mean of the first rows); 1 with --tables.",
    )
    embedding_dim: int = option(
        0, "Width of every row; 0: the --model's own, or 16.", least=0, most=_MOST_COLUMNS
    )
    embedding_optimizer: str = option("sgd", "Optimizer of the tables.", EMBEDDING_OPTIMIZERS)
    dense_features: int = option(
        13, "With --tables: dense features of an example.", least=0, most=_MOST_COLUMNS
    )
    bottom_mlp: tuple[int, ...] = option(
        (),
        "Units of the bottom MLP; default: the --model's own, or 512,256,64,--embedding_dim.",
        least=1,
    )
    top_mlp: tuple[int, ...] = option(
        (), "Units of the top MLP; default: the --model's own, or 512,256,1.", least=1
    )
    interaction: str = option("dot", "How the vectors interact.", ("dot", "concat"))
    batch_size: int = option(65536, "Examples of a step on all devices together.", least=1)
    scaling: str = option(
        "strong",
        "With several --devices: whether --batch_size is that of all devices (strong), or of one "
        "(weak).",
        ("strong", "weak"),
    )
    alpha: float = option(
        0.0,
        "Exponent of the power law of ids; 0: all ids of a table are equally likely.",
        least=0,
        most=20,
    )
    popular_first: bool = option(
        False,
        "With --alpha: whether popular ids are the low ones, as in vocabularies numbered by first "
        "appearance; otherwise they lie anywhere, as hashed ids do.",
    )
    communication_dtype: str = option(
        "float32", "Type in which vectors and gradients travel.", ("float32", "bfloat16")
    )
    devices: tuple[int, ...] = option(
        (8,), "Number of devices; several to see how it scales.", least=1, most=_MOST_DEVICES
    )
    hardware: str = option(
        "cpu", "What the devices can do: cpu, a100_node, h100_node, or a TOML file."
    )
    calibrate: str = option(
        "", "File for a description of this machine, measured now; used in place of --hardware."
    )
    output: str = option("", "File for the plan.")
    picture_file: str = option("", "PNG file for the scaling curve, with several --devices.")

    def validate(self) -> None:
        """Raises UserError on impossible values and on those that contradict each other."""
        super().validate()
        sources = [name for name in ("data_dir", "model", "tables") if getattr(self, name)]
        if len(sources) > 1 or not (sources or self.calibrate):
            raise UserError(
                "Give one of --data_dir, --model and --tables, so that there are tables to plan "
                f"for; given are {', '.join(f'--{name}' for name in sources) or 'none'}."
            )
        if not self.devices or len(set(self.devices)) < len(self.devices):
            raise UserError(f"--devices={commas(self.devices)} must name different numbers.")
        if self.output and len(self.devices) > 1:
            raise UserError(
                f"--output={self.output} needs a single number of devices, but --devices is "
                f"{commas(self.devices)}."
            )
        if self.picture_file and len(self.devices) < 2:
            raise UserError(
                f"--picture_file={self.picture_file} needs several numbers in --devices."
            )
        if self.popular_first and not self.alpha:
            raise UserError("--popular_first needs --alpha: equally likely ids have no order.")
        for name in ("output", "picture_file", "calibrate"):
            folder = os.path.dirname(getattr(self, name))
            if folder and not os.path.isdir(folder):
                raise UserError(f"--{name}={getattr(self, name)}: there is no folder {folder}.")


define_flags(PlanOptions)
_PINS = flags.DEFINE_multi_string(
    "pin",
    [],
    "TABLE=SHARDING or TABLE=SHARDING:DEVICE,DEVICE,...: how a table must be placed, for example "
    "C1=row_wise or C1=table_wise:3; may be given several times.",
)


@dataclasses.dataclass(frozen=True)
class _Problem:
    features: Sequence[FeatureConfig]
    dense: planner.Dense
    workload: planner.Workload
    hardware: planner.Hardware
    pins: dict[str, planner.Pin]


def main() -> dict[str, Any]:
    """Checks the flags, then plans; returns what was predicted."""
    options = options_from_flags(PlanOptions)
    options.validate()
    from tf_dlrm import planner  # only now: TensorFlow takes seconds to start

    with as_user_error():
        pins = dict(planner.parse_pin(text) for text in _PINS.value)
        if len(pins) < len(_PINS.value):
            raise UserError("--pin names a table twice.")
        hardware = _hardware(options)
        if not (options.data_dir or options.model or options.tables):
            return {"hardware": options.calibrate}
        problem = _problem(options, hardware, pins)
        return (_simulate if len(options.devices) > 1 else _plan)(options, problem)


def _hardware(options: PlanOptions) -> planner.Hardware:
    from tf_dlrm import planner

    if not options.calibrate:
        return planner.load_hardware(options.hardware)
    from tf_dlrm.planner.calibrate import calibrate, describe

    hardware = calibrate()
    text = hardware.to_toml(describe(hardware))
    files.write_bytes(options.calibrate, text.encode())
    sys.stderr.write(text + "\n")
    return hardware


def _plan(options: PlanOptions, problem: _Problem) -> dict[str, Any]:
    from tf_dlrm import planner

    workload = problem.workload
    model = planner.CostModel(
        *(problem.features, workload, problem.hardware, options.devices[0], problem.dense)
    )
    plan = planner.plan_for(model, problem.pins)
    sys.stderr.write(planner.report(model, plan))
    if options.output:
        files.write_bytes(options.output, plan.to_json().encode())
    estimate = model.estimate(plan)
    return {
        "devices": plan.devices,
        "step_ms": estimate.step * 1e3,
        "examples_per_second": workload.batch_size / estimate.step,
        "exchange_mb": estimate.exchange_bytes / 1e6,
        "imbalance": estimate.imbalance,
        "fullest_device_gb": (float(estimate.table_bytes.max()) + estimate.other_bytes) / 1e9,
        "bottleneck": planner.bottleneck(estimate),
        "plan": options.output,
    }


def _simulate(options: PlanOptions, problem: _Problem) -> dict[str, Any]:
    from tf_dlrm.planner.simulate import scaling_table, simulate

    scales = simulate(
        *(problem.features, problem.workload, problem.hardware, options.devices),
        *(problem.dense, problem.pins),
        batch_per_device=options.scaling == "weak",
    )
    sys.stderr.write(scaling_table(scales))
    if options.picture_file:
        # Here, since matplotlib takes longer to import than all else to run.
        from tf_dlrm.planner.picture import draw_scaling

        what = options.model or options.data_dir or f"{len(options.tables)} tables"
        title = f"{what} on {problem.hardware.name}: predicted, {options.scaling} scaling"
        draw_scaling(scales, title, options.picture_file)
    return {
        "scales": [
            {
                "devices": scale.devices,
                "batch_size": scale.batch_size,
                "fits": scale.estimate is not None,
                "missing_gb": scale.missing_gb,
                "step_ms": scale.estimate.step * 1e3 if scale.estimate else None,
                "examples_per_second": scale.examples_per_second,
                "exchange_mb": scale.estimate.exchange_bytes / 1e6 if scale.estimate else None,
                "imbalance": scale.estimate.imbalance if scale.estimate else None,
            }
            for scale in scales
        ],
        "picture": options.picture_file,
    }


def _problem(
    options: PlanOptions, hardware: planner.Hardware, pins: dict[str, planner.Pin]
) -> _Problem:
    from tf_dlrm import planner
    from tf_dlrm.embeddings.optimizers import optimizer_of_flag
    from tf_dlrm.planner.models import KNOWN_MODELS, features_of

    optimizer = optimizer_of_flag(options.embedding_optimizer)(learning_rate=0.01)
    if options.model:
        known = KNOWN_MODELS[options.model]
        dim = options.embedding_dim or known.dim
        features = features_of(known.rows, dim, optimizer)
        hotness = known.hotness_by_feature()
        dense_features = known.dense.dense_features
        bottom = options.bottom_mlp or (*known.dense.bottom_mlp[:-1], dim)
        top = options.top_mlp or known.dense.top_mlp
    else:
        dim = options.embedding_dim or 16
        if options.tables:
            features, hotness = features_of(options.tables, dim, optimizer), {}
            dense_features = options.dense_features
        else:
            features, hotness, dense_features = _from_data(options.data_dir, dim, optimizer)
        bottom = options.bottom_mlp or ((512, 256, 64, dim) if dense_features else ())
        top = options.top_mlp or (512, 256, 1)
    if options.interaction == "dot" and bottom and bottom[-1] != dim:
        raise UserError(
            f"--bottom_mlp={commas(bottom)} must end in the --embedding_dim, {dim}, for "
            "--interaction=dot."
        )
    hotness.update(_given_hotness(options.hotness, [feature.name for feature in features]))
    workload = planner.Workload(
        *(options.batch_size, hotness, options.alpha, options.popular_first),
        2 if options.communication_dtype == "bfloat16" else 4,
    )
    dense = planner.Dense(dense_features, bottom, top, options.interaction)
    return _Problem(features, dense, workload, hardware, pins)


def _given_hotness(entries: Sequence[str], features: Sequence[str]) -> dict[str, float]:
    try:
        values = [float(entry) for entry in entries]
    except ValueError:
        raise UserError(f"--hotness={commas(tuple(entries))} must be numbers.") from None
    if len(values) == 1:
        values *= len(features)
    if values and len(values) != len(features):
        raise UserError(
            f"--hotness has {len(values)} numbers, but there are {len(features)} tables; give one "
            "number for all of them or one for each."
        )
    return dict(zip(features, values, strict=False))


def _from_data(
    data_dir: str, dim: int, optimizer: Optimizer
) -> tuple[tuple[FeatureConfig, ...], dict[str, float], int]:
    """Returns the features of a data set, their ids per example, and its dense features."""
    from tf_dlrm.models.ranking_model import features_of
    from tf_dlrm.training.sources import mean_hotness
    from tfrecords.reader import RecordSource

    source = RecordSource(data_dir)
    columns = source.schema.categorical
    if not columns:
        raise UserError(f"--data_dir={data_dir} has no categorical column, so there is no table.")
    features = features_of(columns, dim, optimizer)
    return features, mean_hotness(source), len(source.schema.dense)


if __name__ == "__main__":
    entry_point.run(main)
