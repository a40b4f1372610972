"""Increments and SavedModels that somebody has edited, with checksums that fit the edit."""

import json
import os
import pathlib
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.models import DLRM
from tf_dlrm.serving import increment as increments
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.saved_model import load_saved_model
from tf_dlrm.serving.variable_files import key_of
from tfrecords.record_format import frame, masked_crc

TABLES = key_of("tables", 0)


@pytest.fixture(scope="module")
def increment(exported, rows, tmp_path_factory):
    """From the model `aligned` to one whose row 7 of the first table is of 3.0."""
    model = DLRM(exported["aligned"].model.config)
    before, after = exported["aligned"].model.embeddings.tables, model.embeddings.tables
    for name in ("user", "words"):
        after[name].assign_rows(before[name].read_rows())
    after["user"].assign_rows(np.full((1, 4), 3.0, np.float32), 7)
    folder = str(tmp_path_factory.mktemp("increments") / "increment")
    base = exported["aligned"].folder
    export_model(model, rows.aligned, folder, {"step": 2}, incremental_from=base)
    return pathlib.Path(folder)


@pytest.fixture
def copy(increment, tmp_path):
    return pathlib.Path(shutil.copytree(increment, tmp_path / "increment"))


def seal(copy):
    """Makes the checksums those of the files."""
    path = copy / "increment.json"
    description = json.loads(path.read_text())
    description["checksums"] = increments._checksums(str(copy))
    path.write_text(json.dumps(description))


def check_refused(exported, copy, message):
    target = copy.parent / "folded"
    with pytest.raises(UserError, match=message) as caught:
        increments.fold(exported["aligned"].folder, str(copy), str(target))
    assert "Error(" not in str(caught.value) and str(caught.value).endswith(".")
    assert not target.exists()


def test_the_increment_as_it_was_is_folded(exported, copy):
    answer = increments.fold(exported["aligned"].folder, str(copy), str(copy.parent / "folded"))
    assert answer["changed_rows"] == 1 and answer["step"] == 2
    found = increments.open_variables(str(copy.parent / "folded")).read(TABLES, 0, 80)
    before = increments.open_variables(exported["aligned"].folder).read(TABLES, 0, 80)
    np.testing.assert_array_equal(np.flatnonzero((found != before).any(1)), [7])
    np.testing.assert_array_equal(found[7], [3.0] * 4)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format": 2}, "has the format 2; this program reads 1"),
        ({"format": [1]}, "has the format .1.; this program reads 1"),
        ({"base": 5}, "its 'base' is 5, no fingerprint"),
        ({"base": "0" * 64}, "was made from another SavedModel"),
        ({"step": "2"}, "its 'step' is '2', no whole number"),
        ({"step": -1}, "its 'step' is -1, no whole number"),
        ({"step": 10**20}, "its 'step' is 10*, no whole number"),
        ({"step": True}, "its 'step' is True, no whole number"),
        ({"step": None}, "its 'step' is None, no whole number"),
        ({"changed_rows": []}, r"its 'changed_rows' is \[\], no number for each table"),
        ({"changed_rows": {}}, "its graph has a table .*tables/0.*, of which it has no rows"),
        ({"changed_rows": {TABLES: "1"}}, "'1', no whole number"),
        ({"changed_rows": {TABLES: 2}}, "has not as many rows of tables/0.*increment.json says"),
        ({"changed_rows": {TABLES: 0}}, "has not as many rows of tables/0.*increment.json says"),
        ({"changed_rows": {TABLES: 1, "x": 0}}, "its table x is not in its graph"),
        ({"checksums": {}}, "rows.tfrecord is no file of it"),
        ({"checksums": ["rows.tfrecord"]}, "its 'checksums' is .*, no text for each file"),
        ({"checksums": None}, "its 'checksums' is None, no text for each file"),
    ],
)
def test_descriptions_of_wrong_types(exported, copy, edit, message):
    path = copy / "increment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    check_refused(exported, copy, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds no JSON object"),
        ("{", "is no JSON"),
        ("\xff", "is no JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"step": ' + "9" * 5000 + "}", "is no JSON"),
    ],
)
def test_descriptions_that_are_none(exported, copy, text, message):
    (copy / "increment.json").write_text(text, encoding="latin-1")
    check_refused(exported, copy, message)


def test_a_description_that_is_huge_is_not_read(exported, copy):
    os.truncate(copy / "increment.json", 2**40)
    check_refused(exported, copy, f"has {2**40} bytes, more than any description")


@pytest.mark.parametrize("name", ["rows.tfrecord", "increment.json", "saved_model/variables", "x"])
def test_links_are_not_followed(exported, copy, name):
    elsewhere = copy.parent / "secret"
    if (copy / name).exists():
        shutil.move(copy / name, elsewhere)
    else:
        elsewhere.write_text("secret")
    (copy / name).symlink_to(elsewhere)
    if name == "x":
        seal_with(copy, "x")
    check_refused(exported, copy, f"{name} is a link, so it is not read")


def seal_with(copy, name):
    path = copy / "increment.json"
    description = json.loads(path.read_text())
    description["checksums"][name] = "0"
    path.write_text(json.dumps(description))


