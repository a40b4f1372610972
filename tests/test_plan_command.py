"""`python -m tf_dlrm.plan` as a user runs it."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.planner import load_hardware
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def plan(run_command):
    """Returns a function that runs the command; it returns the result and the report."""

    def run(*flags: str) -> tuple[dict, str]:
        done = run_command("tf_dlrm.plan", *flags)
        assert done.code == 0, done.err
        assert done.out.count("\n") == 1  # nothing but the result
        return json.loads(done.out), done.err

    return run


@pytest.fixture
def fail(run_command):
    """Returns a function that runs the command, which must fail; it returns what it says."""

    def run(*flags: str) -> str:
        done = run_command("tf_dlrm.plan", *flags)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err
        return done.err

    return run


def _features(rows, dim):
    return [
        FeatureConfig(f"C{k + 1}", TableConfig(f"C{k + 1}", size, dim, optimizer=SGD(0.01)))
        for k, size in enumerate(rows)
    ]


def test_plan_for_given_tables(plan, tmp_path):
    path = tmp_path / "plan.json"
    rows = (100_000, 50, 2000)
    flags = (
        "--tables=100000,50,2000",
        "--hotness=3,1,2.5",
        "--devices=4",
        "--batch_size=4096",
        "--embedding_dim=8",
        "--pin=C2=table_wise:3",
        "--pin=C3=row_wise:1,0",
        f"--output={path}",
    )
    result, report = plan(*flags)
    made = Plan.from_json(path.read_text())
    made.check(_features(rows, 8))
    assert made.devices == result["devices"] == 4
    assert (made.tables["C2"].sharding, made.tables["C2"].devices) == ("table_wise", (3,))
    assert (made.tables["C3"].sharding, made.tables["C3"].devices) == ("row_wise", (1, 0))
    assert made.tables["C1"].reason in report and "Pinned: row_wise:1,0." in report
    assert result["bottleneck"] in report
    assert result["examples_per_second"] == pytest.approx(4096e3 / result["step_ms"])
    # Once more: the same plan, byte by byte.
    text = path.read_text()
    plan(*flags)
    assert path.read_text() == text


def test_plan_for_a_data_set(plan, tmp_path):
    schema = Schema(
        dense=("I1",),
        categorical=(
            CategoricalColumn("site", 5000, 2),
            CategoricalColumn("words", 9000, None),
        ),
    )
    folder = tmp_path / "data"
    lengths = np.array([0, 4, 2, 6] * 25)
    rng = np.random.default_rng(0)
    with DatasetWriter(str(folder), schema) as writer:
        words = (rng.integers(0, 9000, lengths.sum()), lengths)
        writer.write(
            "train",
            {
                "dense": rng.random((100, 1), dtype=np.float32),
                "site": rng.integers(0, 5000, (100, 2)),
                "words": words,
            },
            np.zeros(100, np.float32),
        )
    path = tmp_path / "plan.json"
    common = ("--devices=2", "--batch_size=512", "--embedding_dim=16")
    result, _ = plan(f"--data_dir={folder}", f"--output={path}", *common)
    assert set(Plan.from_json(path.read_text()).tables) == {"site", "words"}
    # Three words in a row on average, found in the rows: the same as told by hand.
    told, _ = plan("--tables=5000,9000", "--hotness=2,3", "--dense_features=1", *common)
    assert result["step_ms"] == pytest.approx(told["step_ms"], rel=1e-9)
    other, _ = plan("--tables=5000,9000", "--hotness=2,4", "--dense_features=1", *common)
    assert other["step_ms"] > result["step_ms"]
    # Vectors of half the bytes are half the traffic of whatever is exchanged by this plan.
    pins = ("--pin=C1=table_wise:0", "--pin=C2=table_wise:1", "--embedding_dim=16", "--devices=2")
    half, _ = plan("--tables=5000,9000", "--communication_dtype=bfloat16", *pins)
    whole, _ = plan("--tables=5000,9000", *pins)
    assert half["exchange_mb"] < 0.9 * whole["exchange_mb"]


def test_how_a_model_scales(plan, tmp_path):
    picture = tmp_path / "scaling.png"
    result, report = plan(
        "--model=mlperf",
        "--devices=1,4",
        "--hardware=a100_node",
        "--embedding_optimizer=adagrad",
        "--batch_size=64",
        "--scaling=weak",
        f"--picture_file={picture}",
    )
    # 187.8M rows x 128 with their accumulators are 192 GB, which one device of 80 GB has not.
    assert [scale["fits"] for scale in result["scales"]] == [False, True]
    assert result["scales"][0]["missing_gb"] == pytest.approx(192.3 - 80, abs=0.2)
    assert result["scales"][1]["step_ms"] > 0 and result["scales"][0]["step_ms"] is None
    assert [scale["batch_size"] for scale in result["scales"]] == [64, 256]
    assert "| 1 | 64 | does not fit: " in report
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_calibrate_writes_what_hardware_reads(plan, fail, tmp_path, monkeypatch):
    # Measuring is tested in planner.
    measured = dataclasses.replace(load_hardware("cpu"), gemm_gflops=123.0)
    monkeypatch.setattr("tf_dlrm.planner.calibrate.calibrate", lambda: measured)
    path = tmp_path / "here.toml"
    result, report = plan(f"--calibrate={path}")
    assert result == {"hardware": str(path)}
    assert load_hardware(str(path)).gemm_gflops == 123.0
    assert f"gemm_gflops = {load_hardware(str(path)).gemm_gflops}" in report
    text = path.read_text().replace("intra_host_gbs", "intra_host")
    path.write_text(text)
    error = fail("--tables=10", f"--hardware={path}")
    assert f"plan: {path}: there is no entry 'intra_host'" in error


def test_what_does_not_fit_is_an_error_with_ways_out(fail):
    error = fail("--model=trillions", "--hardware=a100_node", "--embedding_optimizer=adagrad")
    assert "plan: The tables do not fit: " in error
    assert "- Row-wise Adagrad (--embedding_optimizer=rowwise_adagrad)" in error


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "Give one of --data_dir, --model and --tables"),
        (["--model=mlperf", "--tables=10"], "Give one .* given are --model, --tables."),
        (["--tables=10,0"], "--tables=10,0 must be 1 or more."),
        (["--devices=2,2"], "--devices=2,2 must name different numbers."),
        (["--devices=0"], "--devices=0 must be 1 or more."),
        (["--batch_size=0"], "--batch_size=0 must be 1 or more."),
        (["--devices=1,2", "--output=x"], "--output=x needs a single number"),
        (["--picture_file=x"], "--picture_file=x needs several numbers"),
        (["--popular_first"], "--popular_first needs --alpha"),
        (["--alpha=-1"], "--alpha=-1.0 must be between 0 and 20."),
        (["--output=no/where"], "--output=no/where: there is no folder no."),
        (["--hotness=1,two"], "--hotness=1,two must be numbers."),
        (["--pin=C1=row_wise", "--pin=C1=table_wise"], "--pin names a table twice."),
        (["--bottom_mlp=8,4"], "--bottom_mlp=8,4 must end in the --embedding_dim, 16, for"),
        (["x"], "Unexpected argument 'x'"),
        (["--hotness=1,2,3"], "--hotness has 3 numbers, but there are 1"),
        (["--pin=C2=row_wise"], "The pin C2=row_wise names no table"),
        (["--data_dir=/no/such"], "There is no data set folder '/no/such'."),
    ],
)
def test_wrong_values(fail, flags, sentence):
    given = any(flag.startswith(("--tables", "--data_dir")) for flag in flags)
    error = fail(*([] if given or not flags else ["--tables=10"]), *flags)
    assert re.match(f"plan: {sentence}", error.splitlines()[-1])


@pytest.mark.process
def test_the_command_runs_in_a_process_of_its_own():
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-m", "tf_dlrm.plan", "--tables=10,20", "--devices=2"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["devices"] == 2
