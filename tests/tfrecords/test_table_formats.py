"""One table in every format that is read: the same rows, converted and read as they are."""

import bz2
import gzip
import io
import lzma
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tfrecords import table_files
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.input_files import expand
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.table_source import TableSource

_TOML = """
format = "{}"
null_values = ["", "NA"]
label = "y"
[dense]
price = {{transform = "log1p", missing = 1}}
[categorical]
row = {{kind = "integer", vocabulary_size = 100000}}
city = "text"
hashed = {{column = "city", hash_buckets = 11}}
tags = {{separator = "|"}}
"""


def _table(rows, first=0):
    rng = np.random.default_rng(first)
    return pa.table(
        {
            "y": rng.integers(0, 2, rows),
            "price": pa.array(rng.random(rows) * 9, mask=rng.random(rows) < 0.1),
            "row": np.arange(first, first + rows),
            "city": rng.choice(["Bern", "NA", "a,b", 'the "new" one'], rows),
            "tags": rng.choice(["", "a", "a|b", "b|NA|c"], rows),
        }
    )


def _text(table):
    out = io.BytesIO()
    pa_csv.write_csv(table, out)
    return out.getvalue()


def _write(path, table):
    """Writes a table in the format of the end of its name; returns the format's name."""
    name = path.name
    if name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=17)
        return "parquet"
    if name.endswith((".arrow", ".arrows")):
        # As polars and a categorical column of pandas have text.
        table = table.set_column(3, "city", table["city"].cast(pa.string_view()))
        table = table.set_column(4, "tags", table["tags"].dictionary_encode())
        opened = pa.ipc.new_file if name.endswith(".arrow") else pa.ipc.new_stream
        with opened(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=17)
        return "arrow"
    text = _text(table)
    pack = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }.get(path.suffix, bytes)
    path.write_bytes(pack(text))
    return "csv"


def _converted(paths, form, out, **options):
    format = TabularFormat(from_toml(_TOML.format(form), "t.toml"), piece_bytes=1000)
    options = {"split": "none", "on_odd_labels": "accept"} | options
    convert(
        [str(path) for path in paths], str(out), format, Options(**options), Progress(io.StringIO())
    )
    return RecordSource(str(out))


def _records(folder):
    return [path.read_bytes() for path in sorted(folder.glob("*.tfrecord"))]


_NAMES = ["parquet", "arrow", "arrows", "csv", "csv.gz", "csv.bz2", "csv.xz", "csv.zst"]


@pytest.mark.parametrize("name", _NAMES)
def test_a_conversion_is_the_same_of_every_format(tmp_path, name):
    form = _write(tmp_path / f"in.{name}", _table(300))
    _converted([tmp_path / f"in.{name}"], form, tmp_path / "out", shuffle="total")
    (tmp_path / "plain.csv").write_bytes(_text(_table(300)))
    _converted([tmp_path / "plain.csv"], "csv", tmp_path / "plain", shuffle="total")
    assert _records(tmp_path / "out") == _records(tmp_path / "plain") != []
    # From any piece on, as a conversion that was stopped goes on.
    format = TabularFormat(from_toml(_TOML.format(form), "t.toml"), piece_bytes=1000)
    path = str(tmp_path / f"in.{name}")
    pieces = list(format.pieces(path))
    labels = [format.parse(piece).rows.label for piece in pieces]
    rest = [format.parse(piece).rows.label for piece in format.pieces(path, pieces[4].end)]
    np.testing.assert_array_equal(np.concatenate(rest), np.concatenate(labels[5:]))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(table_files, "_TEXT_BYTES", 1500)
    monkeypatch.setattr(table_files, "_LEAST_ROWS", 34)


