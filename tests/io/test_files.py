import json

import pytest

from tfrecords import files
from tfrecords.errors import DataError


def test_what_is_written_is_what_another_client_reads(store, folder):
    key = folder.split("/", 3)[3]
    files.write_bytes(f"{folder}/a/b.txt", b"first")
    assert store.get(f"{key}/a/b.txt") == b"first"
    files.write_bytes(f"{folder}/a/b.txt", b"second")
    assert files.read_bytes(f"{folder}/a/b.txt") == b"second"
    assert files.size(f"{folder}/a/b.txt") == 6
    assert store.keys(key) == [f"{key}/a/b.txt"]


def test_folders_are_what_holds_files(store, folder):
    assert not files.exists(folder)
    files.write_bytes(f"{folder}/a/b.txt", b"1")
    files.write_bytes(f"{folder}/c.txt", b"2")
    assert files.isdir(folder) and files.isdir(f"{folder}/a") and files.isdir("s3://clicks")
    assert files.exists(f"{folder}/a") and not files.isfile(f"{folder}/a")
    assert files.isfile(f"{folder}/c.txt") and not files.isdir(f"{folder}/c.txt")
    assert files.listdir(folder) == ["a", "c.txt"]
    assert files.walk(folder) == ["a/b.txt", "c.txt"]
    files.remove(f"{folder}/c.txt")
    assert files.walk(folder) == ["a/b.txt"]
    files.remove_tree(folder)
    assert not files.exists(folder)


def test_more_files_than_a_page_of_a_listing(store, folder):
    key = folder.split("/", 3)[3]
    for number in range(120):
        store.put(f"{key}/{number:03d}", b"x" * number)
    assert files.listdir(folder) == [f"{number:03d}" for number in range(120)]
    paths = [f"{folder}/{number:03d}" for number in (5, 119, 120)]
    assert files.sizes(paths) == [5, 119, None]


def test_copies_in_both_directions(store, folder, tmp_path):
    (tmp_path / "here").write_bytes(b"content")
    files.copy(str(tmp_path / "here"), f"{folder}/there")
    files.copy(f"{folder}/there", f"{folder}/elsewhere")
    files.copy(f"{folder}/elsewhere", f"file://{tmp_path}/back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_missing_things(store, folder):
    for read in (files.read_bytes, files.size, files.listdir):
        with pytest.raises(FileNotFoundError, match=f"There is no {folder}/nothing"):
            read(f"{folder}/nothing")
    with pytest.raises(FileNotFoundError, match="There is no s3://no-bucket/x"):
        files.write_bytes("s3://no-bucket/x", b"1")


@pytest.mark.parametrize("scheme", ["gs", "az", "hdfs", "s3"])
def test_the_schemes_are_there(scheme):
    import tensorflow as tf

    files.prepare(f"{scheme}://anywhere/x")  # no network: only that TensorFlow has the file system
    assert scheme in tf.io.gfile.get_registered_schemes()


def test_an_unknown_scheme():
    with pytest.raises(DataError, match="ftp://x/y has the scheme ftp://.*s3://"):
        files.exists("ftp://x/y")


@pytest.mark.parametrize("path", ["az://account-only", "az://account/container"])
def test_another_stores_error_becomes_a_sentence(path):
    with pytest.raises(DataError, match=f"{path}.* can't be reached: "):
        files.exists(path)


def test_a_program_that_used_the_store_ends_with_its_own_status(command_line, folder):
    process = command_line.start("tfrecords.inspect", folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err  # not 134, with which tensorflow-io's S3 client aborts
    assert f"There is no data set folder '{folder}'" in err
    assert "pure virtual" not in err


def test_keys_of_json_are_kept_whole(store, folder):
    files.write_bytes(f"{folder}/x.json", json.dumps({"ü": 1}).encode())
    assert json.loads(files.read_bytes(f"{folder}/x.json")) == {"ü": 1}
