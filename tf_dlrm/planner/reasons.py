"""Why a plan is as it is, in words: each table's choice against the ways it could be else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tf_dlrm.embeddings.plan import (
    COLUMN_WISE,
    DATA_PARALLEL,
    ROW_WISE,
    TABLE_WISE,
    Plan,
    TablePlan,
)
from tf_dlrm.planner.model import CostModel
from tf_dlrm.planner.pins import Pin
from tf_dlrm.planner.search import Search

_WORDS = {
    DATA_PARALLEL: "a copy on each device",
    TABLE_WISE: "whole on one device",
    ROW_WISE: "cut by row",
    COLUMN_WISE: "cut by column",
}
# Times that differ by less than this share of a step are told as equal.
_LEAST_SHARE = 2e-4


def with_reasons(model: CostModel, search: Search, plan: Plan, pins: Mapping[str, Pin]) -> Plan:
    """Returns the plan with a reason for each table.

    A reason says what the step would gain or lose if this table alone were placed in the best way
    of each other kind.

    Args:
        model: The cost model.
        search: The search that made the plan.
        plan: The plan.
        pins: What was decided before.
    """
    loads = search.loads_of(plan.tables)
    tables = {}
    for name, placed in plan.tables.items():
        if model.devices == 1:
            reason = "There is only one device."
        elif name in pins:
            reason = f"Pinned: {pins[name]}."
        else:
            loads.add(name, placed, -1.0)
            score = loads.score_with(name, placed)
            others = search.best_of_each(loads, name)
            loads.add(name, placed)
            others.pop(placed.sharding, None)
            parts = [_against(kind, other - score, score) for kind, other in others.items()]
            alike = [kind for kind, other in others.items() if _is_tie(other - score, score)]
            own = search.complexity(name, placed.sharding)
            if alike and all(search.complexity(name, kind) > own for kind in alike):
                parts.append("and this is the simplest of what is as fast")
            reason = f"{_what(model, name, placed)}; {', '.join(parts)}."
        tables[name] = dataclasses.replace(placed, reason=reason)
    return Plan(plan.devices, tables)


def _what(model: CostModel, name: str, choice: TablePlan) -> str:
    parts = model.parts(name, choice.sharding, len(choice.devices) or 1)
    size = f"{float(parts.memory.max()) / 1e6:,.1f} MB"
    seconds = float((parts.lookup + parts.update).max())
    each = " each" if len(choice.devices) != 1 else ""
    return f"{_WORDS[choice.sharding].capitalize()}: {size} and {duration(seconds)} a step{each}"


def _is_tie(more: float, score: float) -> bool:
    return abs(more) <= _LEAST_SHARE * abs(score)


def _against(sharding: str, more: float, score: float) -> str:
    words = _WORDS[sharding]
    if more > 1e3:  # the penalty of `loads`
        return f"{words} does not fit"
    if _is_tie(more, score):
        return f"{words} would be as fast"
    if more < 0:  # the score also counts evenness, so hardly ever, and by little
        return f"{words} would take {duration(-more)} less"
    return f"{words} would take {duration(more)} more"


def duration(seconds: float) -> str:
    """Returns a time with a unit that suits it."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us"
