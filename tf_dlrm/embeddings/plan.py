"""Which device holds which part of which table: a text that people can read, edit and compare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tf_dlrm.embeddings.block import Block
from tf_dlrm.embeddings.config import FeatureConfig, TableConfig, tables_of

DATA_PARALLEL = "data_parallel"
TABLE_WISE = "table_wise"
ROW_WISE = "row_wise"
COLUMN_WISE = "column_wise"
SHARDINGS = (DATA_PARALLEL, TABLE_WISE, ROW_WISE, COLUMN_WISE)

# Ids of a bag from which its vector is less than their rows, so that who has the whole table pools
# it. Ragged bags are taken for such.
MANY_IDS = 8

_FORMAT = 1
_FIRST_RANGE = 64  # rows, which nearly every batch asks for


@dataclasses.dataclass(frozen=True)
class TablePlan:
    """Where one table is.

    Attributes:
        sharding: "data_parallel": a copy on every device. "table_wise": whole on one device.
            "row_wise": each of `devices` has some rows, see `dealt_rows`; "column_wise": each has
            consecutive columns.
        devices: Numbers of the devices, from 0; empty where data-parallel.
        reason: Why, in words; for people only.
    """

    sharding: str
    devices: tuple[int, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(self.devices))
        if self.sharding not in SHARDINGS:
            raise ValueError(f"sharding must be one of {SHARDINGS}, but is {self.sharding!r}.")
        for device in self.devices:
            if isinstance(device, bool) or not isinstance(device, int) or device < 0:
                raise ValueError(f"devices must be numbers of at least 0, but has {device!r}.")
        if len(set(self.devices)) < len(self.devices):
            raise ValueError(f"devices must differ, but are {list(self.devices)}.")
        count = len(self.devices)
        if self.sharding == DATA_PARALLEL and count:
            raise ValueError(f"A data_parallel table is on every device; devices has {count}.")
        if self.sharding == TABLE_WISE and count != 1:
            raise ValueError(f"A table_wise table is on one device, but devices has {count}.")
        if self.sharding in (ROW_WISE, COLUMN_WISE) and not count:
            raise ValueError(f"A {self.sharding} table needs one device or more, but has none.")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where all tables of a model are.

    Attributes:
        devices: Number of devices: replicas, or parameter servers.
        tables: By table name.
    """

    devices: int
    tables: Mapping[str, TablePlan]

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ValueError(f"A plan is for one device or more, not {self.devices}.")
        for name, table in self.tables.items():
            beyond = [device for device in table.devices if device >= self.devices]
            if beyond:
                raise ValueError(
                    f"The plan puts table '{name}' on the devices {beyond}, but has only "
                    f"{self.devices}, numbered from 0."
                )

    def check(self, features: Sequence[FeatureConfig]) -> None:
        """Checks that the plan places every table of the features and no others.

        Raises:
            ValueError: If it does not, or if a table cannot be placed that way.
        """
        tables = {table.name: table for table in tables_of(features)}
        missing = [name for name in tables if name not in self.tables]
        if missing:
            raise ValueError(f"The plan places no table {missing}; it has {list(self.tables)}.")
        unknown = [name for name in self.tables if name not in tables]
        if unknown:
            raise ValueError(
                f"The plan places tables {unknown}, but the model has only {list(tables)}."
            )
        for name, table in tables.items():
            plan = self.tables[name]
            if plan.sharding != COLUMN_WISE:
                continue
            if len(plan.devices) > table.dim:
                raise ValueError(
                    f"The plan cuts table '{name}' of {table.dim} columns into "
                    f"{len(plan.devices)} parts by column."
                )
            if len(plan.devices) > 1 and any(slot.row_wise for slot in table.optimizer.slots):
                raise ValueError(
                    f"The plan cuts table '{name}' by column, but its optimizer, "
                    f"{type(table.optimizer).__name__}, keeps a number for each whole row; use "
                    "row_wise or table_wise."
                )

    def blocks(self, table: TableConfig) -> Iterator[Block]:
        """Yields the blocks of a table that hold something, every copy of a data-parallel one."""
        plan = self.tables[table.name]
        if plan.sharding == DATA_PARALLEL:
            for device in range(self.devices):
                yield Block.whole(table, device=device)
            return
        if plan.sharding == ROW_WISE:
            for part, first, stop in dealt_rows(table.vocabulary_size, len(plan.devices)):
                yield Block(table, first, stop - first, 0, table.dim, plan.devices[part])
            return
        for part, device in enumerate(plan.devices):  # a whole table is one part
            first, stop = even_cut(table.dim, len(plan.devices), part)
            yield Block(table, 0, table.vocabulary_size, first, stop - first, device)

    def to_json(self) -> str:
        """Returns the text that `from_json` takes back: a line for each table."""
        lines = []
        for name, table in self.tables.items():
            values: dict[str, Any] = {"sharding": table.sharding}
            if table.devices:
                values["devices"] = list(table.devices)
            if table.reason:
                values["reason"] = table.reason
            lines.append(f"    {json.dumps(name)}: {json.dumps(values)}")
        head = f'{{\n  "format": {_FORMAT},\n  "devices": {self.devices},\n  "tables": {{\n'
        return head + ",\n".join(lines) + "\n  }\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Returns the plan that a text describes.

        Raises:
            ValueError: If it describes none.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"The plan is not JSON: {error}.") from error
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise ValueError(f"The plan has no 'format': {_FORMAT}.")
        unknown = sorted(set(values) - {"format", "devices", "tables"})
        if unknown:
            raise ValueError(f"The plan has entries {unknown}, which no plan has.")
        devices, tables = values.get("devices"), values.get("tables")
        if isinstance(devices, bool) or not isinstance(devices, int):
            raise ValueError(f"'devices' of the plan must be a number, but is {devices!r}.")
        if not isinstance(tables, dict):
            raise ValueError("'tables' of the plan must be an object with a table in each entry.")
        return cls(devices, {name: _table_plan(name, table) for name, table in tables.items()})


