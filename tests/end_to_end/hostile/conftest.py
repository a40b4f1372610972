"""One of everything that the commands read, and the check of how a command refuses it."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import re
import shutil
from collections.abc import Callable, Iterator

import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

DESCRIPTION = """
format = "csv"

[label]
column = "click"

[dense]
age = {}
price = {}

[categorical]
site = "text"
user = "integer"
tags = {kind = "text", separator = ";"}
"""
# A model that trains in a second.
SMALL = ("--embedding_dim=4", "--bottom_mlp=8,4", "--top_mlp=8,1", "--batch_size=64")
_RANDOM = ("--tables=50,40", "--dense_features=2", "--rows=600", "--evaluation_rows=200")
_SECONDS = 5
_WAITING = 20
_TRACEBACK = re.compile(r"^Traceback \(most recent call last\)", re.MULTILINE)


@pytest.fixture(scope="session")
def forking() -> Iterator[forked.Forking]:
    process = forked.Forking()
    yield process
    process.end()


def table(rows: int) -> list[tuple[int, int, float, str, int, str]]:
    rng = random.Random(5)
    made = []
    for _ in range(rows):
        site, user = rng.randrange(9), rng.randrange(30)
        tags = ";".join(rng.choice("abcde") for _ in range(rng.randrange(4)))
        click = int(rng.random() < 0.2 + 0.05 * site)
        made.append((click, rng.randrange(90), rng.random(), f"site{site}", user, tags))
    return made


@pytest.fixture(scope="session")
def stock(forking: forked.Forking, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a good one of each input; cases work on copies."""
    at: pathlib.Path = tmp_path_factory.mktemp("stock")

    def make(module: str, *arguments: str) -> None:
        done = forking.run(module, *arguments)
        assert done.code == 0, done.err

    rows = table(700)
    lines = [",".join(map(str, row)) for row in rows]
    (at / "clicks.csv").write_text("click,age,price,site,user,tags\n" + "\n".join(lines) + "\n")
    (at / "clicks.toml").write_text(DESCRIPTION)
    rng = random.Random(7)
    log = []
    for _ in range(140):
        integers = [str(rng.randrange(-2, 99)) if rng.random() > 0.1 else "" for _ in range(13)]
        categories = [f"{rng.randrange(20) * 7919:08x}" for _ in range(26)]
        log.append("\t".join([str(rng.randrange(2)), *integers, *categories]))
    (at / "criteo.txt").write_text("\n".join(log) + "\n")
    ratings = [
        f"{user},{item},4.0,{rng.randrange(10**9)}"
        for user in range(9)
        for item in rng.sample(range(200), 6)
    ]
    (at / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(ratings) + "\n")
    columns = list(zip(*rows, strict=True))
    names = ("click", "age", "price", "site", "user", "tags")
    for split in ("train", "evaluation"):
        (at / "parquet" / split).mkdir(parents=True)
        kept = {n: pa.array(c) for n, c in zip(names, columns, strict=True) if n != "tags"}
        pa.parquet.write_table(pa.table(kept), at / "parquet" / split / "part-0.parquet")
    (at / "parquet.toml").write_text(
        'format = "parquet"\n[label]\ncolumn = "click"\n[dense]\nage = {}\nprice = {}\n'
        '[categorical]\nuser = {kind = "integer", vocabulary_size = 30}\n'
    )
    make(
        "tfrecords.convert",
        f"--schema={at}/clicks.toml",
        f"--input={at}/clicks.csv",
        f"--output_dir={at}/data",
        "--rows_per_record=100",
    )
    make("tfrecords.random", f"--output_dir={at}/random", *_RANDOM)
    make("tfrecords.examples", "export", f"--dataset={at}/random", f"--output_dir={at}/examples")
    train = (
        "tf_dlrm.train",
        f"--data_dir={at}/random",
        *SMALL,
        f"--model_dir={at}/run",
        f"--export_dir={at}/saved",
    )
    make(*train)
    make(*train[:-1], "--epochs=2")
    make(
        "tf_dlrm.export",
        f"--model_dir={at}/run",
        f"--export_dir={at}/increment",
        f"--incremental_from={at}/saved",
    )
    make("tf_dlrm.plan", f"--data_dir={at}/random", "--devices=2", f"--output={at}/plan.json")
    (at / "trace.txt").write_text(",".join(str(rng.randrange(40)) for _ in range(500)) + "\n")
    np.arange(64, dtype="<u8").tofile(at / "trace.bin")
    make(
        "tfrecords.synthetic",
        "profile",
        f"--trace_file={at}/trace.txt",
        f"--distribution_file={at}/distances.txt",
    )
    make(
        "tfrecords.synthetic", "profile", f"--dataset={at}/random", f"--distribution_dir={at}/twin"
    )
    return at


