"""Files of days, as the Terabyte log has them, and MLPerf's many ids a row."""

import gzip

import numpy as np
import pytest

from tfrecords import verify
from tfrecords.conversion import multi_hot
from tfrecords.conversion.criteo import day_files, parse_days
from tfrecords.errors import DataError


@pytest.fixture
def folder(tmp_path, criteo_lines):
    """Days 0 to 3, of 40 to 43 rows; day 2 compressed."""
    path = tmp_path / "days"
    path.mkdir()
    for day in range(4):
        text = "\n".join(criteo_lines(40 + day, seed=day)) + "\n"
        if day == 2:
            (path / "day_2.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (path / f"day_{day}").write_text(text)
    return path


def test_days(folder):
    names = [path.rsplit("/", 1)[1] for path in day_files([str(folder)], "")]
    assert names == ["day_0", "day_1", "day_2.gz", "day_3"]
    assert day_files([str(folder)], "0,2-3") == [
        f"{folder}/{name}" for name in ("day_0", "day_2.gz", "day_3")
    ]
    assert day_files(["b", "a"], "") == ["b", "a"]
    with pytest.raises(DataError, match="holds neither day_7 nor day_7.gz, which --days=6-7|day_6"):
        day_files([str(folder)], "6-7")
    (folder / "day_1").unlink()
    with pytest.raises(DataError, match="holds day_0 to day_3 but not day_1"):
        day_files([str(folder)], "")
    with pytest.raises(DataError, match="--days=1 chooses among the files of one folder"):
        day_files(["a", "b"], "1")
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="holds none of day_0 to day_23"):
        day_files([str(folder)], "")


@pytest.mark.parametrize("text", ["", "x", "24", "3-1", "1,1", "2,1", "0-", "-1", "0-3,2"])
def test_days_that_are_not_allowed(text):
    with pytest.raises(DataError, match="--days must be days from 0 to 23"):
        parse_days(text)


@pytest.mark.parametrize(("reference", "first"), [(False, "evaluation"), (True, "test")])
def test_the_last_day_is_halved(
    tmp_path, folder, convert_criteo, read_blocks, criteo_lines, reference, first
):
    paths = day_files([str(folder)], "")
    info = convert_criteo(
        paths, tmp_path / "set", name="terabyte", split="last_day", reference=reference
    )
    second = "test" if first == "evaluation" else "evaluation"
    rows = {name: split.rows for name, split in info.splits.items()}
    assert rows == {"train": 40 + 41 + 42, first: 22, second: 21}
    labels = [int(line[0]) for line in criteo_lines(43, seed=3)]
    assert read_blocks(tmp_path / "set", first)[1].tolist() == labels[:22]
    assert read_blocks(tmp_path / "set", second)[1].tolist() == labels[22:]
    with pytest.raises(DataError, match="it needs at least 2 files; --input names 1"):
        convert_criteo(paths[:1], tmp_path / "set", split="last_day")


def test_mlperf_hotness():
    assert multi_hot.parse_hotness("mlperf") == multi_hot.MLPERF
    assert (len(multi_hot.MLPERF), sum(multi_hot.MLPERF)) == (26, 214)
    assert multi_hot.parse_hotness("") == ()
    assert multi_hot.parse_hotness("2,3") == (2, 3)
    with pytest.raises(DataError, match="--multi_hot must be mlperf or whole numbers"):
        multi_hot.parse_hotness("2,x")


def test_mlperf_multi_hot(tmp_path, folder, convert_criteo, read_blocks):
    paths = day_files([str(folder)], "")
    for name, hotness in (("one", ()), ("many", multi_hot.MLPERF)):
        info = convert_criteo(paths, tmp_path / name, split="last_day", multi_hot=hotness, seed=3)
    columns = info.schema.categorical
    assert tuple(column.hotness for column in columns) == multi_hot.MLPERF
    for split in ("train", "test"):
        before, after = (read_blocks(tmp_path / name, split)[0] for name in ("one", "many"))
        for column, hotness in zip(columns, multi_hot.MLPERF, strict=True):
            ids = after[column.name].reshape(-1, hotness)
            assert ids[:, 0].tolist() == before[column.name].tolist()
            assert ids.min() >= 0 and ids.max() < column.vocabulary_size
            # The bag is a function of the id: as many bags as there are ids.
            assert len(np.unique(ids, axis=0)) == len(np.unique(ids[:, 0]))


def test_bags_are_distributed_as_they_should_be():
    ids = np.arange(50_000, dtype=np.int32)
    uniform = multi_hot.bags(ids, 3, 1000, 4, "uniform", 0)
    assert uniform.dtype == np.int32
    counts = np.bincount(uniform[:, 1:].reshape(-1), minlength=1000)
    # 100 each, with the variance of a Poisson number.
    assert abs(counts.mean() - 100) < 1e-9 and 85 < counts.var() < 115
    pareto = multi_hot.bags(ids, 3, 10**9, 4, "pareto", 0)
    # P(floor(x) = 0) = 1 - 2**-0.25; P(x < 9) = 1 - 10**-0.25.
    assert abs((pareto[:, 1:] == 0).mean() - (1 - 2**-0.25)) < 0.005
    assert abs((pareto[:, 1:] < 9).mean() - (1 - 10**-0.25)) < 0.005
    for other in (
        multi_hot.bags(ids, 3, 1000, 5, "uniform", 0),
        multi_hot.bags(ids, 3, 1000, 4, "uniform", 1),
    ):
        assert (other[:, 1:] != uniform[:, 1:]).mean() > 0.99


def test_a_vocabulary_file_that_changed_is_found(tmp_path, folder, convert_criteo):
    info = convert_criteo([folder / "day_0"], tmp_path / "set")
    assert verify.first_problem(str(tmp_path / "set"), info) is None
    path = tmp_path / "set" / "vocabulary" / "C7.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    problem = verify.first_problem(str(tmp_path / "set"), info)
    assert problem is not None and f"vocabulary file {path} is not the one" in problem
    path.unlink()
    problem = verify.first_problem(str(tmp_path / "set"), info)
    assert problem == f"The vocabulary file {path} is missing. Convert or copy the data again."
