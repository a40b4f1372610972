"""dataset.json, twin.json and vocabularies that somebody edited: a sentence, never a traceback."""

import json
import os
import shutil

import numpy as np
import pytest

from tfrecords import verify
from tfrecords.conversion.vocabulary_files import read_vocabulary, write_vocabulary
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.twin import Twin
from tfrecords.writer import DatasetWriter


@pytest.fixture
def edited(tmp_path):
    """Writes a data set of two files and changes what dataset.json says; returns the folder."""

    def edit(change):
        path = tmp_path / "set"
        schema = Schema((), (CategoricalColumn("a", 9),))
        with DatasetWriter(str(path), schema, {}, rows_per_record=4, records_per_file=2) as writer:
            writer.write("train", {"a": np.arange(18) % 9}, np.arange(18) % 2)
        info = write_vocabulary(str(path), "a", np.arange(8, dtype=np.uint64), 1)
        value = json.loads((path / "dataset.json").read_text())
        value["vocabularies"] = {"a": vars(info)}
        (path / "dataset.json").write_text(json.dumps(value))
        assert not list(verify.problems(str(path), DatasetInfo.load(str(path))))
        text = change(value)
        (path / "dataset.json").write_text(text if isinstance(text, str) else json.dumps(value))
        return str(path)

    return edit


def _set(*keys):
    *way, last, new = keys

    def change(value):
        for key in way:
            value = value[key]
        value[last] = new

    return change


_SPLIT = ("splits", "train")
_FILE = (*_SPLIT, "files", 1)
_EDITS = [
    (_set(*_SPLIT, "rows", -5), "rows of a split must be a whole number of at least 0, not -5"),
    (_set(*_SPLIT, "rows", "18"), "rows of a split must be a whole number .* not '18'"),
    (_set(*_SPLIT, "rows", True), "rows of a split must be a whole number .* not True"),
    (_set(*_SPLIT, "rows", 10**30), "rows of a split must be a whole number .* not 1000"),
    (_set(*_SPLIT, "rows", 19), "A split has 19 rows, but its files have 18"),
    (_set(*_SPLIT, "files", []), "A split has 18 rows, but its files have 0"),
    (_set(*_SPLIT, "files", 3), "of a wrong type"),
    (_set(*_SPLIT, "files", [7]), "of a wrong type"),
    (_set(*_SPLIT, "rows_per_record", 0), "rows_per_record must be a whole number of at least 1"),
    (_set(*_SPLIT, "rows_per_record", 1e30), "rows_per_record must be a whole number"),
    (_set(*_SPLIT, "rows_per_record", 5), "which does not fit 5 rows to a record"),
    (_set(*_SPLIT, "label_sum", "x"), "label_sum must be a number from 0 to 18, not 'x'"),
    (_set(*_SPLIT, "label_sum", 1e300), "label_sum must be a number from 0 to 18"),
    (_set(*_SPLIT, "label_sum", -1), "label_sum must be a number from 0 to 18"),
    (_set(*_SPLIT, "label_sum", None), "label_sum must be a number from 0 to 18, not None"),
    (_set("splits", [1]), "of a wrong type"),
    (_set("splits", "../x", {}), "missing, unknown or of a wrong type"),
    (_set(*_FILE, "path", "/etc/passwd"), "path below the folder, .*, not '/etc/passwd'"),
    (_set(*_FILE, "path", "../set/train-00001.tfrecord"), "must be a path below the folder"),
    (_set(*_FILE, "path", "s3://bucket/x"), "must be a path below the folder"),
    (_set(*_FILE, "path", 5), "must be a path below the folder, .* not 5"),
    (_set(*_FILE, "path", ""), "must be a path below the folder, .* not ''"),
    (_set(*_FILE, "rows", 0), "rows of the file 'train-00001.tfrecord' must be a whole number"),
    (_set(*_FILE, "size", "big"), "size of the file 'train-00001.tfrecord' must be a whole number"),
    (_set(*_FILE, "size", -1), "size of the file 'train-00001.tfrecord' must be a whole number"),
    (_set(*_FILE, "crc32c", 12), "crc32c of the file .* must be eight hex digits, not 12"),
    (_set(*_FILE, "offsets", [0, "a"]), "An offset of the file .* must be a whole number"),
    (_set(*_FILE, "offsets", [0, 0]), "must ascend"),
    (_set(*_FILE, "offsets", [0, 10**9]), "must ascend and be below its size"),
    (_set(*_FILE, "offsets", []), "must begin with 0"),
    (_set(*_FILE, "offsets", 7), "of a wrong type"),
    (
        _set("vocabularies", "a", "path", "../a.npy"),
        "path of a vocabulary must be a path",
    ),
    (
        _set("vocabularies", "a", "values", "8"),
        "values of the vocabulary .* must be a whole",
    ),
    (_set("vocabularies", "b", {}), "missing, unknown or of a wrong type"),
    (_set("vocabularies", 5), "of a wrong type"),
    (_set("schema", []), "The schema cannot be read"),
    (
        _set("schema", "categorical", 0, "vocabulary_size", 10**30),
        "vocabulary_size must be a",
    ),
    (_set("schema", "categorical", 0, "hotness", 1e9), "hotness must be a whole number"),
    (lambda value: "[" * 100_000, "is nested too deeply"),
    (lambda value: "9" * 5000, "is not JSON|does not describe a data set"),
    (lambda value: "\xff{", "is not JSON"),
]


