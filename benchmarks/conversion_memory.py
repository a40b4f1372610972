"""How much memory a conversion takes, by the number of rows and of different values.

```
python -m benchmarks.conversion_memory --input=train.txt --rows=1000000,20000000
```

The input is repeated to the wanted number of rows, so that the vocabularies stay the same: what
grows is then not the vocabularies. Prints the greatest resident size of the whole program.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import app, flags

_INPUT = flags.DEFINE_string("input", None, "Criteo text.", required=True)
_ROWS = flags.DEFINE_list("rows", ["1000000", "20000000"], "Numbers of rows to convert.")
_OPTIONS = flags.DEFINE_list("options", [], "Further flags of convert_criteo, without dashes.")
_FOLDER = flags.DEFINE_string("folder", None, "Where temporary files go; default: the system's.")


def write_repeated(lines: list[bytes], rows: int, path: str) -> None:
    """Writes `rows` lines, beginning anew when they end."""
    with open(path, "wb") as file:
        file.writelines(itertools.islice(itertools.cycle(lines), rows))


def peak_of_conversion(path: str, output_dir: str, options: list[str]) -> tuple[int, float]:
    """Greatest resident size in bytes, and seconds, of a conversion in a process of its own.

    Raises:
        RuntimeError: If the conversion fails.
    """
    command = [sys.executable, "-m", "tfrecords.convert_criteo"]
    command += [f"--input={path}", f"--output_dir={output_dir}", *(f"--{o}" for o in options)]
    start = time.perf_counter()
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}.")
    return usage.ru_maxrss * 1024, time.perf_counter() - start


def main(argv: Sequence[str]) -> None:
    """Converts files of each size and prints a table."""
    del argv
    lines = pathlib.Path(_INPUT.value).read_bytes().rstrip(b"\n").split(b"\n")
    lines = [line + b"\n" for line in lines]
    sys.stdout.write("| rows | peak MB | rows/s, the whole program |\n|---|---|---|\n")
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        path = os.path.join(folder, "input.txt")
        for rows in map(int, _ROWS.value):
            write_repeated(lines, rows, path)
            peak, seconds = peak_of_conversion(path, os.path.join(folder, "set"), _OPTIONS.value)
            sys.stdout.write(f"| {rows:,} | {peak / 1e6:,.0f} | {rows / seconds:,.0f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
