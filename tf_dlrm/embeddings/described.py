"""Frozen dataclasses of several classes as dicts that `json.dumps` accepts, and back."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any


def to_dict(value: Any) -> dict[str, Any]:
    """Returns the class and the fields of a dataclass, which `from_dict` takes back."""
    return {"kind": type(value).__name__, **dataclasses.asdict(value)}


def from_dict(what: str, kinds: Collection[type], values: Mapping[str, Any]) -> Any:
    """Returns the dataclass that `to_dict` described.

    Args:
        what: What it is, for messages.
        kinds: The classes that it may be of.
        values: The description.

    Raises:
        ValueError: If it is of none of them.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    known = {known.__name__: known for known in kinds}
    if kind not in known:
        raise ValueError(f"kind of {what} must be one of {sorted(known)}, but is {kind!r}.")
    return known[kind](**fields)
