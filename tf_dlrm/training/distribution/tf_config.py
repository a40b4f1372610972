"""The environment variable TF_CONFIG, checked before TensorFlow reads it."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from tf_dlrm.errors import UserError
from tfrecords.json_values import shown

_FORM = '{"cluster": {"worker": ["HOST:PORT"]}, "task": {"type": "worker", "index": 0}}'

# A host's name or number, those of IPv6 in brackets.
_ADDRESS = re.compile(r"(?:\[[\da-fA-F:.]+\]|[^\s/:\[\]]+):(\d{1,5})", re.ASCII)


def read_tf_config() -> tuple[dict[str, list[str]], Any, Any]:
    """Returns the addresses of each role, and the role and index of this task, None without.

    Raises:
        UserError: If the variable is set to something of another form.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _other_form(str(error), text) from error
    if not isinstance(config, dict):
        raise _other_form("it is no object", text)
    cluster, task = config.get("cluster", {}), config.get("task", {})
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _other_form("cluster and task must be objects", text)
    for role, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(isinstance(at, str) for at in addresses):
            raise _other_form(f"the addresses of {role!r} must be a list of texts", text)
    role = task.get("type")
    if role is not None and not isinstance(role, str):
        raise _other_form("the type of the task must be a text", text)
    return cluster, role, task.get("index")


def _other_form(why: str, text: str) -> UserError:
    return UserError(
        f"TF_CONFIG does not describe a cluster ({why}): {shown(text)}. It must look like {_FORM}."
    )


def check_task(cluster: dict[str, list[str]], role: Any, index: Any) -> None:
    """Checks that the cluster has the task of this process, and addresses that can be ones.

    Raises:
        UserError: If it has not.
    """
    if not isinstance(role, str) or role not in cluster:
        raise UserError(f"TF_CONFIG has the task {role!r}, but its cluster has {sorted(cluster)}.")
    if type(index) is not int or not 0 <= index < len(cluster[role]):
        raise UserError(
            f"TF_CONFIG has the task {role} {shown(index)}, but its cluster has "
            f"{len(cluster[role])} of that type; the first is 0."
        )
    seen = set()
    for address in (entry for entries in cluster.values() for entry in entries):
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[1]) < 65536:
            raise UserError(f"TF_CONFIG has the address {shown(address)}; each must be HOST:PORT.")
        if address in seen:
            raise UserError(
                f"TF_CONFIG has the address {address!r} twice; each process needs one of its own."
            )
        seen.add(address)
