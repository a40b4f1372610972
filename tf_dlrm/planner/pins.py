"""What the user has decided about single tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tf_dlrm.embeddings.config import TableConfig
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, TablePlan


@dataclasses.dataclass(frozen=True)
class Pin:
    """How a table has to be placed.

    Attributes:
        sharding: One of `SHARDINGS`.
        devices: Numbers of its devices, in order; empty leaves them to the planner.
    """

    sharding: str
    devices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(self.devices))
        # Devices that are not given are not wrong yet, so any one will do for the check.
        needs = () if self.sharding == DATA_PARALLEL else (0,)
        TablePlan(self.sharding, self.devices or needs)

    def allows(self, sharding: str, devices: tuple[int, ...]) -> bool:
        """Returns whether a placement is what the pin says."""
        return sharding == self.sharding and self.devices in ((), devices)

    def __str__(self) -> str:
        return self.sharding + (":" if self.devices else "") + ",".join(map(str, self.devices))


def parse_pin(text: str) -> tuple[str, Pin]:
    """Reads TABLE=SHARDING or TABLE=SHARDING:DEVICE[,DEVICE...].

    Raises:
        ValueError: If the text is something else.
    """
    name, equals, value = text.rpartition("=")
    sharding, _, numbers = value.partition(":")
    entries = [entry.strip() for entry in numbers.split(",")] if numbers else []
    if not equals or not name or not all(entry.isdecimal() for entry in entries):
        raise ValueError(
            f"A pin must be TABLE=SHARDING or TABLE=SHARDING:DEVICE,DEVICE,... such as "
            f"C1=row_wise or C1=table_wise:3, but is {text!r}."
        )
    try:
        return name, Pin(sharding, tuple(map(int, entries)))
    except ValueError as error:
        raise ValueError(f"The pin {text!r} cannot be: {error}") from error


def check_pins(pins: Mapping[str, Pin], tables: Mapping[str, TableConfig], devices: int) -> None:
    """Checks that a plan can honour the pins.

    Raises:
        ValueError: If a pin names no table or no device of the plan, or the table cannot be placed
            that way.
    """
    for name, pin in pins.items():
        if name not in tables:
            raise ValueError(f"The pin {name}={pin} names no table; there are {list(tables)}.")
        table = tables[name]
        beyond = [device for device in pin.devices if device >= devices]
        if beyond:
            raise ValueError(
                f"The pin {name}={pin} names device {beyond[0]}, but there are {devices}, numbered "
                "from 0."
            )
        if pin.sharding == COLUMN_WISE and len(pin.devices) > table.dim:
            raise ValueError(
                f"The pin {name}={pin} cuts {table.dim} columns into {len(pin.devices)} parts."
            )
        row_wise = any(slot.row_wise for slot in table.optimizer.slots)
        if pin.sharding == COLUMN_WISE and row_wise and len(pin.devices) != 1:
            raise ValueError(
                f"The pin {name}={pin} cuts the table by column, but its optimizer, "
                f"{type(table.optimizer).__name__}, keeps a number for each whole row; use "
                "row_wise or table_wise."
            )
