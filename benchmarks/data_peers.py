"""Times what others need for a file of Criteo's text; a script for the Python of the peers.

```
PEER_PYTHON benchmarks/data_peers.py --what=dlrm --dlrm_dir=CHECKOUT --input=train.txt
PEER_PYTHON benchmarks/data_peers.py --what=polars --input=train.txt
```

`dlrm` is the preprocessing of facebookresearch/dlrm, from the text to its last `.npz` file, as its
Kaggle script runs it: seven days, rows shuffled. (`max_ind_range` is set, since without it that
code fails on NumPy 2.) `polars` parses the file into typed columns and does nothing with them: no
vocabulary, no output; with text columns left as text, so it is a floor for any conversion.

Prints one JSON object: rows, seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time


def time_dlrm(dlrm_dir: str, path: str, folder: str) -> float:
    """Seconds of facebookresearch/dlrm's preprocessing of a file."""
    sys.path.insert(0, dlrm_dir)
    import data_utils  # type: ignore[import-not-found]

    copy = os.path.join(folder, "train.txt")
    shutil.copyfile(path, copy)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        data_utils.getCriteoAdData(copy, "kaggle", 10_000_000, 0.0, 7, "train", "total", True)
    return time.perf_counter() - start


def time_polars(path: str) -> float:
    """Seconds that polars needs to parse a file, with as many threads as there are cores."""
    import polars  # type: ignore[import-not-found]

    types = [polars.Int8] + [polars.Int32] * 13 + [polars.String] * 26
    start = time.perf_counter()
    polars.read_csv(
        path,
        separator="\t",
        has_header=False,
        quote_char=None,
        schema={f"c{number}": dtype for number, dtype in enumerate(types)},
    )
    return time.perf_counter() - start


def main() -> None:
    """Times what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=("dlrm", "polars"), required=True)
    parser.add_argument("--dlrm_dir", help="Checkout of facebookresearch/dlrm.")
    parser.add_argument("--input", required=True, help="Criteo's text.")
    arguments = parser.parse_args()
    with open(arguments.input, "rb") as file:
        rows = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 24), b""))
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "dlrm":
            seconds = time_dlrm(arguments.dlrm_dir, arguments.input, folder)
        else:
            seconds = time_polars(arguments.input)
    print(json.dumps({"rows": rows, "seconds": seconds}))


if __name__ == "__main__":
    main()
