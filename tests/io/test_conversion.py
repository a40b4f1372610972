"""Conversions into a store, and distributions and traces that lie in one."""

import io
import tempfile

import numpy as np
import pytest

from tfrecords import files
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.traces.profile_dataset import ProfileOptions, profile_dataset
from tfrecords.traces.source import SyntheticSource
from tfrecords.traces.trace_file import read_trace
from tfrecords.traces.twin import Twin


def key_of(folder: str) -> str:
    return folder.split("/", 3)[3]


@pytest.fixture
def log(tmp_path, criteo_lines):
    """Criteo's text: 140 rows, and 70 others."""
    for number, rows in enumerate((140, 70)):
        text = "\n".join(criteo_lines(rows, seed=number)) + "\n"
        (tmp_path / f"{number}.txt").write_text(text)
    return [tmp_path / "0.txt", tmp_path / "1.txt"]


def test_a_conversion_leaves_the_data_set_there_and_no_journal(
    store, folder, log, convert_criteo, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = io.StringIO()
    for path in log:  # the second takes the place of the first
        convert_criteo([path], folder, said, rows_per_record=16)
        convert_criteo([path], tmp_path / "here", rows_per_record=16)
        here = files.walk(str(tmp_path / "here"))
        assert "journal" not in here
        assert store.keys(key_of(folder)) == [f"{key_of(folder)}/{name}" for name in here]
        for name in here:
            assert store.get(f"{key_of(folder)}/{name}") == (tmp_path / "here" / name).read_bytes()
    assert RecordSource(folder).rows("train") == 60
    # Nor does the work of either lie on this machine, for a third to go on with.
    (work,) = tmp_path.glob("tf_dlrm-*")
    assert not list(work.iterdir())
    assert "unfinished" not in said.getvalue() and "already" not in said.getvalue()


def test_a_conversion_that_cannot_be_done_leaves_the_earlier_one(
    store, folder, log, convert_criteo, tmp_path
):
    convert_criteo([log[0]], folder)
    before = store.keys(key_of(folder))
    (tmp_path / "bad.txt").write_text("nonsense\n")
    with pytest.raises(DataError, match="Line 1 of .*bad.txt is no row"):
        convert_criteo([tmp_path / "bad.txt"], folder)
    assert store.keys(key_of(folder)) == before and f"{key_of(folder)}/journal" not in before
    assert RecordSource(folder).rows("train") == 120


@pytest.fixture
def twin(write_rows, tmp_path):
    """A folder of distributions on this machine."""
    write_rows(str(tmp_path / "data"), 300)
    progress = Progress(io.StringIO())
    profile_dataset(
        str(tmp_path / "data"), "train", str(tmp_path / "twin"), ProfileOptions(), progress
    )
    return tmp_path / "twin"


def test_distributions_in_a_store_are_those_of_the_folder(store, folder, twin):
    for name in files.walk(str(twin)):
        store.put(f"{key_of(folder)}/{name}", (twin / name).read_bytes())
    there, here = Twin.load(folder), Twin.load(str(twin))
    assert there.fingerprint == here.fingerprint and there.rows == {"train": 300}
    (ours,), (theirs,) = (
        SyntheticSource(path, {"train": 50}, 3).blocks("train") for path in (folder, str(twin))
    )
    assert len(set(ours["row_id"].tolist())) > 10
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_distributions_that_are_not_there_are_named(store, folder, twin):
    with pytest.raises(DataError, match=f"The folder '{folder}' is no folder of distributions"):
        Twin.load(folder)
    store.put(f"{key_of(folder)}/twin.json", (twin / "twin.json").read_bytes())
    with pytest.raises(DataError, match=f"The file {folder}/.*distribution cannot be read: There"):
        Twin.load(folder)


def test_a_trace_in_a_store(store, folder):
    store.put(f"{key_of(folder)}/trace", b"3, 1, 4, 1, 18446744073709551615\n")
    assert read_trace(f"{folder}/trace").tolist() == [3, 1, 4, 1, 2**64 - 1]
    store.put(f"{key_of(folder)}/binary", np.array([7, 2**40], "<u8").tobytes())
    assert read_trace(f"{folder}/binary", "binary").tolist() == [7, 2**40]
    with pytest.raises(DataError, match=f"The file {folder}/none cannot be read: There is no"):
        read_trace(f"{folder}/none")
