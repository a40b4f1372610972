"""Row-sparse optimizers: one update touches the looked-up rows and no others.

Exact semantics, the same for every optimizer and placement: the gradients of equal ids are summed
first, then each row is updated once, and epsilon is added outside the root.

A new optimizer is one file and its name in `OPTIMIZERS`; the file's name is its name on the command
line. For kernels it has a rule of the same name in `rules.h` and a line in `interface.h` too.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tf_dlrm.embeddings.optimizers.adagrad import Adagrad
from tf_dlrm.embeddings.optimizers.frozen import Frozen
from tf_dlrm.embeddings.optimizers.ftrl import FTRL
from tf_dlrm.embeddings.optimizers.lazy_adam import LazyAdam
from tf_dlrm.embeddings.optimizers.optimizer import Optimizer
from tf_dlrm.embeddings.optimizers.rowwise_adagrad import RowWiseAdagrad
from tf_dlrm.embeddings.optimizers.sgd import SGD
from tf_dlrm.embeddings.schedules import LearningRateSchedule

OPTIMIZERS: tuple[type[Optimizer], ...] = (SGD, Adagrad, RowWiseAdagrad, LazyAdam, FTRL, Frozen)
_BY_NAME: Mapping[str, type[Optimizer]] = {kind.__name__: kind for kind in OPTIMIZERS}


def optimizer_of_flag(name: str) -> type[Optimizer]:
    """Returns the optimizer whose file has this name, which it has on the command line."""
    return {kind.__module__.rpartition(".")[2]: kind for kind in OPTIMIZERS}[name]


def optimizer_to_dict(optimizer: Optimizer) -> dict[str, Any]:
    """Returns a dict that `json.dumps` accepts and `optimizer_from_dict` takes back."""
    return {"kind": type(optimizer).__name__, **dataclasses.asdict(optimizer)}


def optimizer_from_dict(values: Mapping[str, Any]) -> Optimizer:
    """Returns the optimizer that `optimizer_to_dict` described.

    Raises:
        ValueError: If the kind is none of this package's.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if kind not in _BY_NAME:
        raise ValueError(
            f"kind of an optimizer must be one of {sorted(_BY_NAME)}, but is {kind!r}."
        )
    if isinstance(fields.get("learning_rate"), Mapping):
        fields["learning_rate"] = LearningRateSchedule.from_dict(fields["learning_rate"])
    return _BY_NAME[kind](**fields)
