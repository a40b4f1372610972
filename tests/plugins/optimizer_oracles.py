"""What every optimizer makes of a table, in NumPy and float64, row by row."""

from __future__ import annotations

import numpy as np

from tf_dlrm.embeddings import FTRL, SGD, Adagrad, LazyAdam, LearningRateSchedule, RowWiseAdagrad

SCHEDULE = LearningRateSchedule(0.2, 3, 4, 2)
# With large epsilons and penalties too: tiny ones are as good in the wrong place.
CASES = {
    "sgd": SGD(0.1),
    "sgd_schedule": SGD(SCHEDULE),
    "adagrad": Adagrad(0.1),
    "adagrad_epsilon_0.1": Adagrad(0.1, 0.5, 0.1),
    "adagrad_epsilon_1": Adagrad(SCHEDULE, 0.0, 1.0),
    "row_wise": RowWiseAdagrad(0.1),
    "row_wise_epsilon_0.1": RowWiseAdagrad(SCHEDULE, 0.5, 0.1),
    "row_wise_epsilon_1": RowWiseAdagrad(0.3, 0.0, 1.0),
    "lazy_adam": LazyAdam(0.05),
    "lazy_adam_epsilon_0.1": LazyAdam(SCHEDULE, 0.7, 0.8, 0.1),
    "lazy_adam_epsilon_1": LazyAdam(0.5, 0.5, 0.9, 1.0),
    "lazy_adam_no_momentum": LazyAdam(0.1, 0.0, 0.0, 0.1),
    "ftrl": FTRL(0.1),
    "ftrl_constant_schedule": FTRL(LearningRateSchedule(0.1, 1, 2, 3, 2.0, 0.1)),
    "ftrl_penalties": FTRL(0.1, -0.5, 0.5, 0.4, 0.2, 0.7),
    "ftrl_other_power": FTRL(0.1, -0.4, 0.5, 0.05, 0.2, 0.7),
}


def _sgd(optimizer, row, slots, g, rate, t):
    return row - rate * g


def _adagrad(optimizer, row, slots, g, rate, t):
    slots["accumulator"] = slots["accumulator"] + g**2
    return row - rate * g / (np.sqrt(slots["accumulator"]) + optimizer.epsilon)


def _row_wise_adagrad(optimizer, row, slots, g, rate, t):
    slots["accumulator"] = slots["accumulator"] + np.mean(g**2)
    return row - rate * g / (np.sqrt(slots["accumulator"]) + optimizer.epsilon)


def _lazy_adam(optimizer, row, slots, g, rate, t):
    slots["m"] = optimizer.beta_1 * slots["m"] + (1 - optimizer.beta_1) * g
    slots["v"] = optimizer.beta_2 * slots["v"] + (1 - optimizer.beta_2) * g**2
    rate = rate * np.sqrt(1 - optimizer.beta_2**t) / (1 - optimizer.beta_1**t)
    return row - rate * slots["m"] / (np.sqrt(slots["v"]) + optimizer.epsilon)


def _ftrl(optimizer, row, slots, g, rate, t):
    power = -optimizer.learning_rate_power
    before, after = slots["accumulator"], slots["accumulator"] + g**2
    z = slots["linear"] + g - (after**power - before**power) / rate * row
    slots["accumulator"], slots["linear"] = after, z
    curve = (after**power + optimizer.beta) / rate + 2 * optimizer.l2
    return np.where(np.abs(z) > optimizer.l1, (np.sign(z) * optimizer.l1 - z) / curve, 0.0)


RULES = {
    "SGD": _sgd,
    "Adagrad": _adagrad,
    "RowWiseAdagrad": _row_wise_adagrad,
    "LazyAdam": _lazy_adam,
    "FTRL": _ftrl,
}


def oracle(optimizer, table, batches):
    """Returns {"rows": table, slot: its values} after all batches of (ids, gradients)."""
    rows, dim = table.shape
    rule = RULES[type(optimizer).__name__]
    found = {"rows": table.astype("f8")}
    for spec in optimizer.slots:
        first = (
            getattr(optimizer, "initial_accumulator", 0.0) if spec.name == "accumulator" else 0.0
        )
        found[spec.name] = np.full((rows,) if spec.row_wise else (rows, dim), first)
    for step, (ids, gradients) in enumerate(batches):
        rate = optimizer.learning_rate
        rate = float(rate(step)) if isinstance(rate, LearningRateSchedule) else rate
        for row in set(ids.tolist()):
            g = gradients[ids == row].astype("f8").sum(0)
            slots = {name: v[row].copy() for name, v in found.items() if name != "rows"}
            found["rows"][row] = rule(optimizer, found["rows"][row], slots, g, rate, step + 1)
            for name, value in slots.items():
                found[name][row] = value
    return found


def batches(rows, dim, steps=6, ids=30, dtype="int64", seed=0):
    """Returns batches in which most ids repeat, and none is 3."""
    rng = np.random.default_rng(seed)
    choices = np.delete(np.arange(rows), 3)
    return [
        (
            rng.choice(choices[: 4 + step], ids).astype(dtype),
            rng.normal(size=(ids, dim)).astype("f"),
        )
        for step in range(steps)
    ]
