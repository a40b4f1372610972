"""On which devices a run trains; see `config`."""

from __future__ import annotations

import dataclasses

from tf_dlrm.errors import UserError
from tf_dlrm.options import Options, option
from tfrecords import files

# A step is traced for each of them, and they share the processor.
_MOST_VIRTUAL_DEVICES = 32
_SYNCHRONOUS = ("mirrored", "multi_worker_mirrored")
_USED_BY = {
    "virtual_devices": ("mirrored",),
    "plan": (*_SYNCHRONOUS, "parameter_server"),
    "communication_dtype": _SYNCHRONOUS,
    "tpu": ("tpu",),
    "tpu_small_table_rows": ("tpu",),
    "tpu_pipelining": ("tpu",),
}


@dataclasses.dataclass(frozen=True)
class DistributionOptions(Options):
    """How the model is spread over devices; none of it changes what is learnt."""

    distribution: str = option(
        "one_device",
        "one_device; mirrored: all GPUs of this machine, or its --virtual_devices, with the "
        "tables cut over them and the MLPs copied; multi_worker_mirrored: the same over the "
        "processes that the environment variable TF_CONFIG names; parameter_server: the tables and "
        "MLPs on the servers that TF_CONFIG names, trained by workers that do not wait for each "
        "other; tpu: large tables in the embedding hardware of a TPU, all else on its cores.",
        ("one_device", "mirrored", "multi_worker_mirrored", "parameter_server", "tpu"),
    )
    virtual_devices: int = option(
        0,
        "With --distribution=mirrored, so many logical CPUs in place of GPUs; 0 for GPUs.",
        least=0,
        most=_MOST_VIRTUAL_DEVICES,
    )
    plan: str = option(
        "",
        "File that says where each table is (see tf_dlrm.plan); empty for a plan made here. "
        "--model_dir/plan.json has the one that is used.",
    )
    communication_dtype: str = option(
        "float32",
        "In which type vectors and gradients of tables travel between devices.",
        ("float32", "bfloat16"),
    )

    tpu: str = option(
        "",
        "With --distribution=tpu: name or address of the TPU, local for one of this machine, or "
        "host to try without one, this machine doing what a TPU does.",
    )
    tpu_small_table_rows: int = option(
        10_000, "With --distribution=tpu: tables of fewer rows stay on the cores.", least=0
    )
    tpu_pipelining: bool = option(
        False,
        "With --distribution=tpu: look up the next batch beside this one's step, missing its "
        "update. Has no effect on --tpu=host.",
    )

    def validate(self) -> None:
        """Raises UserError where an option has no effect or a file is not there."""
        super().validate()
        for name, text in self.given().items():
            if self.distribution not in _USED_BY.get(name, self.distribution):
                raise UserError(
                    f"--{name}={text} has no effect with --distribution={self.distribution}."
                )
        if self.distribution == "tpu" and not self.tpu:
            raise UserError(
                "--distribution=tpu needs --tpu: the name or address of a TPU, local for one of "
                "this machine, or host to try without one."
            )
        if self.plan and not files.isfile(self.plan):
            raise UserError(f"--plan={self.plan} is no file.")
