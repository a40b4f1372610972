"""The names that optimizers have in JSON and on the command line."""

import dataclasses

import pytest

from tf_dlrm import embeddings
from tf_dlrm.embeddings import Adagrad
from tf_dlrm.embeddings.described import to_dict
from tf_dlrm.embeddings.optimizers import OPTIMIZERS, optimizer_from_dict, optimizer_of_flag
from tf_dlrm.training.options.config import EMBEDDING_OPTIMIZERS

# By the name on the command line, as they stand in models that were saved.
_WRITTEN = {
    "sgd": {"kind": "SGD", "learning_rate": 0.1},
    "adagrad": {
        "kind": "Adagrad",
        "learning_rate": 0.1,
        "initial_accumulator": 0.2,
        "epsilon": 0.3,
    },
    "rowwise_adagrad": {
        "kind": "RowWiseAdagrad",
        "learning_rate": 0.1,
        "initial_accumulator": 0.2,
        "epsilon": 0.3,
    },
    "lazy_adam": {
        "kind": "LazyAdam",
        "learning_rate": 0.1,
        "beta_1": 0.2,
        "beta_2": 0.3,
        "epsilon": 0.4,
    },
    "ftrl": {
        "kind": "FTRL",
        "learning_rate": 0.1,
        "learning_rate_power": -0.2,
        "l1": 0.3,
        "l2": 0.4,
        "initial_accumulator": 0.5,
        "beta": 0.6,
    },
    "frozen": {"kind": "Frozen", "learning_rate": 0.0},
}


def test_every_optimizer_but_frozen_is_a_flag():
    assert sorted(EMBEDDING_OPTIMIZERS) == sorted(_WRITTEN.keys() - {"frozen"})
    assert sorted(kind.__name__ for kind in OPTIMIZERS) == sorted(
        written["kind"] for written in _WRITTEN.values()
    )


@pytest.mark.parametrize("name", _WRITTEN)
def test_json_stays_as_it_is(name):
    written = _WRITTEN[name]
    optimizer = optimizer_from_dict(written)
    kind = getattr(embeddings, written["kind"])
    assert type(optimizer) is kind is optimizer_of_flag(name)
    assert to_dict(optimizer) == written
    numbers = {k: v for k, v in written.items() if k not in ("kind", "learning_rate")}
    assert optimizer.numbers() == numbers


def test_another_rule_has_no_native_form():
    @dataclasses.dataclass(frozen=True)
    class Backwards(Adagrad):
        def rule(self, row, slots, gradient, rate):
            return super().rule(row, slots, -gradient, rate)

    assert Adagrad.native and not Backwards.native
    with pytest.raises(ValueError, match="kind of an optimizer must be one of"):
        optimizer_from_dict(to_dict(Backwards(0.1)))