def test_pipes_are_not_opened(exported, copy):
    os.mkfifo(copy / "saved_model" / "pipe")
    check_refused(exported, copy, "pipe is no regular file")


def test_files_that_are_not_of_the_increment(exported, copy):
    (copy / "saved_model" / "assets.extra" / "more").write_text("x")
    check_refused(exported, copy, "saved_model/assets.extra/more is no file of it")


def record(table=TABLES, start=0, places=(7,), rows=None):
    values = np.full((len(places), 4), 3.0, "<f4") if rows is None else np.array(rows, "<f4")
    features = {
        "table": tf.train.Feature(bytes_list=tf.train.BytesList(value=[table.encode()])),
        "start": tf.train.Feature(int64_list=tf.train.Int64List(value=[start])),
        "places": tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[np.array(places, "<i8").tobytes()])
        ),
        "rows": tf.train.Feature(bytes_list=tf.train.BytesList(value=[values.tobytes()])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def framed(*records):
    return b"".join(data.join(frame(data)) for data in records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (framed(record(places=[-1])), "places of rows of tables/0.* are not in order within"),
        (framed(record(places=[-80])), "places of rows of tables/0.* are not in order within"),
        (framed(record(places=[80])), "places of rows of tables/0.* are not in order within"),
        (framed(record(places=[2**62])), "places of rows of tables/0.* are not in order within"),
        (framed(record(places=[7, 7])), "places of rows of tables/0.* are not in order within"),
        (framed(record(places=[8, 7])), "places of rows of tables/0.* are not in order within"),
        (framed(record(places=[])), "has not as many rows of tables/0.*as increment.json says"),
        (framed(record(places=[7, 8])), "has not as many rows of tables/0.*as increment.json says"),
        (framed(record(rows=[[1, 2, 3]])), "a record is none of changed rows"),
        (framed(record(rows=[[1, 2, 3, np.nan]])), "hold numbers that are not finite"),
        (framed(record(start=1)), "a record is not that of the rows of tables/0.* from 0 on"),
        (framed(record(table="y")), "a record is not that of the rows of tables/0.* from 0 on"),
        (framed(b"no proto"), "a record is none of changed rows"),
        (framed(b""), "a record is none of changed rows"),
        (framed(record()) + b"rest", "the file ends within its header"),
        (framed(record(), record()), "it has more rows than its tables"),
        (b"", "it ends before all tables have their rows"),
    ],
)
def test_records_of_other_rows(exported, copy, content, message):
    (copy / "rows.tfrecord").write_bytes(content)
    seal(copy)
    check_refused(exported, copy, f"rows.tfrecord: .*{message}")


@pytest.mark.parametrize("length", [2**40, 2**63, 2**64 - 1])
def test_records_of_impossible_lengths(exported, copy, length):
    header = struct.pack("<Q", length)
    header += struct.pack("<I", masked_crc(header))
    (copy / "rows.tfrecord").write_bytes(header + b"few")
    seal(copy)
    check_refused(exported, copy, "is damaged, or somebody has edited it: .*rows.tfrecord")


@pytest.fixture
def saved(exported, tmp_path):
    return pathlib.Path(shutil.copytree(exported["aligned"].folder, tmp_path / "saved"))


@pytest.mark.parametrize(
    "text", ['{"step": "1"}', '{"step": -1}', '{"step": 1.5}', "[]", "{}", "[" * 100_000, '"x"']
)
def test_a_saved_model_of_an_edited_description(saved, text):
    (saved / "assets.extra" / "run.json").write_text(text)
    with pytest.raises(UserError, match="is not a SavedModel exported by tf_dlrm") as caught:
        load_saved_model(str(saved))
    assert "Error(" not in str(caught.value)


@pytest.mark.parametrize("name", ["saved_model.pb", "assets.extra/run.json", "variables"])
def test_a_saved_model_of_links(saved, name):
    shutil.move(saved / name, saved.parent / "elsewhere")
    (saved / name).symlink_to(saved.parent / "elsewhere")
    with pytest.raises(UserError, match=f"{name} is a link, so it is not read"):
        load_saved_model(str(saved))


def test_a_saved_model_that_is_not_the_described_one(exported, rows, saved):
    logits, _ = load_saved_model(str(saved))
    features = rows.tensors(rows.features(rows.ragged, 3))
    with pytest.raises(UserError, match="its inputs are dense, user, words, and tags of the rows"):
        logits(features)
    with pytest.raises(UserError, match="is not the model that its run.json describes.*words"):
        logits({name: features[name] for name in ("dense", "user")})


def test_a_base_whose_description_is_edited(exported, rows, saved, tmp_path):
    for text, message in (
        ("[]", "holds no JSON object"),
        ('{"export": 5}', "does not say how it was exported"),
    ):
        (saved / "assets.extra" / "run.json").write_text(text)
        with pytest.raises(UserError, match=f"is no SavedModel that tf_dlrm exported: .*{message}"):
            export_model(
                exported["aligned"].model,
                rows.aligned,
                str(tmp_path / "increment"),
                {"step": 2},
                incremental_from=str(saved),
            )
