"""Who is faster: our step and the peers' on the same work, in one sitting, taking turns.

    benchmarks/setup_peers.sh PEERS
    python -m benchmarks.step --peer_python=PEERS/bin/python --dlrm_dir=CHECKOUT --output=FOLDER

Each system is a process of its own with batches ready in memory; ours and one peer take turns, so
that both see the same machine. FOLDER gets `results.jsonl`, a line for each case and peer as soon
as it is measured (run again, the command goes on where it stopped), and from all of them
`results.md` and `results.svg`. Cases are in step_cases.py. It needs matplotlib besides the package.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

_HERE = Path(__file__).parent
sys.path.insert(0, str(_HERE))  # as the peers' environments see it

import step_floor  # noqa: E402
from step_cases import CASES, FBGEMM, KERAS_3, REFERENCE, TF_KERAS, TFRS, Case  # noqa: E402

from benchmarks.step_worker import Worker  # noqa: E402

_BFLOAT16 = "tf_dlrm_bfloat16"
_NAMES = {
    REFERENCE: "facebookresearch/dlrm",
    FBGEMM: "torch + FBGEMM",
    KERAS_3: "Keras 3",
    TF_KERAS: "tf_keras",
    TFRS: "TFRS Ranking",
    _BFLOAT16: "tf_dlrm, --compute_dtype=bfloat16",
}
_TINY_ROWS = 10


def _define_flags() -> None:
    flags.DEFINE_string("dlrm_dir", None, "Checkout of facebookresearch/dlrm.", required=True)
    flags.DEFINE_string("peer_python", None, "Python that has PyTorch and FBGEMM.", required=True)
    flags.DEFINE_string("output", None, "Folder of the results.", required=True)
    flags.DEFINE_string("cases", "", "Only cases whose name has this text.")
    flags.DEFINE_list("peers", list(_NAMES), "With whom to compare.")
    flags.DEFINE_integer("turns", 7, "Turns of each system.", lower_bound=3)
    flags.DEFINE_float("seconds", 2.0, "About how long a turn takes.", lower_bound=0.01)


def _command(system: str, case: Case) -> list[str]:
    here = {KERAS_3: "step_keras.py", TF_KERAS: "step_keras.py", TFRS: "step_keras.py"}
    if system in here:
        return [sys.executable, str(_HERE / here[system]), system, case.to_json()]
    if system in (REFERENCE, FBGEMM):
        command = [flags.FLAGS.peer_python, str(_HERE / "step_torch.py"), system, case.to_json()]
        return [*command, flags.FLAGS.dlrm_dir] if system == REFERENCE else command
    dtype = ["bfloat16"] if system == _BFLOAT16 else []
    return [sys.executable, str(_HERE / "step_tf_dlrm.py"), case.to_json(), *dtype]


def _measure(case: Case, peer: str) -> dict[str, Any]:
    """Returns the turns of ours and of a peer, and the memory of both."""
    workers = [Worker(_command(system, case)) for system in ("tf_dlrm", peer)]
    steps, seconds = [], flags.FLAGS.seconds
    for worker in workers:
        worker.numbers(2)
        steps.append(max(2, min(2000, round(1000 * seconds / worker.numbers(2)[0]))))
    turns = []
    for _ in range(flags.FLAGS.turns):
        pair = [worker.numbers(n) for worker, n in zip(workers, steps, strict=True)]
        turns.append(pair)
    peaks = [worker.peak_bytes() for worker in workers]
    for worker in workers:
        worker.close()
    tiny = dataclasses.replace(
        case, table_rows=tuple(min(rows, _TINY_ROWS) for rows in case.table_rows)
    )
    small = Worker(_command("tf_dlrm", tiny))
    small.numbers(4)
    peaks.append(small.peak_bytes())
    small.close()
    return {"turns": turns, "peak_bytes": dict(zip(("ours", "peer", "tiny"), peaks, strict=True))}


def _cell(numbers: list[float]) -> str:
    digits = 1 if max(numbers) >= 20 else 2
    middle, least, most = statistics.median(numbers), min(numbers), max(numbers)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| case | floor ms | tf_dlrm ms | times the floor | against | ms | ratio | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case = CASES[result["case"]]
        for place, what in enumerate(("", ", 99th percentile")[: 1 + case.inference]):
            ours, theirs = ([pair[k][place] for pair in result["turns"]] for k in (0, 1))
            ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
            floor = "" if place else f"{result['floor']:.2f}"
            times = "" if place else f"{statistics.median(ours) / result['floor']:.2f}"
            peaks = result["peak_bytes"]
            memory = (peaks["ours"] - peaks["tiny"]) / case.bytes_of_tables()
            cells = [
                result["case"] + what,
                floor,
                _cell(ours),
                times,
                _NAMES[result["peer"]],
                _cell(theirs),
                _cell(ratios),
                "" if place else f"{memory:.2f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _draw(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.32 * len(results)), layout="constrained")
    names, middles, errors = [], [], []
    for result in reversed(results):
        ratios = [theirs[0] / ours[0] for ours, theirs in result["turns"]]
        middle = statistics.median(ratios)
        names.append(f"{result['case']}: {_NAMES[result['peer']]}")
        middles.append(middle)
        errors.append((middle - min(ratios), max(ratios) - middle))
    axes.barh(names, middles, xerr=list(zip(*errors, strict=True)))
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("time of the other's step / time of ours (median, least and most of the turns)")
    part = path.with_suffix(".part")
    figure.savefig(part, format="svg")
    os.replace(part, path)


def main(argv: list[str]) -> None:
    """Measures what is missing, and writes the table and the plot."""
    del argv
    values = flags.FLAGS
    folder = Path(values.output)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "results.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(result["case"], result["peer"]) for result in results}
    work = [
        (name, peer)
        for name, case in CASES.items()
        for peer in (*case.peers, *(() if case.inference else (_BFLOAT16,)))
        if values.cases in name and peer in values.peers and (name, peer) not in done
    ]
    rate = step_floor.product_rate() if work else 0.0
    floors: dict[str, float] = {}
    start = time.monotonic()
    for number, (name, peer) in enumerate(work):
        spent = time.monotonic() - start
        left = f", about {spent / number * (len(work) - number):.0f} s left" if number else ""
        sys.stderr.write(f"{number + 1} of {len(work)}: {name}, {_NAMES[peer]}{left}\n")
        if name not in floors:
            floors[name] = step_floor.milliseconds(CASES[name], rate)
        result = {"case": name, "peer": peer, "floor": floors[name], "gflops": rate / 1e9}
        results.append(result | _measure(CASES[name], peer))
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(results[-1]) + "\n")
    order = list(CASES)
    results.sort(key=lambda result: order.index(result["case"]))
    part = folder / "results.md.part"
    part.write_text(_table(results), encoding="utf-8")
    os.replace(part, folder / "results.md")
    _draw(results, folder / "results.svg")
    sys.stdout.write(_table(results))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