@pytest.mark.parametrize(("change", "sentence"), _EDITS, ids=range(len(_EDITS)))
def test_an_edited_description(edited, change, sentence):
    with pytest.raises(DataError, match=sentence):
        DatasetInfo.load(edited(change))


def test_a_data_set_without_rows_is_not_well(edited, tmp_path, run_command):
    def empty(value):
        value["splits"] = {}

    done = run_command("tfrecords.inspect", edited(empty))
    assert done.code == 1 and "has no row in any split" in done.err and "All" not in done.out


@pytest.mark.parametrize("which", ["file", "folder", "vocabulary"])
def test_links_are_not_followed(edited, tmp_path, which):
    def nested(value):
        if which == "folder":
            value["splits"]["train"]["files"][1]["path"] = "deep/train-00001.tfrecord"

    folder = edited(nested)
    name = {"file": "train-00001.tfrecord", "vocabulary": "vocabulary"}.get(which, "deep")
    if which == "folder":
        os.makedirs(tmp_path / "else")
        shutil.move(os.path.join(folder, "train-00001.tfrecord"), tmp_path / "else")
        os.symlink(tmp_path / "else", os.path.join(folder, "deep"))
    else:
        shutil.move(os.path.join(folder, name), tmp_path / "else")
        os.symlink(tmp_path / "else", os.path.join(folder, name))
    with pytest.raises(DataError, match=f"{name} is a link, which is not followed"):
        DatasetInfo.load(folder)
    said = list(verify.problems(folder, DatasetInfo.load_description(folder)))
    assert len(said) == 1 and "is a link" in said[0]


def test_a_folder_that_is_a_link_itself_is_the_users_own(edited, tmp_path):
    os.symlink(edited(lambda value: None), tmp_path / "link")
    assert DatasetInfo.load(str(tmp_path / "link")).splits["train"].rows == 18


@pytest.mark.parametrize("kind", ["pickle", "shape", "type", "zip", "text", "cut"])
def test_a_vocabulary_that_is_none(tmp_path, kind):
    info = write_vocabulary(str(tmp_path), "a", np.arange(8, dtype=np.uint64), 1)
    path = tmp_path / info.path
    assert read_vocabulary(str(tmp_path), info).tolist() == list(range(8))
    if kind == "pickle":
        np.save(path, np.array([print, 1], object), allow_pickle=True)
    elif kind == "zip":
        with open(path, "wb") as file:
            np.savez(file, a=np.arange(8))
    elif kind in ("text", "cut"):
        path.write_bytes(b"hello" if kind == "text" else path.read_bytes()[:100])
    else:
        np.save(path, np.zeros((2, 4), np.uint64) if kind == "shape" else np.zeros(8))
    other = vars(info) | {"size": path.stat().st_size, "crc32c": verify.file_crc(str(path))}
    assert read_vocabulary(str(tmp_path), type(info)(**other)) is None


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("rows", {"train": "x"}, "'train' cannot have 'x' rows"),
        ("rows", 5, "cannot be used"),
        ("label_rates", {"train": "x"}, r"must lie in \[0, 1\], not 'x'"),
        ("distributions", {"a": "../a"}, "The path of a distribution must be a path below"),
        ("distributions", {"a": "/etc/passwd"}, "The path of a distribution must be a path below"),
        ("row_lengths", {"a": [10**30]}, "cannot be used"),
    ],
)
def test_an_edited_twin(tmp_path, key, value, sentence):
    twin = {
        **{"format": "tf_dlrm synthetic twin", "version": 1, "padding": False},
        "schema": Schema((), (CategoricalColumn("a", 9),)).to_json(),
        **{"rows": {"train": 3}, "label_rates": {"train": 0.5}, "dense_quantiles": {}},
        **{"row_lengths": {}, "distributions": {}, "how_it_was_made": {}},
    }
    (tmp_path / "twin.json").write_text(json.dumps(twin | {key: value}))
    with pytest.raises(DataError, match=sentence):
        Twin.load(str(tmp_path))


def test_a_twin_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "twin.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="twin.json is nested too deeply"):
        Twin.load(str(tmp_path))
