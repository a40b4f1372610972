"""On which devices a run trains; see `config`."""

from __future__ import annotations

import dataclasses

from tf_dlrm.errors import UserError
from tf_dlrm.training.option import check_at_least, check_choices, option
from tfrecords import files


@dataclasses.dataclass(frozen=True)
class DistributionOptions:
    """How the model is spread over devices; none of it changes what is learnt."""

    distribution: str = option(
        "one_device",
        "one_device; mirrored: all GPUs of this machine, or its --virtual_devices, with the "
        "tables cut over them and the MLPs copied; multi_worker_mirrored: the same over the "
        "processes that the environment variable TF_CONFIG names; parameter_server: the tables and "
        "MLPs on the servers that TF_CONFIG names, trained by workers that do not wait for each "
        "other.",
        ("one_device", "mirrored", "multi_worker_mirrored", "parameter_server"),
    )
    virtual_devices: int = option(
        0, "With --distribution=mirrored, so many logical CPUs in place of GPUs; 0 for GPUs."
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

    def validate(self) -> None:
        """Raises UserError where an option has no effect or a file is not there."""
        check_choices(self)
        check_at_least(self, 0, "virtual_devices")
        if self.distribution == "one_device":
            for field in dataclasses.fields(self)[1:]:
                value = getattr(self, field.name)
                if value != field.default:
                    raise UserError(
                        f"--{field.name}={value} has no effect with --distribution=one_device."
                    )
        if self.virtual_devices and self.distribution != "mirrored":
            raise UserError(
                f"--virtual_devices={self.virtual_devices} has no effect with "
                f"--distribution={self.distribution}."
            )
        if self.communication_dtype != "float32" and self.distribution == "parameter_server":
            raise UserError(
                f"--communication_dtype={self.communication_dtype} has no effect with "
                "--distribution=parameter_server, where rows travel as they are."
            )
        if self.plan and not files.isfile(self.plan):
            raise UserError(f"--plan={self.plan} is no file.")
