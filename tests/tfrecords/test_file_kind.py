"""Files that are compressed under another name, or whose lines end in carriage returns alone."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import leave_one_out
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.description_guess import guess
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.record_format import masked_crc, read_records

_TEXT = b"y,x\n" + b"".join(b"%d,%d.5\n" % (n % 2, n) for n in range(50))
_TOML = 'format = "csv"\nlabel = "y"\n[dense]\nx = "none"\n'


def _zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("in.csv", _TEXT)
    return file.getvalue()


def _parquet():
    file = io.BytesIO()
    pq.write_table(pa.table({"y": [0, 1], "x": [0.5, 1.5]}), file)
    return file.getvalue()


_FILES = {
    "plain gzip": (
        "in.csv",
        gzip.compress(_TEXT),
        "is compressed with gzip, but its name",
    ),
    "gz plain": ("in.csv.gz", _TEXT, "is no whole gzip file, although its name ends in .gz"),
    "gz gz": ("in.csv.gz", gzip.compress(gzip.compress(_TEXT)), "is compressed with gzip twice"),
    "bz2": ("in.csv", bz2.compress(_TEXT), "is compressed with bzip2; .* Use bunzip2 first"),
    "bz2 1": ("in.csv", bz2.compress(_TEXT, 1), "is compressed with bzip2"),
    "gz bz2": ("in.csv.gz", bz2.compress(_TEXT), "is compressed with bzip2"),
    "xz": ("in.csv", lzma.compress(_TEXT), "is compressed with xz"),
    "zstd": ("in.csv", pa.compress(_TEXT, "zstd", asbytes=True), "is compressed with zstd"),
    "zip": ("in.csv", _zipped(), "is a zip archive"),
    "parquet": ("in.csv", _parquet(), "is a Parquet file, and no text"),
    "utf-16": ("in.csv", _TEXT.decode().encode("utf-16"), "is text in UTF-16"),
    "utf-16 without a mark": ("in.csv", _TEXT.decode().encode("utf-16-le"), "is no UTF-8 text"),
    "utf-32": ("in.csv", _TEXT.decode().encode("utf-32-be"), "is no UTF-8 text: its first line"),
    "zeros": ("in.csv", bytes(4000), "its first line holds many NUL bytes"),
    "cr": ("in.csv", _TEXT.replace(b"\n", b"\r"), "end in carriage returns alone.* tr "),
    "gz cr": ("in.csv.gz", gzip.compress(_TEXT.replace(b"\n", b"\r")), "carriage returns alone"),
}


@pytest.mark.parametrize("name", list(_FILES))
def test_tables(tmp_path, name):
    file, content, sentence = _FILES[name]
    (tmp_path / file).write_bytes(content)
    format = TabularFormat(from_toml(_TOML, "t.toml"))
    with pytest.raises(DataError, match=f"{tmp_path / file}.* {sentence}"):
        list(format.pieces(str(tmp_path / file)))
    with pytest.raises(DataError, match=sentence):
        guess(str(tmp_path / file))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("piece_bytes", [7, 8, 9, 10, 1000])
def test_what_is_text_is_read(tmp_path, end, piece_bytes):
    (tmp_path / "in.csv").write_bytes(_TEXT.replace(b"\n", end))
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(_TEXT.replace(b"\n", end)))
    format = TabularFormat(from_toml(_TOML, "t.toml"), piece_bytes=piece_bytes)
    for name in ("in.csv", "in.csv.gz"):
        rows = [format.parse(piece).rows for piece in format.pieces(str(tmp_path / name))]
        values = np.concatenate([part.dense[0] for part in rows])
        assert values.tolist() == [n + 0.5 for n in range(50)]


def test_a_carriage_return_within_a_line_of_criteos_log_is_a_bad_row(tmp_path, criteo_lines):
    from tfrecords.conversion.criteo import CriteoFormat

    lines = criteo_lines(6)
    text = f"{lines[0]}\n{lines[1]}\r{lines[2]}\n{lines[3]}\r\n{lines[4]}\n"
    (tmp_path / "in").write_bytes(text.encode())
    (piece,) = CriteoFormat().pieces(str(tmp_path / "in"))
    parsed = CriteoFormat().parse(piece)
    assert [row.line for row in parsed.bad] == [1] and len(parsed.rows) == 3


@pytest.mark.parametrize("name", ["plain gzip", "gz plain", "xz", "zip"])
def test_ratings(tmp_path, name):
    file, content, sentence = _FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        leave_one_out.read_ratings(str(tmp_path / file), "userId", "movieId", "timestamp")


@pytest.mark.parametrize(
    ("length", "sentence"),
    [
        (117, "the file ends within it, which says that it has 117 bytes"),
        (2**40, "the file ends within it, which says that it has 1099511627776 "),
        (2**64 - 1, "the file ends within it"),
    ],
)
def test_a_record_longer_than_its_file(length, sentence):
    header = struct.pack("<Q", length)
    content = header + struct.pack("<I", masked_crc(header)) + bytes(104)
    with pytest.raises(ValueError, match=sentence):
        list(read_records(io.BytesIO(content), len(content)))
    if length > 2**31:
        with pytest.raises(ValueError, match="more than any record can have"):
            list(read_records(io.BytesIO(content)))
