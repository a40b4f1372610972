"""Kills at random moments: the same command again ends as one that nobody disturbed.

`pytest -m exhaustive tests/end_to_end/test_random_kills.py --hypothesis-seed=7` draws other
moments; the number of kills of each command stands beside it.
"""

import dataclasses
import json
import pathlib
import random
import re
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from killing import Campaign, Command, contents, different
from preloaded import Preloaded

pytestmark = [pytest.mark.exhaustive, pytest.mark.process]

_METRICS = ("auc", "log_loss", "accuracy", "normalized_entropy", "calibration", "step", "examples")
_CLICKS = """format = "csv"
[label]
column = "click"
[dense]
price = {transform = "log1p", missing = 0.0}
[categorical]
city = "text"
tags = {separator = "|"}
"""
_MODEL = ("--embedding_dim=4", "--bottom_mlp=8,4", "--top_mlp=8,1", "--batch_size=99")
_TRAIN = (
    "--data=random",
    "--random_tables=50,60,70",
    "--random_dense_features=4",
    "--random_train_rows=7920",
    "--random_evaluation_rows=350",
    "--shuffle_window_rows=512",
    *_MODEL,
    "--deterministic",
    "--seed=3",
    "--dropout=0.1",
    "--embedding_optimizer=adagrad",
    "--dense_optimizer=adam",
    "--dense_learning_rate=0.01",
    "--epochs=2",
    "--model_dir=out",
    "--checkpoint_every_steps=5",
    "--keep_checkpoints=1000",
    "--eval_every_steps=60",
)
# What has an index is whole for TensorFlow.
_CHECKPOINT = re.compile(r"(out/checkpoints/checkpoint-\d*[05])\.index")
_FINGERPRINT = re.compile(rb'"saved_model/fingerprint.pb": "[0-9a-f]+"')


def _metrics(printed):
    result = json.loads(printed.splitlines()[-1])
    return json.dumps({name: result[name] for name in _METRICS}).encode()


def _run(files):
    """Of a run: its evaluations, some of its checkpoints, its export and its result."""
    found = {name: data for name, data in files.items() if name == "out/metrics.jsonl"}
    found |= {n: d for n, d in files.items() if n.startswith("export/") and "fingerprint" not in n}
    for name in files:
        if match := _CHECKPOINT.fullmatch(name):
            found |= _tensors(files, match[1])
    if "printed" in files:
        found["printed"] = _metrics(files["printed"])
    return found


