"""What is compared, as flags beside those of `tf_dlrm.train`."""

from __future__ import annotations

import dataclasses
import math

from tf_dlrm.errors import UserError
from tf_dlrm.options import INT32, Options, commas, option
from tf_dlrm.training.options.config import DENSE_OPTIMIZERS, EMBEDDING_OPTIMIZERS
from tf_dlrm.training.options.model import MODELS

OPTIMIZERS = tuple(name for name in DENSE_OPTIMIZERS if name in EMBEDDING_OPTIMIZERS)


@dataclasses.dataclass(frozen=True)
class CompareOptions(Options):
    """The runs; every field is a flag."""

    models: tuple[str, ...] = option(("dlrm", "dcn"), f"Models: some of {', '.join(MODELS)}.")
    seeds: tuple[int, ...] = option(
        (0, 1, 2), "Seeds; each model is trained with each.", least=0, most=INT32
    )
    optimizers: tuple[str, ...] = option(
        ("sgd", "adagrad"), "Optimizers of tables and MLPs; each model is trained with each."
    )
    learning_rates: tuple[str, ...] = option(
        (), "For each optimizer the rate of tables and MLPs; empty for the rates of the flags."
    )
    match_parameters: bool = option(
        True,
        "Whether the hidden layers of other models' top MLPs are made wider or narrower until they "
        "have as many parameters beside the tables as the first model.",
    )
    output_dir: str = option("", "Folder of the runs, the table and the picture.")
    keep_models: bool = option(False, "Whether checkpoints of finished runs are kept.")

    @property
    def rates(self) -> dict[str, float | None]:
        """The learning rate of each optimizer; None for that of the flags."""
        if not self.learning_rates:
            return dict.fromkeys(self.optimizers)
        return dict(zip(self.optimizers, map(float, self.learning_rates), strict=True))

    def validate(self) -> None:
        """Raises UserError on unknown, repeated or missing names and on impossible rates."""
        super().validate()
        if not self.output_dir:
            raise UserError("--output_dir= must be the folder that the comparison goes into.")
        if "://" in self.output_dir:
            raise UserError(f"--output_dir={self.output_dir} must be a path on this machine.")
        for name, known in (("models", MODELS), ("optimizers", OPTIMIZERS)):
            for value in getattr(self, name):
                if value not in known:
                    raise UserError(f"--{name} has {value!r}, but knows {', '.join(known)}.")
        for name in ("models", "optimizers", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UserError(f"--{name}={commas(values)} must have entries that all differ.")
        if self.learning_rates and len(self.learning_rates) != len(self.optimizers):
            raise UserError(
                f"--learning_rates={commas(self.learning_rates)} must have one rate for each of "
                f"--optimizers={commas(self.optimizers)}."
            )
        for rate in self.learning_rates:
            try:
                fits = 0 < float(rate) < math.inf
            except ValueError:
                fits = False
            if not fits:
                raise UserError(f"--learning_rates has {rate!r}, which is no number above 0.")
