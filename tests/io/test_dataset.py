"""Data sets that lie in a store."""

import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfrecords import files, verify
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.input_files import expand
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.table_source import TableSource


def read_ids(source, **arguments) -> np.ndarray:
    batches = source.batches("train", 64, **arguments)
    return np.concatenate([features["row_id"].numpy() for features, _ in batches])


def key_of(folder: str) -> str:
    return folder.split("/", 3)[3]


def test_written_there_and_read_as_if_it_were_here(store, folder, write_rows, tmp_path):
    options = {"rows_per_record": 50, "records_per_file": 3}
    features, label = write_rows(folder, 1000, **options)
    write_rows(str(tmp_path / "here"), 1000, **options)
    there, here = RecordSource(folder), RecordSource(str(tmp_path / "here"))
    assert there.fingerprint == here.fingerprint
    for arguments in ({}, {"shuffle_seed": 3, "epoch": 2}, {"shuffle_seed": 3, "first_row": 433}):
        ours = list(there.batches("train", 64, **arguments))
        theirs = list(here.batches("train", 64, **arguments))
        assert len(ours) == len(theirs) > 0
        for (a, a_label), (b, b_label) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a_label, b_label)
            for name in b:
                if isinstance(b[name], tf.RaggedTensor):
                    assert a[name].to_list() == b[name].to_list()
                else:
                    np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(read_ids(there), features["row_id"])
    assert list(verify.problems(folder, there.info)) == []


def test_a_record_costs_one_request_for_its_bytes(store, folder, write_rows):
    write_rows(folder, 2000, rows_per_record=50, records_per_file=40)  # 40 records in one file
    source = RecordSource(folder)
    store.requests()
    read_ids(source, shuffle_seed=1)
    requests = store.requests()
    # One request for the record and one for the byte before it (but for the first record), each
    # after one for the size. TensorFlow's own reader would ask for the whole file 40 times.
    assert len(requests) <= 160
    assert len([path for method, path in requests if method == "GET" and "?" not in path]) == 79


def test_replacing_a_data_set_leaves_nothing_of_the_old_one(store, folder, write_rows):
    write_rows(folder, 1000, rows_per_record=50, records_per_file=2)
    before = store.keys(key_of(folder))
    store.requests()
    write_rows(folder, 200, seed=1, rows_per_record=50, records_per_file=2)
    after = store.keys(key_of(folder))
    assert len(after) < len(before) and set(after) < set(before)
    assert RecordSource(folder).rows("train") == 200
    # dataset.json went first and came last.
    changes = [
        (method, path.rsplit("/", 1)[1].split("?")[0])
        for method, path in store.requests()
        if method in ("PUT", "DELETE", "POST")
    ]
    first, last = (
        [i for i, change in enumerate(changes) if change == (method, "dataset.json")][-1]
        for method in ("DELETE", "PUT")
    )
    records = [i for i, (method, name) in enumerate(changes) if method == "PUT" and i > first]
    assert first < min(records) and last == max(records)


def test_a_writer_that_fails_leaves_the_earlier_data_set(store, folder, write_rows):
    write_rows(folder, 100, rows_per_record=50)
    with pytest.raises(DataError, match="out_of|vocabulary|id"):
        write_rows(folder, 6000, rows_per_record=50)  # row_id has 5000 ids
    assert RecordSource(folder).rows("train") == 100


def test_a_folder_of_something_else_is_not_replaced(store, folder):
    store.put(f"{key_of(folder)}/thesis.txt", b"precious")
    with pytest.raises(DataError, match=f"The folder {folder} is not empty and is no data set"):
        WholeFolder(folder)
    assert store.get(f"{key_of(folder)}/thesis.txt") == b"precious"


def test_one_writer_at_a_time_on_this_machine(store, folder):
    with WholeFolder(folder), pytest.raises(DataError, match="Another process is writing"):
        WholeFolder(folder)


