"""Edited and damaged folders that other commands have written: data sets, runs, exports, traces."""

import json
import os
import pathlib
import shlex
import struct

import pytest

from tfrecords.record_format import frame, masked_crc

pytestmark = pytest.mark.exhaustive

SMALL = "--embedding_dim=4 --bottom_mlp=8,4 --top_mlp=8,1 --batch_size=64"
TRAIN = f"tf_dlrm.train --data_dir={{random}} {SMALL}"
INSPECT = "tfrecords.inspect {random}"
EVALUATE = "tf_dlrm.evaluate --model_dir={run} --data_dir={random}"
EXPORT = "tf_dlrm.export --model_dir={run} --export_dir={out}"
RESUME = f"{TRAIN} --model_dir={{run}} --epochs=3"
SAVED = "tf_dlrm.evaluate --saved_model={saved} --data_dir={random}"
INCREMENT = "tf_dlrm.export --model_dir={run} --export_dir={out} --incremental_from={saved}"
FOLD = "tf_dlrm.fold --base={saved} --increment={increment} --export_dir={out}"
PROFILE = "tfrecords.synthetic profile --dataset={random} --distribution_dir={out}"
TO_EXAMPLES = "tfrecords.examples export --dataset={random} --output_dir={out}"
FROM_EXAMPLES = "tfrecords.examples import --dataset={examples} --output_dir={out}"
PLAN = "tf_dlrm.plan --data_dir={random} --devices=2"
PLANNED = f"{TRAIN} --distribution=mirrored --virtual_devices=2 --plan={{plan.json}}"
TWIN = "tfrecords.synthetic write --distribution_dir={twin} --output_dir={out}"
TRAIN_TWIN = f"tf_dlrm.train --data=synthetic --synthetic_dir={{twin}} {SMALL}"
GENERATE = "tfrecords.synthetic generate --distribution_file={distances.txt} --length=50"
GENERATE += " --synthetic_file={out}"
REST = "serving.rest_client --server=localhost:1 --data_dir={random}"


def _set(keys, value):
    """Sets a value in nested JSON, or removes it."""

    def edit(text):
        found = at = json.loads(text)
        for key in keys[:-1]:
            at = at[key]
        if value is _set:
            del at[keys[-1]]
        else:
            at[keys[-1]] = value
        return json.dumps(found).encode()

    return edit


