"""Machines that lack something: room, memory, rights, a cluster, or somewhere to write."""

import json
import shlex

import pytest

pytestmark = pytest.mark.exhaustive

SMALL = "--embedding_dim=4 --bottom_mlp=8,4 --top_mlp=8,1 --batch_size=64"
TRAIN = f"tf_dlrm.train --data_dir={{random}} {SMALL}"
# Of each command that writes, all but the path, and the flag of the path.
_WRITERS = {
    "train": (TRAIN, "model_dir"),
    "train, export": (TRAIN, "export_dir"),
    "export": ("tf_dlrm.export --model_dir={run}", "export_dir"),
    "increment": (
        "tf_dlrm.export --model_dir={run} --incremental_from={saved}",
        "export_dir",
    ),
    "fold": ("tf_dlrm.fold --base={saved} --increment={increment}", "export_dir"),
    "compare": (f"tf_dlrm.compare --data_dir={{random}} {SMALL}", "output_dir"),
    "criteo": ("tfrecords.convert_criteo --input={criteo.txt}", "output_dir"),
    "convert": ("tfrecords.convert --schema={clicks.toml} --input={clicks.csv}", "output_dir"),
    "ratings": (
        "tfrecords.leave_one_out --input={ratings.csv} --evaluation_negatives=9",
        "output_dir",
    ),
    "random": ("tfrecords.random --rows=500 --evaluation_rows=50 --tables=9", "output_dir"),
    "examples export": ("tfrecords.examples export --dataset={random}", "output_dir"),
    "examples import": ("tfrecords.examples import --dataset={examples}", "output_dir"),
    "profile": ("tfrecords.synthetic profile --dataset={random}", "distribution_dir"),
    "twin": ("tfrecords.synthetic write --distribution_dir={twin}", "output_dir"),
}
_FILES = {
    "plan": ("tf_dlrm.plan --tables=100 --devices=2", "output"),
    "picture": ("tf_dlrm.plan --tables=100 --devices=2,4", "picture_file"),
    "trace": (
        "tfrecords.synthetic generate --distribution_file={distances.txt} --length=50",
        "synthetic_file",
    ),
    "distribution": (
        "tfrecords.synthetic profile --trace_file={trace.txt}",
        "distribution_file",
    ),
    "page": ("tfrecords.inspect {random}", "html"),
}


@pytest.mark.parametrize("path", ["{clicks.csv}", "{clicks.csv}/x", "{other_folder}",
                                  "{locked_folder}/x", "/dev/full", "/proc/x"])  # fmt: skip
@pytest.mark.parametrize("writer", _WRITERS)
def test_a_folder_that_cannot_be_written(refused, place, writer, path):
    command, flag = _WRITERS[writer]
    if path == "{other_folder}" and flag == "model_dir":
        pytest.skip("a run may have other files beside it")
    if path == "{other_folder}" and writer == "compare":
        pytest.skip("so may a comparison")
    words = place(path).removesuffix("/x") if path != "/proc/x" else "/proc"
    refused(*shlex.split(command), f"--{flag}={path}", words=words)


@pytest.mark.parametrize("path", ["{empty_folder}", "{clicks.csv}/x", "{locked_folder}/x",
                                  "/dev/full", "/proc/x"])  # fmt: skip
@pytest.mark.parametrize("writer", _FILES)
def test_a_file_that_cannot_be_written(refused, place, writer, path):
    command, flag = _FILES[writer]
    words = place(path).removesuffix("/x")
    refused(*shlex.split(command), f"--{flag}={path}", words=words)


@pytest.mark.parametrize("writer", [*_WRITERS, *_FILES])
def test_a_disk_that_is_full(refused, writer):
    """No file may have more than some bytes, which is how a full disk looks to a program."""
    command, flag = {**_WRITERS, **_FILES}[writer]
    limit = {"plan": 50, "distribution": 50, "trace": 20, "train": 300}.get(writer, 700)
    refused(
        *shlex.split(command),
        f"--{flag}={{out}}",
        words="out",
        limits={"FSIZE": limit},
        # What a run has got so far is whole; it goes on from there.
        may_change=r"out($|/.*)" if flag in ("model_dir",) or writer == "compare" else "",
    )


_PRINTERS = {
    "train": TRAIN,
    "evaluate": "tf_dlrm.evaluate --model_dir={run} --data_dir={random}",
    "plan": "tf_dlrm.plan --tables=100 --devices=2",
    "describe": "tfrecords.convert --describe={clicks.csv}",
    "inspect": "tfrecords.inspect {random}",
    "compare traces": "tfrecords.synthetic compare --trace_file={trace.txt} "
    "--synthetic_file={trace.txt}",
}


@pytest.mark.parametrize("out", ["/dev/full", "closed"])
@pytest.mark.parametrize("printer", _PRINTERS)
def test_output_that_goes_nowhere(refused, printer, out):
    words = {"/dev/full": "Standard output: No space", "closed": "Standard output is closed"}[out]
    refused(*shlex.split(_PRINTERS[printer]), words=words, out=out)


def _cluster(**changes):
    value = {
        "cluster": {"worker": ["127.0.0.1:9", "127.0.0.1:10"]},
        "task": {"type": "worker", "index": 0},
    }
    return json.dumps({**value, **changes})