@pytest.mark.parametrize("what", ["missing", "short", "changed"])
def test_damage_is_found_and_named(store, folder, write_rows, what):
    write_rows(folder, 300, rows_per_record=50, records_per_file=3)
    source = RecordSource(folder)
    file = source.info.splits["train"].files[1]
    key = f"{key_of(folder)}/{file.path}"
    data = store.get(key)
    if what == "missing":
        store.client.delete_object(Bucket="clicks", Key=key)
        with pytest.raises(DataError, match=f"{file.path} of the split 'train' is missing"):
            DatasetInfo.load(folder)
    elif what == "short":
        store.put(key, data[:-7])
        with pytest.raises(DataError, match=f"has {file.size - 7} bytes.*truncated"):
            DatasetInfo.load(folder)
    else:
        position = file.offsets[1] + 40
        store.put(key, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        DatasetInfo.load(folder)
    with pytest.raises(
        (
            tf.errors.DataLossError,
            tf.errors.InvalidArgumentError,
            tf.errors.NotFoundError,
            tf.errors.OutOfRangeError,
        )
    ) as caught:
        read_ids(source)
    sentence = source.explain(caught.value)
    assert file.path in sentence
    assert {"missing": "cannot be read", "short": "Record 2", "changed": "Record 1"}[
        what
    ] in sentence


def test_a_data_set_that_is_not_there(store, folder):
    with pytest.raises(DataError, match=f"There is no data set folder '{folder}'"):
        RecordSource(folder)
    store.put(f"{key_of(folder)}/x", b"1")
    with pytest.raises(DataError, match="is no data set: it has no dataset.json"):
        RecordSource(folder)
    store.put(f"{key_of(folder)}/dataset.json", json.dumps({"format": "other"}).encode())
    with pytest.raises(DataError, match=f"{folder}/dataset.json does not describe a data set"):
        RecordSource(folder)


def test_a_table_in_a_store_is_read_as_one_on_this_disk(store, folder, tmp_path):
    toml = 'format = "parquet"\nlabel = "y"\n[categorical]\n'
    toml += 'row_id = {kind = "integer", vocabulary_size = 3000}\ncity = {hash_buckets = 9}\n'
    described = from_toml(toml, "t.toml")
    columns = {"y": np.arange(3000) % 2, "row_id": np.arange(3000), "city": ["a", "b", None] * 1000}
    here = tmp_path / "train" / "part-0.parquet"
    here.parent.mkdir()
    pq.write_table(pa.table(columns), here, row_group_size=1000)
    files.copy(str(here), f"{folder}/train/part-0.parquet")
    there, local = TableSource(folder, described), TableSource(str(tmp_path), described)
    assert there.fingerprint == local.fingerprint and there.only_label("train") is None
    found = read_ids(there, shuffle_seed=1)
    np.testing.assert_array_equal(found, read_ids(local, shuffle_seed=1))
    assert sorted(found) == list(range(3000))


def test_a_conversion_reads_a_store_as_this_disk(store, folder, tmp_path):
    text = b"y,city\n" + b"".join(b"%d,c%d\n" % (n % 2, n % 7) for n in range(400))
    (tmp_path / "in").mkdir()
    for name, content in (("a.csv", text), ("b.csv.gz", gzip.compress(text))):
        (tmp_path / "in" / name).write_bytes(content)
        store.put(f"{key_of(folder)}/in/{name}", content)
    format = TabularFormat(
        from_toml('format = "csv"\nlabel = "y"\n[categorical]\ncity = "text"', "t")
    )
    paths = {"there": expand("--input", [f"{folder}/in/*.csv*"]), "here": [f"{tmp_path}/in"]}
    assert paths["there"] == expand("--input", [f"{folder}/in"])
    for name, inputs in paths.items():
        found = expand("--input", inputs)
        convert(found, str(tmp_path / name), format, Options(), Progress(io.StringIO()))
    there, here = (RecordSource(str(tmp_path / name)) for name in paths)
    assert there.rows("train") == here.rows("train") > 0
    for name in ("train-00000.tfrecord", "vocabulary/city.npy"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    with pytest.raises(DataError, match="does not exist"):
        convert(
            [f"{folder}/none.csv"], str(tmp_path / "o"), format, Options(), Progress(io.StringIO())
        )