_TEXTS = {
    "empty": lambda text: b"",
    "cut": lambda text: text[: len(text) // 2],
    "noise": lambda text: b"\xff\x00\xfe" * 50,
    "a list": lambda text: b"[]",
    "null": lambda text: b"null",
    "a text": lambda text: b'"x"',
    "deep": lambda text: b"[" * 100_000,
    "a number of 5000 digits": lambda text: b"9" * 5000,
}
_FILE = ("splits", "train", "files", 0)
_DATASET = {
    **_TEXTS,
    "format": _set(["format"], "parquet"),
    "no version": _set(["version"], _set),
    "version": _set(["version"], "1"),
    "no schema": _set(["schema"], _set),
    "schema": _set(["schema"], []),
    "label": _set(["schema", "label"], 5),
    "dense": _set(["schema", "dense"], "I1"),
    "dense twice": _set(["schema", "dense"], ["I1", "I1"]),
    "categorical": _set(["schema", "categorical"], {}),
    "vocabulary of text": _set(["schema", "categorical", 0, "vocabulary_size"], "9"),
    "vocabulary of 0": _set(["schema", "categorical", 0, "vocabulary_size"], 0),
    "vocabulary of 10**30": _set(["schema", "categorical", 0, "vocabulary_size"], 10**30),
    "vocabulary of true": _set(["schema", "categorical", 0, "vocabulary_size"], True),
    "hotness": _set(["schema", "categorical", 0, "hotness"], -1),
    "hotness of text": _set(["schema", "categorical", 0, "hotness"], "1"),
    "a column without a name": _set(["schema", "categorical", 0, "name"], ""),
    "a column called ../x": _set(["schema", "categorical", 0, "name"], "../x"),
    "two of a name": _set(["schema", "categorical", 0, "name"], "C2"),
    "no splits": _set(["splits"], {}),
    "splits": _set(["splits"], [1]),
    "no train": _set(["splits", "train"], _set),
    "rows -5": _set(["splits", "train", "rows"], -5),
    "rows of text": _set(["splits", "train", "rows"], "600"),
    "rows of a fraction": _set(["splits", "train", "rows"], 600.5),
    "rows of 10**25": _set(["splits", "train", "rows"], 10**25),
    "rows_per_record 0": _set(["splits", "train", "rows_per_record"], 0),
    "rows_per_record 1e30": _set(["splits", "train", "rows_per_record"], 1e30),
    "label_sum": _set(["splits", "train", "label_sum"], "x"),
    "label_sum of more": _set(["splits", "train", "label_sum"], 1e9),
    "no files": _set(["splits", "train", "files"], []),
    "files": _set(["splits", "train", "files"], {"a": 1}),
    "path": _set([*_FILE, "path"], 7),
    "path outside": _set([*_FILE, "path"], "../clicks.csv"),
    "absolute path": _set([*_FILE, "path"], "/etc/passwd"),
    "path with nul": _set([*_FILE, "path"], "a\0b"),
    "path of a scheme": _set([*_FILE, "path"], "s3://bucket/a"),
    "size": _set([*_FILE, "size"], "9"),
    "size -1": _set([*_FILE, "size"], -1),
    "crc": _set([*_FILE, "crc32c"], "xyz"),
    "another crc": _set([*_FILE, "crc32c"], "00000000"),
    "offsets": _set([*_FILE, "offsets"], "0"),
    "no offsets": _set([*_FILE, "offsets"], []),
    "offsets beyond": _set([*_FILE, "offsets"], [0, 10**9]),
    "unknown": _set([*_FILE, "colour"], "red"),
}
_SEEN_BY_INSPECT_ONLY = {"another crc"}


@pytest.mark.parametrize("command", [TRAIN, INSPECT], ids=["train", "inspect"])
@pytest.mark.parametrize("edit", _DATASET)
def test_dataset_json(refused, place, edit, command):
    if command == TRAIN and edit in _SEEN_BY_INSPECT_ONLY:
        pytest.skip("TensorFlow checks records one by one")
    if command == INSPECT and edit == "no train":
        pytest.skip("a data set without training rows is one")
    path = pathlib.Path(place("{random}")) / "dataset.json"
    path.write_bytes(_DATASET[edit](path.read_bytes()))
    words = {
        "another crc": "train-00000",
        "no train": "train",
        "no splits": "train" if command == TRAIN else "no row in any split",
    }.get(edit, "dataset.json")
    refused(*shlex.split(command), words=words)


@pytest.mark.parametrize("command", [PROFILE, TO_EXAMPLES, PLAN, REST], ids=[*"abcd"])
@pytest.mark.parametrize("edit", ["empty", "schema", "rows -5", "path outside", "size"])
def test_dataset_json_of_others(refused, place, edit, command):
    path = pathlib.Path(place("{random}")) / "dataset.json"
    path.write_bytes(_DATASET[edit](path.read_bytes()))
    refused(*shlex.split(command), words="dataset.json")


def _length(value):
    header = struct.pack("<Q", value % 2**64)
    return header + struct.pack("<I", masked_crc(header))


_RECORDS = {
    "a byte less": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "flipped": lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:],
    "flipped length": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "noise": lambda data: bytes(range(256)) * (len(data) // 256 + 1),
    "noise of this size": lambda data: (bytes(range(256)) * (len(data) // 256 + 1))[: len(data)],
    "zeros": lambda data: bytes(len(data)),
    "garbage behind": lambda data: data + b"garbage",
    **{
        f"length {name}": lambda data, value=value: _length(value) + data[12:]
        for name, value in (
            ("0", 0), ("1", 1), ("one more", 10**6), ("2**31", 2**31), ("1e9", 10**9),
            ("2**40", 2**40), ("2**62", 2**62), ("2**63", 2**63), ("-1", -1), ("-16", -16),
        )
    },
    "another record": lambda data: b"".join(
        (lambda f, d: (f[0], d, f[1]))(frame(bytes(len(data) - 16)), bytes(len(data) - 16))
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "command", [TRAIN, EVALUATE, INSPECT, PROFILE, TO_EXAMPLES],
    ids=["train", "evaluate", "inspect", "profile", "examples"],
)  # fmt: skip
@pytest.mark.parametrize("edit", _RECORDS)
def test_records(refused, place, edit, command):
    split = "evaluation" if command == EVALUATE else "train"
    path = next(pathlib.Path(place("{random}")).glob(f"{split}-*"))
    path.write_bytes(_RECORDS[edit](path.read_bytes()))
    # That a run began is no result.
    refused(*shlex.split(command), words=path.name)


@pytest.mark.parametrize("kind", ["a folder", "a link", "a dangling link", "a fifo", "unreadable"])
@pytest.mark.parametrize("command", [TRAIN, INSPECT], ids=["train", "inspect"])
@pytest.mark.parametrize("name", ["dataset.json", "train-"])
def test_a_file_of_a_data_set(refused, place, tmp_path, name, command, kind):
    path = next(pathlib.Path(place("{random}")).glob(f"{name}*"))
    if kind == "a link" and name == "dataset.json":
        pytest.skip("whoever makes the folder names it")
    _replace(path, kind)
    refused(*shlex.split(command), words=path.name)


def _replace(path, kind):
    if kind == "unreadable":
        path.chmod(0)
        return
    aside = path.with_name("aside")
    path.rename(aside)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link":
        path.symlink_to(aside)
    elif kind == "a dangling link":
        path.symlink_to(path.parent / "nowhere")
    elif kind == "a fifo":
        os.mkfifo(path)


_CONFIG = ("config",)
_RUN = {
    **_TEXTS,
    "no config": _set(["config"], _set),
    "config": _set(["config"], 5),
    "no model": _set(["config", "model"], _set),
    "model": _set(["config", "model"], ["dlrm"]),
    "another model": _set(["config", "model", "model"], "svm"),
    "model of a number": _set(["config", "model", "model"], 5),
    "embedding_dim of text": _set(["config", "model", "embedding_dim"], "4"),
    "embedding_dim 5": _set(["config", "model", "embedding_dim"], 5),
    "embedding_dim 10**15": _set(["config", "model", "embedding_dim"], 10**15),
    "bottom_mlp": _set(["config", "model", "bottom_mlp"], [8, "x"]),
    "bottom_mlp of text": _set(["config", "model", "bottom_mlp"], "8,4"),
    "ensemble": _set(["config", "model", "ensemble_size"], 100_000),
    "dropout": _set(["config", "model", "dropout"], None),
    "unknown option": _set(["config", "model", "colour"], "red"),
    "optimizer": _set(["config", "optimizer", "embedding_optimizer"], "adamw"),
    "no schema": _set(["schema"], _set),
    "schema": _set(["schema"], "x"),
    "vocabulary": _set(["schema", "categorical", 0, "vocabulary_size"], 10**13),
    "other vocabulary": _set(["schema", "categorical", 0, "vocabulary_size"], 49),
    "fewer columns": _set(["schema", "categorical", 1], _set),
}
# Options that only training reads.
_NOT_BY_ALL = {"optimizer"}


@pytest.mark.parametrize(
    "command", [EVALUATE, EXPORT, RESUME], ids=["evaluate", "export", "resume"]
)
@pytest.mark.parametrize("edit", _RUN)
def test_run_json(refused, place, edit, command):
    path = pathlib.Path(place("{run}")) / "run.json"
    path.write_bytes(_RUN[edit](path.read_bytes()))
    words = (
        "run" if edit in ("embedding_dim 5", "other vocabulary", "fewer columns") else "run.json"
    )
    if command == RESUME:
        words = "run"
    if command == EVALUATE and edit == "vocabulary":
        words = "C1"  # of which it says that no memory holds it
    elif edit in (
        "ensemble",
        "embedding_dim 10**15",
        "vocabulary",
        "other vocabulary",
        "fewer columns",
    ):
        words = "/"
    refused(*shlex.split(command), words=words)


def _checkpoint(place, kind):
    folder = pathlib.Path(place("{run}")) / "checkpoints"
    return max(folder.glob(f"*{kind}"), key=lambda path: path.stat().st_mtime)


_CHECKPOINTS = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: bytes(range(256)) * 4,
    "flipped at the start": lambda data: data[:40] + bytes([data[40] ^ 255]) + data[41:],
}


@pytest.mark.parametrize(
    "command", [EVALUATE, EXPORT, RESUME], ids=["evaluate", "export", "resume"]
)
@pytest.mark.parametrize("kind", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("edit", [*_CHECKPOINTS, "missing", "a folder", "unreadable", "a fifo"])
def test_a_checkpoint(refused, place, edit, kind, command):
    path = _checkpoint(place, kind)
    if edit == "missing":
        path.unlink()
    elif edit in _CHECKPOINTS:
        path.write_bytes(_CHECKPOINTS[edit](path.read_bytes()))
    else:
        _replace(path, edit)
    refused(*shlex.split(command), words=path.name.partition(".")[0].partition("-")[0])


_SAVED = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "noise": lambda data: bytes(range(256)) * 4,
}


@pytest.mark.parametrize(
    ("command", "file"),
    [
        pytest.param(command, file, id=f"{file.partition('*')[0]}-{command.split()[0]}")
        for command in (SAVED, FOLD, INCREMENT)
        for file in ("saved_model.pb", "variables/variables.index", "variables/variables.data-*")
        # Increments have graphs of their own, so that of the base is not read.
        if command == SAVED or file != "saved_model.pb"
    ],
)
@pytest.mark.parametrize("edit", [*_SAVED, "a folder", "unreadable", "a dangling link"])
def test_a_saved_model(refused, place, edit, file, command):
    # The last of several: it has rows of tables. An increment does without the others.
    path = sorted(pathlib.Path(place("{saved}")).glob(file))[-1]
    if edit in _SAVED:
        path.write_bytes(_SAVED[edit](path.read_bytes()))
    else:
        _replace(path, edit)
    refused(*shlex.split(command), words=["saved"])


@pytest.mark.parametrize("edit", _TEXTS)
def test_the_description_of_a_saved_model(refused, place, edit):
    path = pathlib.Path(place("{saved}")) / "assets.extra/run.json"
    path.write_bytes(_TEXTS[edit](path.read_bytes()))
    refused(*shlex.split(SAVED), words="run.json")


_INCREMENT = {
    **_TEXTS,
    "format": _set(["format"], 99),
    "base": _set(["base"], "x"),
    "step": _set(["step"], "5"),
    "checksums": _set(["checksums"], []),
    "no checksums": _set(["checksums"], _set),
    "checksums of others": _set(["checksums"], {"../x": "00"}),
    "changed_rows": _set(["changed_rows"], {"tables": "x"}),
}


@pytest.mark.parametrize("edit", _INCREMENT)
def test_an_increment(refused, place, edit):
    path = pathlib.Path(place("{increment}")) / "increment.json"
    path.write_bytes(_INCREMENT[edit](path.read_bytes()))
    refused(*shlex.split(FOLD), words="increment")


_PLAN = {
    **_TEXTS,
    "no devices": _set(["devices"], _set),
    "devices": _set(["devices"], "2"),
    "8 devices": _set(["devices"], 8),
    "no tables": _set(["tables"], _set),
    "tables": _set(["tables"], 5),
    "a table less": _set(["tables", "C1"], _set),
    "a table more": _set(["tables", "C9"], {"sharding": "row_wise", "devices": [0, 1]}),
    "sharding": _set(["tables", "C1", "sharding"], "diagonal"),
    "devices outside": _set(["tables", "C1", "devices"], [5]),
    "devices of text": _set(["tables", "C1", "devices"], ["0"]),
    "a device below": _set(["tables", "C1", "devices"], [-1]),
}


@pytest.mark.parametrize("edit", _PLAN)
def test_a_plan(refused, place, edit):
    path = pathlib.Path(place("{plan.json}"))
    path.write_bytes(_PLAN[edit](path.read_bytes()))
    refused(*shlex.split(PLANNED), words="plan")


_TWIN = {
    **_TEXTS,
    "no schema": _set(["schema"], _set),
    "schema": _set(["schema"], 4),
    "rows": _set(["rows"], {"train": -5}),
    "rows of text": _set(["rows"], {"train": "x"}),
    "label_rates": _set(["label_rates"], {"train": 7}),
    "label_rates of text": _set(["label_rates"], "x"),
    "version": _set(["version"], 99),
}


@pytest.mark.parametrize("command", [TWIN, TRAIN_TWIN], ids=["write", "train"])
@pytest.mark.parametrize("edit", _TWIN)
def test_a_folder_of_distributions(refused, place, edit, command):
    path = pathlib.Path(place("{twin}")) / "twin.json"
    path.write_bytes(_TWIN[edit](path.read_bytes()))
    refused(*shlex.split(command), words="twin")


_DISTANCES = {
    "empty": lambda text: b"",
    "one line": lambda text: text.split(b"\n")[0],
    "noise": lambda text: b"\xff\0" * 100,
    "utf-16": lambda text: text.decode().encode("utf-16"),
    "texts": lambda text: b"a,b\nc,d\ne,f\n",
    "negative": lambda text: text.replace(b"0", b"-1", 1),
    "nan": lambda text: b"\n".join([*text.split(b"\n")[:2], b"nan,nan", b""]),
    "huge ids": lambda text: b"9" * 40 + b"," + text,
    "descending": lambda text: b"1,2\n0,2,1\n0.2,0.5,1.0\n",
    "more than 1": lambda text: b"1,2\n0,1\n0.5,7.5\n",
    "another number": lambda text: b"1,2\n0,1\n0.5\n",
    "cut": lambda text: text[: len(text) // 3],
}


@pytest.mark.parametrize("edit", _DISTANCES)
def test_a_distribution(refused, place, edit):
    path = pathlib.Path(place("{distances.txt}"))
    path.write_bytes(_DISTANCES[edit](path.read_bytes()))
    refused(*shlex.split(GENERATE), words="distances.txt")


_TRACES = {
    "empty": lambda text: b"",
    "two lines": lambda text: text + text,
    "texts": lambda text: b"1,a,3\n",
    "negative": lambda text: b"1,-2,3\n",
    "huge": lambda text: b"1," + b"9" * 30 + b"\n",
    "fractions": lambda text: b"1,2.5\n",
    "nothing between commas": lambda text: b"1,,2\n",
    "noise": lambda text: b"\xff\xfe\0" * 50,
}


@pytest.mark.parametrize("edit", _TRACES)
def test_a_trace(refused, place, edit):
    path = pathlib.Path(place("{trace.txt}"))
    path.write_bytes(_TRACES[edit](path.read_bytes()))
    command = "tfrecords.synthetic profile --trace_file={trace.txt} --distribution_file={out}"
    refused(*shlex.split(command), words="trace.txt")


@pytest.mark.parametrize(
    "path", ["{nothing}", "{empty_folder}", "{fifo}", "{unreadable}", "/dev/zero"]
)
@pytest.mark.parametrize("file", ["trace", "distribution"])
def test_the_path_of_a_trace(refused, path, file):
    command = "profile --distribution_file={out} --trace_file="
    if file == "distribution":
        command = "generate --length=5 --synthetic_file={out} --distribution_file="
    refused(*shlex.split(f"tfrecords.synthetic {command}{path}"), words=path)


_EXAMPLES = {
    "cut": lambda data: data[:-5],
    "empty": lambda data: b"",
    "noise": lambda data: bytes(range(256)) * 4,
    "flipped": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "length 2**40": lambda data: _length(2**40) + data[12:],
    "length -1": lambda data: _length(-1) + data[12:],
    "no Example": lambda data: b"".join((lambda f: (f[0], b"xyz", f[1]))(frame(b"xyz"))),
    "an empty Example": lambda data: b"".join((lambda f: (f[0], b"", f[1]))(frame(b""))),
}


@pytest.mark.parametrize("edit", _EXAMPLES)
def test_examples(refused, place, edit):
    path = next(pathlib.Path(place("{examples}")).glob("train-*"))
    path.write_bytes(_EXAMPLES[edit](path.read_bytes()))
    refused(*shlex.split(FROM_EXAMPLES), words=path.name if edit != "empty" else "train")


@pytest.mark.parametrize("edit", _TEXTS)
def test_the_schema_of_examples(refused, place, edit):
    path = pathlib.Path(place("{examples}")) / "schema.json"
    path.write_bytes(_TEXTS[edit](path.read_bytes()))
    refused(*shlex.split(FROM_EXAMPLES), words="schema.json")
