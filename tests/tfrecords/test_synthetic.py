import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.source import SyntheticSource
from tfrecords.traces.trace_file import read_trace
from tfrecords.writer import DatasetWriter

_ROOT = pathlib.Path(__file__).parents[2]
_SAMPLE = "1, 2, 3, 4, 5, 3, 4, 1, 1, 6, 3\n"


@pytest.fixture
def run(run_command, tmp_path):
    """Runs a command with flags: returns its output, or raises what it said."""
    (tmp_path / "trace").write_text(_SAMPLE)

    def call(command, **values):
        given = [f"--{name}={value}" for name, value in values.items()]
        done = run_command("tfrecords.synthetic", command, *given)
        if done.code:
            raise SystemExit(done.err.splitlines()[-1])
        return done.out

    return call


@pytest.fixture
def clicks(tmp_path):
    rng = np.random.default_rng(0)
    schema = Schema(("d",), (CategoricalColumn("A", 99), CategoricalColumn("B", 40, hotness=None)))
    lengths = rng.integers(0, 3, 600)
    ids = (np.arange(600) // 9 + rng.integers(0, 4, 600) + 20).astype(np.int64)
    features = {
        "dense": rng.random((600, 1)),
        "A": ids,
        "B": (rng.integers(0, 40, lengths.sum()), lengths),
    }
    path = str(tmp_path / "clicks")
    with DatasetWriter(path, schema) as writer:
        writer.write("train", features, (rng.random(600) < 0.3).astype(np.float32))
        writer.write("evaluation", features, (rng.random(600) < 0.3).astype(np.float32))
    return path, ids


def test_profile_and_generate_a_trace(run, tmp_path):
    distribution, new = str(tmp_path / "distribution"), str(tmp_path / "new")
    run("profile", trace_file=tmp_path / "trace", distribution_file=distribution)
    lines = pathlib.Path(distribution).read_text().splitlines()
    assert lines[:2] == ["1, 2, 3, 4, 5, 6", "0, 1, 3, 4, 5"]
    np.testing.assert_array_equal(
        [float(share) for share in lines[2].split(", ")], np.cumsum([6, 1, 2, 1, 1]) / 11
    )
    made = []
    for values in ({}, {"seed": 1}, {"worker": 1}, {"table": 1}, {"policy": "rand"}, {}):
        run("generate", distribution_file=distribution, synthetic_file=new, length=300, **values)
        made.append(read_trace(new).tolist())
    assert made[0] == made[-1] and len({str(trace) for trace in made}) == 5
    assert len(made[0]) == 300 and set(made[0]) == {1, 2, 3, 4, 5, 6}
    run(
        "generate",
        distribution_file=distribution,
        synthetic_file=new,
        length=300,
        trace_format="binary",
    )
    assert os.path.getsize(new) == 2400 and read_trace(new, "binary").tolist() == made[0]


def test_profile_options(run, tmp_path):
    path = str(tmp_path / "distribution")
    for values, accesses, first in [
        ({"padding": True}, [1, 2, 3, 4, 5, 6], 9 / 14),
        ({"minimum_of_new": 0.75}, [1, 2, 3, 4, 5, 6], 0.75),
        ({"relabel": True}, [0, 1, 2, 3, 4, 5], 6 / 11),
        ({"length": 3}, [1, 2, 3], 1.0),
    ]:
        run("profile", trace_file=tmp_path / "trace", distribution_file=path, **values)
        distribution = Distribution.read(path)
        assert distribution.accesses.tolist() == accesses
        assert distribution.cumulative[0] == pytest.approx(first)


def test_profile_a_column(run, clicks, tmp_path):
    path = str(tmp_path / "distribution")
    values = {"dataset": clicks[0], "feature": "A", "distribution_file": path}
    wanted = Distribution.of_trace(clicks[1])
    run("profile", relabel=False, **values)
    assert Distribution.read(path).accesses.tolist() == wanted.accesses.tolist()
    run("profile", **values)
    got = Distribution.read(path)
    assert got.accesses.tolist() == list(range(len(wanted.accesses)))
    assert got.cumulative.tolist() == wanted.cumulative.tolist()


def test_a_twin_in_files_has_the_rows_of_the_one_on_the_fly(run, clicks, tmp_path, read_blocks):
    folder, twin = str(tmp_path / "distributions"), str(tmp_path / "twin")
    run("profile", dataset=clicks[0], distribution_dir=folder)
    run("write", distribution_dir=folder, output_dir=twin, rows=900, seed=4)
    written, made = RecordSource(twin), SyntheticSource(folder, {"train": 900}, 4)
    assert written.schema == RecordSource(clicks[0]).schema == made.schema
    assert written.rows("train") == 900 and written.rows("evaluation") == 600
    first = read_blocks(twin, "train")
    second = next(iter(made.batches("train", 900)))
    np.testing.assert_array_equal(first[1], second[1])
    for name in ("dense", "A"):
        np.testing.assert_array_equal(first[0][name], second[0][name])
    assert first[0]["B"] == second[0]["B"].to_list()

    picture = str(tmp_path / "curves.png")
    out = run("compare", dataset=clicks[0], synthetic_dataset=twin, picture_file=picture)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["trace"] for line in lines] == ["A", "B"]
    assert lines[0]["accesses"] == [600, 900] and lines[0]["max_difference"] < 0.15
    assert open(picture, "rb").read(8) == b"\x89PNG\r\n\x1a\n"