_TF_CONFIG = {
    "empty": "",
    "text": "worker",
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "nothing": "{}",
    "deep": "[" * 100_000,
    "no task": json.dumps({"cluster": {"worker": ["a:1", "b:2"]}}),
    "no cluster": json.dumps({"task": {"type": "worker", "index": 0}}),
    "cluster": _cluster(cluster=5),
    "no workers": _cluster(cluster={}),
    "workers of text": _cluster(cluster={"worker": "a:1"}),
    "workers of numbers": _cluster(cluster={"worker": [1, 2]}),
    "no port": _cluster(cluster={"worker": ["a", "b"]}),
    "port 99999": _cluster(cluster={"worker": ["a:99999", "b:1"]}),
    "one address twice": _cluster(cluster={"worker": ["127.0.0.1:9", "127.0.0.1:9"]}),
    "unknown role": _cluster(cluster={"boss": ["a:1"]}),
    "task": _cluster(task=3),
    "type": _cluster(task={"type": "boss", "index": 0}),
    "index 9": _cluster(task={"type": "worker", "index": 9}),
    "index -1": _cluster(task={"type": "worker", "index": -1}),
    "index of text": _cluster(task={"type": "worker", "index": "first"}),
    "index of a fraction": _cluster(task={"type": "worker", "index": 0.5}),
}


@pytest.mark.parametrize("distribution", ["multi_worker_mirrored", "parameter_server"])
@pytest.mark.parametrize("value", _TF_CONFIG)
def test_tf_config(refused, distribution, value):
    refused(
        *shlex.split(f"{TRAIN} --distribution={distribution} --model_dir={{out}}"),
        words="TF_CONFIG",
        environment={"TF_CONFIG": _TF_CONFIG[value]},
    )


_HUGE = f"{TRAIN.replace('--data_dir={random}', '--data=random')} --random_train_rows=64"
_MEMORY = {
    "a table": (f"{_HUGE} --random_tables=99999999999999", "random_tables"),
    "two tables": (f"{_HUGE} --random_tables=9000000000,9000000000", "GB"),
    "a dim": (
        "tf_dlrm.train --data=random --random_tables=1000000 --embedding_dim=1000000 "
        "--bottom_mlp=8,1000000",
        "GB",
    ),
    "a layer": (
        "tf_dlrm.train --data=random --random_tables=9 --embedding_dim=4 --bottom_mlp=8,4 "
        "--top_mlp=1000000,1000000,1",
        "top_mlp",
    ),
    "a batch": (
        "tf_dlrm.train --data=random --random_tables=9 --random_train_rows=100000000000 "
        "--embedding_dim=4 --bottom_mlp=8,4 --top_mlp=8,1 --batch_size=2147483647",
        "batch_size",
    ),
    "many tables": (f"{_HUGE} --random_tables={','.join(['9'] * 20_000)}", "random_tables"),
    "traces": (
        "tfrecords.synthetic generate --distribution_file={distances.txt} "
        "--synthetic_file={out} --length=1000000000000",
        "length",
    ),
    "rows": ("tfrecords.random --output_dir={out} --rows=1000000000000", "rows"),
}


@pytest.mark.parametrize("what", _MEMORY)
def test_more_than_the_machine_has(refused, what):
    command, words = _MEMORY[what]
    refused(*shlex.split(command), words=words)


_VARIABLES = [
    ("TF_DLRM_KERNELS", "perhaps"),
    ("TF_DLRM_FAULT", "nonsense"),
]


@pytest.mark.parametrize(("name", "value"), _VARIABLES)
def test_a_variable(refused, name, value):
    command = f"{TRAIN} --model_dir={{out}} --checkpoint_every_steps=2"
    refused(*shlex.split(command), words=name, environment={name: value}, may_change="out")


_FLAG_FILES = {
    "noise": b"--batch_size=\xff\xfe\x00",
    "a wrong value": b"--batch_size=x\n",
    "an unknown flag": b"--no_such_flag=1\n",
    "no flag": b"batch_size=3\n",
    "utf-16": "--batch_size=3\n".encode("utf-16"),
    "a value with a carriage return": b"--distribution=one\rdevice\n",
}


@pytest.mark.parametrize("text", _FLAG_FILES)
def test_a_flag_file(refused, tmp_path, text):
    path = tmp_path / "my.flags"
    path.write_bytes(_FLAG_FILES[text])
    words = {"a wrong value": "batch_size", "an unknown flag": "no_such_flag", "no flag": "batch_",
             "a value with a carriage return": "distribution"}.get(text, "flag")  # fmt: skip
    refused("tf_dlrm.train", "--data_dir={random}", f"--flagfile={path}", words=words)


@pytest.mark.parametrize("path", ["{nothing}", "{empty_folder}", "{unreadable.flags}", "{loop}"])
@pytest.mark.parametrize("command", ["tf_dlrm.train", "tf_dlrm.plan", "tfrecords.random"])
def test_the_path_of_a_flag_file(refused, command, path):
    refused(command, f"--flagfile={path}", "--output_dir={out}", words=path)