def _tensors(files, checkpoint):
    """What a checkpoint holds, but for the count of checkpoints: after a signal it is one more."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            if name.startswith(f"{checkpoint}."):
                (pathlib.Path(folder) / name.split("/")[-1]).write_bytes(data)
        reader = tf.train.load_checkpoint(f"{folder}/{checkpoint.split('/')[-1]}")
        names = [n for n in reader.get_variable_to_shape_map() if "save_counter" not in n]
        return {
            f"{checkpoint}: {name}": np.asarray(reader.get_tensor(name)).tobytes()
            for name in names
            if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
        }


def _comparison(files):
    """Of a comparison: all evaluations, and the table but for speeds."""
    found = {name: data for name, data in files.items() if name.endswith("metrics.jsonl")}
    if "out/comparison.json" in files:
        table = json.loads(files["out/comparison.json"], object_hook=_without_speeds)
        found["table"] = json.dumps(table).encode()
    return found


def _without_speeds(entry):
    return {name: value for name, value in entry.items() if "per_second" not in name}


def _saved_model(files):
    """Of an export: all but TensorFlow's fingerprint, which is another one each time."""
    return {
        name: _FINGERPRINT.sub(b"", data)
        for name, data in files.items()
        if "fingerprint.pb" not in name and name != "printed"
    }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, in_process):
    """A folder of what the commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = random.Random(0)

    def line():
        integers = [rng.choice(["", "-1", "0", "3", "250"]) for _ in range(13)]
        texts = [f"{rng.randrange(3 + 50 * k) * 2654435761 % 2**32:08x}" for k in range(26)]
        return "\t".join([str(int(rng.random() < 0.3)), *integers, *texts]) + "\n"

    lines = [line() for _ in range(3000)]
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text("".join(rng.choices(lines, k=30_000)))
    (folder / "clicks.toml").write_text(_CLICKS)
    tags = [f"t{k}" for k in range(50)]
    (folder / "clicks.csv").write_text(
        "click,price,city,tags\n"
        + "".join(
            f"{int(rng.random() < 0.3)},{rng.random():.4f},c{rng.randrange(300)},"
            f"{'|'.join(rng.choices(tags, k=rng.randrange(4)))}\n"
            for _ in range(60_000)
        )
    )
    (folder / "ratings.csv").write_text(
        "userId,movieId,timestamp\n"
        + "".join(
            f"{user},{item},{rng.randrange(10**6)}\n"
            for user in range(300)
            for item in rng.sample(range(500), 20)
        )
    )

    def run(module, *flags):
        in_process(module, *(flag.format(folder) for flag in flags))

    tables = ("--tables=50,60,70", "--dense_features=4")
    run("tfrecords.random", "--rows=60000", "--output_dir={}/dataset", *tables)
    profile = ("--dataset={}/dataset", "--distribution_dir={}/profile")
    run("tfrecords.synthetic", "profile", *profile)
    run("tfrecords.synthetic", "write", "--distribution_dir={}/profile", "--output_dir={}/twin")
    small = "--random_train_rows=3960"
    train = [flag for flag in _TRAIN if "checkpoint" not in flag] + [small]
    run("tf_dlrm.train", *train, "--model_dir={}/run", "--train_steps=20")
    model = ("--model_dir={}/run", "--table_dtype=int8")
    run("tf_dlrm.export", *model, "--export_dir={}/base")
    run("tf_dlrm.train", *train, "--model_dir={}/run")
    increment = ("--incremental_from={}/base", "--export_dir={}/increment")
    run("tf_dlrm.export", *model, *increment)
    run("tfrecords.examples", "export", "--dataset={}/dataset", "--output_dir={}/examples")
    return folder


def _dataset(name, kills, *line, marker="dataset.json"):
    return Command(
        name, kills, line, marker=marker, compared=lambda f: {k: f[k] for k in f if k != "printed"}
    )


_COMMANDS = [
    _dataset(
        "convert_criteo",
        8,
        "tfrecords.convert_criteo",
        "--input={}/one.txt,{}/two.txt",
        "--output_dir=out",
        "--shuffle=total",
        "--memory_gb=0.1",
        "--rows_per_record=512",
    ),
    _dataset(
        "convert",
        6,
        "tfrecords.convert",
        "--schema={}/clicks.toml",
        "--input={}/clicks.csv",
        "--output_dir=out",
        "--shuffle=total",
    ),
    _dataset(
        "leave_one_out",
        4,
        "tfrecords.leave_one_out",
        "--input={}/ratings.csv",
        "--output_dir=out",
        "--passes=5",
    ),
    _dataset(
        "random",
        4,
        "tfrecords.random",
        "--rows=60000",
        "--tables=50,60,70",
        "--output_dir=out",
    ),
    _dataset(
        "synthetic profile",
        3,
        "tfrecords.synthetic",
        "profile",
        "--dataset={}/dataset",
        "--distribution_dir=out",
        marker="profile.json",
    ),
    _dataset(
        "synthetic write",
        3,
        "tfrecords.synthetic",
        "write",
        "--distribution_dir={}/profile",
        "--output_dir=out",
    ),
    Command(
        "synthetic compare",
        2,
        (
            "tfrecords.synthetic",
            "compare",
            "--dataset={}/dataset",
            "--synthetic_dataset={}/twin",
            "--picture_file=out.png",
        ),
        output="out.png",
    ),
    _dataset(
        "examples export",
        3,
        "tfrecords.examples",
        "export",
        "--dataset={}/dataset",
        "--output_dir=out",
        marker="schema.json",
    ),
    _dataset(
        "examples import",
        3,
        "tfrecords.examples",
        "import",
        "--dataset={}/examples",
        "--output_dir=out",
    ),
    Command(
        "inspect --html",
        2,
        ("tfrecords.inspect", "{}/dataset", "--html=out.html"),
        output="out.html",
    ),
    Command("train", 12, ("tf_dlrm.train", *_TRAIN), compared=_run),
    Command(
        "train mirrored",
        6,
        ("tf_dlrm.train", *_TRAIN, "--distribution=mirrored", "--virtual_devices=2"),
        compared=_run,
    ),
    Command(
        "train tpu=host",
        3,
        ("tf_dlrm.train", *_TRAIN, "--distribution=tpu", "--tpu=host", "--tpu_small_table_rows=55"),
        compared=_run,
    ),
    Command(
        "train --export_dir",
        4,
        ("tf_dlrm.train", *_TRAIN, "--train_steps=5", "--export_dir=export"),
        output="export",
        marker="saved_model.pb",
        compared=_run,
    ),
    Command(
        "export int8",
        4,
        ("tf_dlrm.export", "--model_dir={}/run", "--export_dir=out", "--table_dtype=int8"),
        marker="saved_model.pb",
        compared=_saved_model,
    ),
    Command(
        "export increment",
        4,
        (
            "tf_dlrm.export",
            "--model_dir={}/run",
            "--export_dir=out",
            "--table_dtype=int8",
            "--incremental_from={}/base",
        ),
        marker="increment.json",
        compared=_saved_model,
    ),
    Command(
        "fold",
        4,
        ("tf_dlrm.fold", "--base={}/base", "--increment={}/increment", "--export_dir=out"),
        marker="saved_model.pb",
        compared=_saved_model,
    ),
    Command("evaluate", 2, ("tf_dlrm.evaluate", "--model_dir={}/run"), compared=_run),
    Command(
        "compare",
        5,
        (
            "tf_dlrm.compare",
            "--models=dlrm,dcn",
            "--seeds=0,1",
            "--optimizers=sgd",
            "--learning_rates=0.1",
            "--output_dir=out",
            *(flag for flag in _TRAIN if "model_dir" not in flag and "optimizer" not in flag),
        ),
        compared=_comparison,
    ),
]


def _cluster(name, kills, label, distribution, *processes, goes_on=None):
    small = (*_TRAIN, "--random_train_rows=1980", f"--distribution={distribution}")
    line = ("tf_dlrm.launch", "--threads_per_process=1", "--grace_seconds=100", *processes)
    line = (*line, "--", *small)
    return Command(name, kills, line, compared=_run, label=label, goes_on=goes_on)


def _nearly(found, expected):
    """What a batch that was trained on once more may change: digits, but no count."""
    found, expected = (json.loads(files["printed"]) for files in (found, expected))
    for name in ("step", "examples"):
        assert found[name] == expected[name]
    for name in ("auc", "log_loss"):
        assert found[name] == pytest.approx(expected[name], abs=0.02)


_WORKERS = ("multi_worker_mirrored", "--workers=2")
_SERVERS = ("parameter_server", "--workers=1", "--parameter_servers=2")
_COMMANDS += [
    _cluster("two workers: launcher", 2, "", *_WORKERS),
    _cluster("two workers: the first", 3, "worker 0", *_WORKERS),
    _cluster("two workers: the second", 3, "worker 1", *_WORKERS),
    _cluster("servers: launcher", 2, "", *_SERVERS),
    _cluster("servers: chief", 3, "the chief", *_SERVERS),
    _cluster("servers: one of two", 3, "parameter server 1", *_SERVERS),
    _cluster("servers: worker", 4, "worker 0", *_SERVERS, goes_on=_nearly),
]


@pytest.fixture
def say(pytestconfig):
    """Prints a line of the table at once."""
    manager = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line):
        with manager.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)

    return say


@pytest.fixture(scope="module")
def preloaded():
    process = Preloaded()
    yield process
    process.end()


@pytest.fixture
def line(command, request):
    """The command's line, with the folder of its inputs, which have to stay as they are."""
    if not any("{}" in flag for flag in command.line):
        yield command.line
        return
    inputs = request.getfixturevalue("inputs")
    before = contents(inputs)
    yield tuple(flag.replace("{}", str(inputs)) for flag in command.line)
    assert different(contents(inputs), before) == []


@pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command.name)
def test_the_same_command_again_ends_as_an_undisturbed_one(
    command, line, say, tmp_path, pytestconfig, preloaded
):
    seed = pytestconfig.getoption("--hypothesis-seed")
    campaign = Campaign(dataclasses.replace(command, line=line), tmp_path, seed, preloaded)
    try:
        campaign.run()
    finally:
        say(campaign.row())
