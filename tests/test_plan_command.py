"""`python -m tf_dlrm.plan` as a user runs it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tf_dlrm.embeddings import FeatureConfig, TableConfig
from tf_dlrm.embeddings.plan import Plan
from tf_dlrm.embeddings.planner import load_hardware
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

ROOT = pathlib.Path(__file__).parents[1]


def _run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tf_dlrm.plan", *flags],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def _plan(*flags: str) -> tuple[dict, str]:
    process = _run(*flags)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("\n") == 1  # nothing but the result
    return json.loads(process.stdout), process.stderr


def _fail(*flags: str) -> str:
    process = _run(*flags)
    assert process.returncode == 2, process.stderr
    assert process.stdout == "" and "Traceback" not in process.stderr
    return process.stderr


def _features(rows, dim):
    return [
        FeatureConfig(f"C{k + 1}", TableConfig(f"C{k + 1}", size, dim))
        for k, size in enumerate(rows)
    ]


def test_plan_for_given_tables(tmp_path):
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
    result, report = _plan(*flags)
    plan = Plan.from_json(path.read_text())
    plan.check(_features(rows, 8))
    assert plan.devices == result["devices"] == 4
    assert (plan.tables["C2"].sharding, plan.tables["C2"].devices) == ("table_wise", (3,))
    assert (plan.tables["C3"].sharding, plan.tables["C3"].devices) == ("row_wise", (1, 0))
    assert plan.tables["C1"].reason in report and "Pinned: row_wise:1,0." in report
    assert result["bottleneck"] in report
    assert result["examples_per_second"] == pytest.approx(4096e3 / result["step_ms"])
    # Once more: the same plan, byte by byte.
    text = path.read_text()
    _plan(*flags)
    assert path.read_text() == text


def test_plan_for_a_data_set(tmp_path):
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
    result, _ = _plan(f"--data_dir={folder}", f"--output={path}", *common)
    assert set(Plan.from_json(path.read_text()).tables) == {"site", "words"}
    # Three words in a row on average, found in the rows: the same as told by hand.
    told, _ = _plan("--tables=5000,9000", "--hotness=2,3", "--dense_features=1", *common)
    assert result["step_ms"] == pytest.approx(told["step_ms"], rel=1e-9)
    other, _ = _plan(f"--data_dir={folder}", "--hotness=2,4", *common)
    assert other["step_ms"] > result["step_ms"]


def test_how_a_model_scales(tmp_path):
    picture = tmp_path / "scaling.png"
    result, report = _plan(
        "--model=mlperf",
        "--devices=1,8,16",
        "--hardware=a100_node",
        "--embedding_optimizer=adagrad",
        "--batch_size=64",
        f"--picture_file={picture}",
    )
    # 187.8M rows x 128 with their accumulators are 192 GB, which one device of 80 GB has not.
    assert [scale["fits"] for scale in result["scales"]] == [False, True, True]
    assert result["scales"][0]["missing_gb"] == pytest.approx(192.3 - 80, abs=0.2)
    assert result["scales"][1]["step_ms"] > 0 and result["scales"][0]["step_ms"] is None
    assert "| 1 | 64 | does not fit: " in report
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_calibrate_writes_what_hardware_reads(tmp_path):
    path = tmp_path / "here.toml"
    result, report = _plan(f"--calibrate={path}")
    assert result == {"hardware": str(path)}
    assert f"gemm_gflops = {load_hardware(str(path)).gemm_gflops}" in report
    text = path.read_text().replace("intra_host_gbs", "intra_host")
    path.write_text(text)
    error = _fail("--tables=10", f"--hardware={path}")
    assert f"plan: {path}: there is no entry 'intra_host'" in error


def test_what_does_not_fit_is_an_error_with_ways_out():
    error = _fail("--model=trillions", "--hardware=a100_node", "--embedding_optimizer=adagrad")
    assert "plan: The tables do not fit: " in error
    assert "- Row-wise Adagrad (--embedding_optimizer=rowwise_adagrad)" in error


WRONG_OPTIONS = [
    ({}, "Give one of --data_dir, --model and --tables"),
    ({"model": "mlperf", "tables": (10,)}, "given are --model, --tables."),
    ({"tables": (10, 0)}, "--tables=10,0 must be positive."),
    ({"tables": (10,), "devices": (2, 2)}, "--devices=2,2 must name different numbers."),
    ({"tables": (10,), "devices": (0,)}, "--devices=0 must be positive."),
    ({"tables": (10,), "batch_size": 0}, "--batch_size=0 must be 1 or more."),
    ({"tables": (10,), "devices": (1, 2), "output": "x"}, "--output=x needs a single number"),
    ({"tables": (10,), "picture_file": "x"}, "--picture_file=x needs several numbers"),
    ({"tables": (10,), "popular_first": True}, "--popular_first needs --alpha"),
    ({"tables": (10,), "alpha": -1.0}, "--alpha=-1.0 must be between 0 and 20."),
    ({"tables": (10,), "output": "no/where"}, "--output=no/where: there is no folder no."),
]
# In a process of its own: the module defines flags, some of which other entry points define too.
VALIDATE = """
import sys
from tf_dlrm.errors import UserError
from tf_dlrm.plan import PlanOptions
for options in eval(sys.argv[1]):
    try:
        PlanOptions(**options).validate()
        print("valid")
    except UserError as error:
        print(error)
"""


def test_wrong_options():
    options = repr([options for options, _ in WRONG_OPTIONS] + [{"tables": (10,)}])
    process = subprocess.run(
        [sys.executable, "-c", VALIDATE, options], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    *errors, last = process.stdout.splitlines()
    assert last == "valid"
    for error, (_, sentence) in zip(errors, WRONG_OPTIONS, strict=True):
        assert sentence in error


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tables=10", "x"], "Unexpected argument 'x'"),
        (["--tables=10,20", "--hotness=1,2,3"], "--hotness has 3 numbers, but there are 2"),
        (["--tables=10", "--pin=C2=row_wise"], "The pin C2=row_wise names no table"),
        (["--data_dir=/no/such"], "There is no data set folder '/no/such'."),
    ],
)
def test_wrong_values(flags, sentence):
    assert f"plan: {sentence}" in _fail(*flags)