def test_compare_traces(run, tmp_path):
    (tmp_path / "same").write_text("7, 8, 9, 10, 11, 9, 10, 7, 7, 12, 9")
    (tmp_path / "other").write_text("1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1")
    for name, expected in (("same", 0.0), ("other", 9 / 11)):
        out = run("compare", trace_file=tmp_path / "trace", synthetic_file=tmp_path / name)
        got = json.loads(out)
        assert got["max_difference"] == pytest.approx(expected, abs=1e-6)
        assert got["accesses"] == [11, 11]


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("profile", {}, "`profile` needs either --trace_file or --dataset."),
        ("profile", {"trace_file": "x", "dataset": "y"}, "needs either"),
        ("profile", {"trace_file": "{}/trace"}, "`profile` needs the flag --distribution_file."),
        ("profile", {"dataset": "{}"}, "`profile` needs the flag --distribution_dir."),
        ("profile", {"dataset": "{}/no", "distribution_dir": "{}/d"}, "There is no data set"),
        ("generate", {"distribution_file": "{}/trace"}, "needs the flag --synthetic_file."),
        (
            "generate",
            {"distribution_file": "{}/trace", "synthetic_file": "{}/s", "length": "5"},
            "trace has 1 lines; it must have three",
        ),
        ("compare", {"trace_file": "{}/trace"}, "needs the flag --synthetic_file."),
        ("compare", {}, "`compare` needs either --trace_file and --synthetic_file"),
        ("write", {"output_dir": "{}/o"}, "`write` needs the flag --distribution_dir."),
        ("write", {"output_dir": "{}/o", "distribution_dir": "{}"}, "is no folder of distr"),
    ],
)
def test_errors_are_sentences(run, tmp_path, command, values, message):
    values = {name: value.format(tmp_path) for name, value in values.items()}
    with pytest.raises(SystemExit) as raised:
        run(command, **values)
    assert str(raised.value).startswith("error: ") and message in str(raised.value)
    assert os.listdir(tmp_path) == ["trace"]


def test_columns_that_are_not_there(run, clicks, tmp_path):
    for values, message in [
        ({"feature": "Z"}, "has no categorical column 'Z'; it has A, B"),
        ({"feature": "A", "split": "test"}, "has no split 'test'; it has evaluation, train"),
    ]:
        with pytest.raises(SystemExit, match=message):
            run("profile", dataset=clicks[0], distribution_file=tmp_path / "d", **values)


@pytest.mark.process
def test_the_command_is_a_process_too(tmp_path):
    (tmp_path / "trace").write_text("1, 2, x")
    for arguments, code, message in [
        (["profile", f"--trace_file={tmp_path}/trace", "--distribution_file=d"], 1, "is 'x'"),
        (["invent"], 1, "Name one command of profile, generate, compare, write"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "tfrecords.synthetic", *arguments],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code and "Traceback" not in done.stderr
        assert message in done.stderr + done.stdout
