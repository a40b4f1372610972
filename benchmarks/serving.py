"""How fast an exported model answers, against PyTorch's and TFRS's, in one sitting.

    benchmarks/setup_peers.sh PEERS
    python -m benchmarks.serving --peer_python=PEERS/bin/python --dlrm_dir=CHECKOUT --output=FOLDER

The model has Criteo Kaggle's shape (26 tables, 33.8M rows x 16). SavedModels are called in a
session of TensorFlow's C API, as by a server; the paper's code by `torch.inference_mode`, plain,
scripted or compiled, whichever is fastest at the batch size. Ours and one other at a time take
turns. FOLDER gets the SavedModels, `results.jsonl` (run again, the command goes on where it
stopped) and `results.md`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.step_worker import Worker

_HERE = Path(__file__).parent
_NAMES = {
    "pytorch": "facebookresearch/dlrm",
    "tfrs": "TFRS Ranking",
    "int8": "tf_dlrm, int8 tables",
}


def _define_flags() -> None:
    flags.DEFINE_string("dlrm_dir", None, "Checkout of facebookresearch/dlrm.", required=True)
    flags.DEFINE_string("peer_python", None, "Python that has PyTorch.", required=True)
    flags.DEFINE_string("output", None, "Folder of the results.", required=True)
    flags.DEFINE_list("batch_sizes", ["1", "32", "2048"], "Rows in a request.")
    flags.DEFINE_list("peers", list(_NAMES), "With whom to compare.")
    flags.DEFINE_integer("turns", 7, "Turns of each system.", lower_bound=3)
    flags.DEFINE_float("seconds", 2.0, "About how long a turn takes.", lower_bound=0.01)


def _worker(system: str) -> Worker:
    script, python = str(_HERE / "serving_worker.py"), sys.executable
    if system == "pytorch":
        return Worker([flags.FLAGS.peer_python, script, "pytorch", flags.FLAGS.dlrm_dir])
    folder = Path(flags.FLAGS.output) / f"model_{system}"
    if not folder.exists():
        kind = "tfrs" if system == "tfrs" else "tf_dlrm"
        part = folder.with_suffix(".part")
        command = [
            python,
            script,
            "make",
            kind,
            str(part),
            "int8" if system == "int8" else "float32",
        ]
        subprocess.run(command, check=True)
        os.replace(part, folder)
    return Worker([python, script, "saved_model", str(folder)])


def _measure(peer: str, batch: int) -> dict[str, Any]:
    workers = [_worker(system) for system in ("float32", peer)]
    counts = []
    for worker in workers:
        (middle, _) = worker.ask(f"{batch} 10")
        counts.append(max(20, min(20_000, round(1000 * flags.FLAGS.seconds / middle))))
    turns = []
    for _ in range(flags.FLAGS.turns):
        turns.append([w.ask(f"{batch} {n}") for w, n in zip(workers, counts, strict=True)])
    for worker in workers:
        worker.close()
    return {"peer": peer, "batch": batch, "turns": turns}


def _cell(numbers: list[float]) -> str:
    middle, least, most = statistics.median(numbers), min(numbers), max(numbers)
    return f"{middle:.2f} ({least:.2f} to {most:.2f})"


def _table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| batch | tf_dlrm, median ms | 99th percentile | against | median ms | 99th percentile "
        "| ratio of medians |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda r: (list(_NAMES).index(r["peer"]), r["batch"])):
        (ours, ours_99), (theirs, theirs_99) = (
            [[pair[k][place] for pair in result["turns"]] for place in (0, 1)] for k in (0, 1)
        )
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        cells = [_cell(ours), _cell(ours_99), _NAMES[result["peer"]], _cell(theirs),
                 _cell(theirs_99), _cell(ratios)]  # fmt: skip
        lines.append(f"| {result['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    """Measures what is missing, and writes the table."""
    del argv
    folder = Path(flags.FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "results.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(result["peer"], result["batch"]) for result in results}
    work = [(peer, int(b)) for peer in flags.FLAGS.peers for b in flags.FLAGS.batch_sizes]
    for number, (peer, batch) in enumerate(work):
        # TFRS's interaction fails on a request of one row: "slice index 1 of dimension 0".
        if (peer, batch) in done or (peer, batch) == ("tfrs", 1):
            continue
        sys.stderr.write(f"{number + 1} of {len(work)}: {_NAMES[peer]} at batch {batch}\n")
        results.append(_measure(peer, batch))
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(results[-1]) + "\n")
    part = folder / "results.md.part"
    part.write_text(_table(results), encoding="utf-8")
    os.replace(part, folder / "results.md")
    sys.stdout.write(_table(results))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
