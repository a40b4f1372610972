"""How much shorter the predicted step of our search is than that of simple plans and TorchRec's.

```
python -m benchmarks.planner --devices=8,16 --hardware=a100_node --peer_python=PEER/bin/python
```

All plans are judged by our cost model, that is by what our placements do: unique ids and their rows
travel, padded to the largest piece. TorchRec plans for its own way, in which pooled vectors travel,
so the comparison says what its plan would cost here, not which planner is better for TorchRec. It
does not know of popular ids; we give it what its interface takes.

"table-wise": each table whole, the most expensive first, on the device that carries least.
"row-wise": every table cut by row over all devices. "greedy": the most expensive table first, each
in the best of all ways at that moment.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from tf_dlrm.embeddings import Adagrad
from tf_dlrm.embeddings.plan import COLUMN_WISE, DATA_PARALLEL, TABLE_WISE, Plan, TablePlan
from tf_dlrm.planner import CostModel, Search, Workload, load_hardware
from tf_dlrm.planner.models import KNOWN_MODELS, KnownModel

_MODELS = flags.DEFINE_list("models", ["mlperf", "mlperf_multi_hot"], "Known models.")
_DEVICES = flags.DEFINE_list("devices", ["8", "16"], "Numbers of devices.")
_HARDWARE = flags.DEFINE_string("hardware", "a100_node", "Preset or file.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 65536, "Examples of a step on all devices.")
_PEER = flags.DEFINE_string("peer_python", "", "Python of an environment with TorchRec.")

# Name, exponent of the power law, and whether popular ids are the low ones.
_IDS = (
    ("uniform", 0.0, False),
    ("power law 1.05, anywhere", 1.05, False),
    ("power law 1.05, popular first", 1.05, True),
)


def torchrec_plan(known: KnownModel, model: CostModel, python: str) -> Plan:
    """Returns TorchRec's plan for the tables, batch and hardware of a cost model.

    Raises:
        RuntimeError: If TorchRec makes no plan, or one that a `Plan` cannot say.
    """
    hardware = model.hardware
    problem = {
        "rows": known.rows,
        "hotness": known.hotness,
        "dim": known.dim,
        "devices": model.devices,
        "devices_per_host": hardware.devices_per_host,
        "memory": model.memory_limit - model.fixed_bytes,
        "memory_gbs": hardware.memory_gbs,
        "intra_host_gbs": hardware.intra_host_gbs,
        "inter_host_gbs": hardware.inter_host_gbs,
        "batch_size": model.workload.batch_size,
    }
    program = pathlib.Path(__file__).with_name("planner_torchrec.py")
    done = subprocess.run(
        [python, str(program)], input=json.dumps(problem), capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"TorchRec made no plan:\n{done.stderr}")
    tables = {}
    for name, (sharding, ranks) in json.loads(done.stdout.splitlines()[-1]).items():
        if sharding == COLUMN_WISE and len(ranks) == 1:
            sharding = TABLE_WISE
        devices = () if sharding == DATA_PARALLEL else tuple(ranks)
        if len(set(devices)) < len(devices):
            raise RuntimeError(f"TorchRec puts several parts of {name} on a device: {ranks}.")
        tables[name] = TablePlan(sharding, devices)
    return Plan(model.devices, tables)


def _lines(name: str, devices: int) -> list[str]:
    known = KNOWN_MODELS[name]
    features = known.features(Adagrad(0.005))
    hardware = load_hardware(_HARDWARE.value)
    lines = []
    for ids, alpha, popular_first in _IDS:
        workload = Workload(_BATCH_SIZE.value, known.hotness_by_feature(), alpha, popular_first)
        model = CostModel(features, workload, hardware, devices, known.dense)
        search = Search(model)
        plans = {
            "table-wise": search.table_wise(),
            "row-wise": search.row_wise(),
            "greedy": search.greedy(),
        }
        if _PEER.value:
            plans["TorchRec"] = torchrec_plan(known, model, _PEER.value)
        start = time.perf_counter()
        plans["search"] = search.best()
        seconds = time.perf_counter() - start
        best = model.estimate(plans["search"]).step
        cells = []
        for plan in plans.values():
            estimate = model.estimate(plan)
            gain = f" ({best / estimate.step - 1:+.1%})" if estimate.step != best else ""
            over = " does not fit" if estimate.excess_bytes else ""
            cells.append(f"{estimate.step * 1e3:.2f}{gain}{over}")
        lines.append(f"| {name} | {devices} | {ids} | {' | '.join(cells)} | {seconds:.2f} |")
    return lines


def main(argv: Sequence[str]) -> None:
    """Prints a Markdown table: milliseconds of a step, and in brackets what the search changes."""
    del argv
    names = ["table-wise", "row-wise", "greedy", *(["TorchRec"] if _PEER.value else []), "search"]
    head = ["model", "devices", "ids", *names, "seconds of search"]
    sys.stdout.write(f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n")
    for name in _MODELS.value:
        for devices in map(int, _DEVICES.value):
            sys.stdout.write("\n".join(_lines(name, devices)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