@pytest.mark.parametrize("name", ["arrow", "arrows", "csv"])
@pytest.mark.usefixtures("small_blocks")
def test_a_table_as_it_is_reads_as_its_conversion(tmp_path, read_all, name):
    (tmp_path / "t" / "train").mkdir(parents=True)
    paths = [tmp_path / "t" / "train" / f"part-{k}.{name}" for k in range(2)]
    for k, path in enumerate(paths):
        form = _write(path, _table(150, 150 * k))
    data = _converted(paths, form, tmp_path / "data")
    described = from_toml(_TOML.format(form), "t.toml")
    source = TableSource(str(tmp_path / "t"), described, 100, str(tmp_path / "data"))
    assert source.schema == data.schema and source.rows("train") == 300
    assert sum(len(file.blocks) for file in source._splits["train"]) > 6
    wanted, labels = read_all(data, "train")
    found, own = read_all(source, "train")
    np.testing.assert_array_equal(own, labels)
    for column, values in wanted.items():
        if isinstance(values, list):
            assert found[column] == values
        else:
            np.testing.assert_array_equal(found[column], values)
    # Order, resuming and shards.
    order = {"shuffle_seed": 3, "epoch": 1}
    whole = read_all(source, "train", **order)[0]["row"]
    assert sorted(whole) == list(range(300)) and list(whole) != sorted(whole)
    again = TableSource(str(tmp_path / "t"), described, 100, str(tmp_path / "data"))
    assert again.fingerprint == source.fingerprint
    if name != "arrow":
        rest = read_all(again, "train", first_row=123, **order)[0]["row"]
        np.testing.assert_array_equal(rest, whole[123:])
    if name == "arrow":
        order |= {"shard_count": 2, "shard_by": "block"}
        shards = [read_all(source, "train", shard_index=i, **order)[0]["row"] for i in range(2)]
        assert sorted(np.concatenate(shards)) == list(range(300)) and min(map(len, shards)) > 0
    # Another value of as many bytes is another content.
    if name == "csv":
        paths[1].write_bytes(paths[1].read_bytes().replace(b"Bern", b"Born", 1))
        other = TableSource(str(tmp_path / "t"), described, 100, str(tmp_path / "data"))
        assert other.fingerprint != source.fingerprint
        assert "part-1.csv has changed since" in source.explain(ValueError())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((b"\n0,", b"\n3,"), r"column 'y' is 3, where a number from 0 to 1 is needed"),
        ((b'"', b""), r"it has 6 columns, where 5 are needed"),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_a_bad_line_of_text_is_named(tmp_path, change, sentence):
    (tmp_path / "train").mkdir()
    lines = _text(_table(200)).splitlines(keepends=True)
    bad = next(
        k for k in range(150, 200) if b"a,b" in lines[k] and (b"\n" + lines[k]).startswith(b"\n0,")
    )
    lines[bad] = (b"\n" + lines[bad]).replace(*change)[1:]
    (tmp_path / "train" / "a.csv").write_bytes(b"".join(lines))
    toml = 'other_columns = "ignore"\n' + _TOML.format("csv").split("[categorical]")[0]
    source = TableSource(str(tmp_path), from_toml(toml, "t.toml"))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(source.batches("train", 64))
    said = rf"Line {bad + 1} of .*a.csv is no row: {sentence}"
    assert re.match(said, source.explain(caught.value))


def test_files_that_are_not_read_as_they_are(tmp_path):
    (tmp_path / "train").mkdir()
    _write(tmp_path / "train" / "a.csv.gz", _table(9))
    toml = _TOML.split("[categorical]")[0]
    with pytest.raises(DataError, match=r"a.csv.gz is compressed .* Decompress it, or convert it"):
        TableSource(str(tmp_path), from_toml(toml.format("csv"), "t.toml"))
    (tmp_path / "train" / "a.arrow").write_bytes(b"ARROW1 and no more")
    with pytest.raises(DataError, match="a.arrow cannot be read as Arrow's format"):
        TableSource(str(tmp_path), from_toml(toml.format("arrow"), "t.toml"))


@pytest.mark.parametrize("end", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_text_that_is_cut_or_none(tmp_path, end):
    path = tmp_path / f"in.csv{end}"
    form = _write(path, _table(3000))
    whole = path.read_bytes()
    for content, sentence in (
        (whole[: len(whole) // 2], "ends in the middle of its compressed data"),
        (whole[:200] + bytes(200) + whole[400:], "(is no whole|ends in the middle)"),
        (b"y,price\n1,2\n", f"is no whole .* file, although its name ends in {end}"),
    ):
        if end == ".zst" and b"\0" * 200 in content:
            continue  # Arrow writes it without checksums
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"in.csv{end} {sentence}"):
            _converted([path], form, tmp_path / "out")


def test_files_by_pattern_and_folder(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt", ".hidden", "_SUCCESS"):
        (tmp_path / name).write_text("x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e[1].csv").write_text("x")

    def found(*names, **options):
        paths = expand("--input", [f"{tmp_path}/{name}" for name in names], **options)
        return [path.removeprefix(f"{tmp_path}/") for path in paths]

    assert found("c.txt", "?.csv") == ["c.txt", "a.csv", "b.csv"]
    assert found("") == ["a.csv", "b.csv", "c.txt"]
    assert found("d", "d/e[1].csv") == ["d/e[1].csv"] * 2
    assert found("d", folders=False) == ["d"]
    with pytest.raises(DataError, match=r"--input=.*\*\.tsv: no file has such a name"):
        found("*.tsv")