def even_cut(size: int, parts: int, part: int) -> tuple[int, int]:
    """Returns the range of one of `parts` nearly equal parts of [0, size)."""
    return size * part // parts, size * (part + 1) // parts


def dealt_rows(rows: int, parts: int) -> list[tuple[int, int, int]]:
    """Deals the rows of a table out to parts, so that each has its share of the popular ids.

    Ids are numbered by popularity or by first appearance, so the first rows are those that are
    asked for. Rows [0, 64), [64, 128), [128, 256), ..., each range as long as all before it, are
    therefore cut evenly, in turns from the first part to the last and back: the largest share of
    the different ids of a batch that follow a power law is 5 % above the mean, whatever the numbers
    of rows and of parts, where blocks of equal size leave it at up to seven times the mean.

    Returns:
        (part, first row, row after the last) in the order of the rows, without empty ranges.
    """
    dealt: list[tuple[int, int, int]] = []
    start, stop, forth = 0, min(rows, _FIRST_RANGE), True
    while start < stop:
        for k in range(parts):
            first, after = (start + edge for edge in even_cut(stop - start, parts, k))
            part = k if forth else parts - 1 - k
            if dealt and dealt[-1][0] == part:  # where it turns
                dealt[-1] = (part, dealt[-1][1], after)
            elif first < after:
                dealt.append((part, first, after))
        start, stop, forth = stop, min(rows, 2 * stop), not forth
    return dealt


def _table_plan(name: str, values: Any) -> TablePlan:
    if not isinstance(values, dict):
        raise ValueError(f"Table '{name}' of the plan must be an object, but is {values!r}.")
    known = [field.name for field in dataclasses.fields(TablePlan)]
    unknown = sorted(set(values) - set(known))
    if unknown or "sharding" not in values:
        raise ValueError(
            f"Table '{name}' of the plan must have 'sharding' and may have {known[1:]}, but has "
            f"{sorted(values)}."
        )
    if not isinstance(values.get("devices", []), list):
        raise ValueError(f"'devices' of table '{name}' of the plan must be a list of numbers.")
    try:
        return TablePlan(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Table '{name}' of the plan: {error}") from error


def whole_plan(features: Sequence[FeatureConfig]) -> Plan:
    """Returns the plan of one device that has all tables."""
    return Plan(1, {table.name: TablePlan(TABLE_WISE, (0,)) for table in tables_of(features)})
