"""Row-sparse optimizers: one update touches the looked-up rows and no others.

Exact semantics, the same for every optimizer and placement: the gradients of equal ids are summed
first, then each row is updated once, and epsilon is added outside the root.

A new optimizer is one file and its name in `OPTIMIZERS`; the file's name is its name on the command
line. For kernels it has a rule of the same name in `rules.h` and a line in `interface.h` too.
"""

from collections.abc import Mapping
from typing import Any

from tf_dlrm.embeddings.described import from_dict
from tf_dlrm.embeddings.optimizers.adagrad import Adagrad
from tf_dlrm.embeddings.optimizers.frozen import Frozen
from tf_dlrm.embeddings.optimizers.ftrl import FTRL
from tf_dlrm.embeddings.optimizers.lazy_adam import LazyAdam
from tf_dlrm.embeddings.optimizers.optimizer import Optimizer
from tf_dlrm.embeddings.optimizers.rowwise_adagrad import RowWiseAdagrad
from tf_dlrm.embeddings.optimizers.sgd import SGD
from tf_dlrm.embeddings.schedules import LearningRateSchedule

OPTIMIZERS: tuple[type[Optimizer], ...] = (SGD, Adagrad, RowWiseAdagrad, LazyAdam, FTRL, Frozen)


def optimizer_of_flag(name: str) -> type[Optimizer]:
    """Returns the optimizer whose file has this name, which it has on the command line."""
    return {kind.__module__.rpartition(".")[2]: kind for kind in OPTIMIZERS}[name]


def optimizer_from_dict(values: Mapping[str, Any]) -> Optimizer:
    """Returns the optimizer that `described.to_dict` described.

    Raises:
        ValueError: If the kind is none of this package's.
    """
    rate = values.get("learning_rate")
    if isinstance(rate, Mapping):
        values = {**values, "learning_rate": LearningRateSchedule.from_dict(rate)}
    found: Optimizer = from_dict("an optimizer", OPTIMIZERS, values)
    return found