@pytest.fixture
def place(stock: pathlib.Path, tmp_path: pathlib.Path) -> Callable[[str], str]:
    """Returns a function that puts a copy of the stock that a text names as {NAME} in place."""

    def fill(text: str) -> str:
        def copied(match: re.Match[str]) -> str:
            target = tmp_path / match[1]
            source = stock / match[1]
            if source.is_dir() and not target.exists():
                shutil.copytree(source, target, symlinks=True)
            elif source.is_file() and not target.exists():
                shutil.copy(source, target)
            if not target.exists() and not target.is_symlink():
                _special(target)
            return str(target)

        return re.sub(r"\{([a-z_.]+)\}", copied, text)

    return fill


def _special(path: pathlib.Path) -> None:
    """Makes what no command can use, by its name."""
    if path.name == "fifo":
        os.mkfifo(path)
    elif path.name == "dangling":
        path.symlink_to(path.parent / "nothing")
    elif path.name == "loop":
        path.symlink_to(path)
    elif path.name == "empty_folder":
        path.mkdir()
    elif path.name == "other_folder":
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    elif path.name == "locked_folder":
        path.mkdir()
        path.chmod(0o500)
    elif path.name.startswith("empty"):
        path.touch()
    elif path.name.startswith("unreadable"):
        path.touch(mode=0)
    elif path.name.startswith("noise"):
        path.write_bytes(random.Random(3).randbytes(5000))
    elif path.name.startswith("nul"):
        path.write_bytes(bytes(5000))


def _content(folder: pathlib.Path) -> dict[str, str]:
    """What is there, but for the work that a conversion goes on with and folders' locks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not path.is_file():
            found[name] = "no file"
        elif not any(part.startswith(".") for part in name.split("/")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: what for name, what in found.items() if not name.startswith(".")}


@pytest.fixture
def refused(
    forking: forked.Forking, place: Callable[[str], str], tmp_path: pathlib.Path
) -> Callable[..., forked.Done]:
    """Returns a function that runs a command, which must end with a sentence.

    It has all words of a list, or one of a tuple.
    """

    def run(
        module: str,
        *arguments: str,
        words: str | list[str] | tuple[str, ...],
        code: tuple[int, ...] = (1, 2),
        may_change: str = "",
        **options: object,
    ) -> forked.Done:
        filled = [place(argument) for argument in arguments]
        wanted = [place(word) for word in ([words] if isinstance(words, str) else words)]
        before = _content(tmp_path)
        done = forking.run(module, *filled, **options)  # type: ignore[arg-type]
        said = f"{module} {' '.join(filled)}\n{done.out}\n{done.err}\ncode {done.code}"
        assert done.code in code, said
        assert not _TRACEBACK.search(done.err), said
        assert not done.out.startswith("{"), said  # a result
        last = done.err.strip().splitlines()
        fits = any if isinstance(words, tuple) else all
        sentences = [line for line in last if fits(word in line for word in wanted)]
        assert sentences, f"none has {wanted}: {said}"
        assert len(done.err) < 4000, said
        after = _content(tmp_path)
        changed = {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)}
        assert not {name for name in changed if not may_change or not re.match(may_change, name)}, (
            f"{changed}: {said}"
        )
        # A machine that does other work makes a process slower, but not use more of the processor.
        quiet = min(done.silence, max(done.cpu_seconds, done.silence - _WAITING))
        assert quiet < _SECONDS, f"silent for {quiet} s: {said}"
        return done

    return run
