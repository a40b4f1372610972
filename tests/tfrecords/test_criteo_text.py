import math
import random

import numpy as np
import pyarrow as pa
import pytest

from tfrecords.conversion.criteo import CriteoFormat, described
from tfrecords.conversion.description_file import from_toml, load, to_toml
from tfrecords.conversion.formats import Piece
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.kinds.hexadecimal import NotHexadecimal, read_digits


def _read(values):
    out = np.full(len(values), 7, np.uint32)
    blank = np.zeros(len(values), np.bool_)
    read_digits(pa.array(values, pa.binary()), out, blank)
    return out.tolist(), blank.tolist()


@pytest.mark.parametrize("lengths", [[8], [8, 0], [1, 2, 3, 4, 5, 6, 7, 8, 0], [0], [3]])
def test_hexadecimal_numbers(lengths):
    rng = random.Random(0)
    values = [
        "".join(rng.choice("0123456789abcdefABCDEF") for _ in range(rng.choice(lengths))).encode()
        for _ in range(300)
    ]
    numbers, blank = _read(values)
    assert numbers == [int(value or b"0", 16) for value in values]
    assert blank == [value == b"" for value in values]


def test_a_slice_of_an_array():
    array = pa.array([b"ffffffff", b"", b"1", b"2a"], pa.binary())[1:3]
    out, blank = np.zeros(2, np.uint32), np.zeros(2, np.bool_)
    read_digits(array, out, blank)
    assert out.tolist() == [0, 1] and blank.tolist() == [True, False]


@pytest.mark.parametrize("length", [1, 8])
def test_every_byte_that_is_no_digit_is_found(length):
    for byte in range(256):
        value = bytes([byte]).rjust(length, b"a")
        if chr(byte) in "0123456789abcdefABCDEF":
            assert _read([b"12345678", value])[0][1] == int(value, 16)
        else:
            with pytest.raises(NotHexadecimal):
                _read([b"12345678", value])


def test_more_than_eight_digits():
    with pytest.raises(NotHexadecimal):
        _read([b"123456789"])


def _parse(text):
    format = CriteoFormat()
    _, of_lines = format.from_lines("in", text)
    return format.parse(of_lines(Piece("in", 0, len(text), 1, text, len(text))))


def test_parse(criteo_lines):
    lines = criteo_lines(50)
    rows = _parse(("\n".join(lines) + "\n").encode()).rows
    fields = [line.split("\t") for line in lines]
    assert rows.label.tolist() == [int(row[0]) for row in fields]
    numbers = np.array([[max(0, int(x or 0)) for x in row[1:14]] for row in fields])
    np.testing.assert_array_equal(rows.dense.T, np.log1p(numbers).astype(np.float32))
    wanted = [[int(x, 16) if x else 1 << 32 for x in row[14:]] for row in fields]
    assert np.stack(rows.keys, 1).tolist() == wanted


_NUMBERS = {"-5": -5, "-0": 0, "007": 7, "0" * 30 + "5": 5, "2147483647": 2**31 - 1}
_NUMBERS |= {"-2147483648": -(2**31), "": 0}
_NO_NUMBERS = [" 5", "5 ", "+5", "0x1F", "0X1F", "0x80000000", "1_0", "5.0", "2147483648", "--5"]
_LABELS = {"0": 0, "1": 1, "01": 1, "-0": 0}
_NO_LABELS = ["", " 1", "1 ", "0x1", "+1", "-1", "2", "257"]


@pytest.mark.parametrize(
    ("column", "field", "value"),
    [(0, *item) for item in (*_LABELS.items(), *((field, None) for field in _NO_LABELS))]
    + [(7, *item) for item in (*_NUMBERS.items(), *((field, None) for field in _NO_NUMBERS))],
)
def test_a_line_is_good_or_bad_whatever_stands_beside_it(column, field, value):
    fields = ["1"] * 14 + ["ab"] * 26
    fields[column] = field
    line = "\t".join(fields) + "\n"
    # A piece with a bad line is parsed in another way than one without.
    for beside in ("", "bad\n"):
        text = (line + beside).encode()
        parsed = _parse(text)
        assert [bad.line for bad in parsed.bad] == [0] * (value is None) + [1] * (beside != "")
        if value is None:
            assert parsed.rows is None and parsed.bad[0].what.startswith("column ")
        elif column == 0:
            assert parsed.rows.label.tolist() == [value]
        else:
            expected = np.float32(np.log1p(max(value, 0)))
            assert parsed.rows.dense[column - 1].tolist() == [expected]


def test_the_description_says_what_the_command_reads(criteo_lines):
    text = ("\n".join(criteo_lines(50)) + "\n").encode()
    toml = to_toml(described(1000, True))
    assert "modulo = 1000" in toml and 'kind = "bucket"' in toml
    fields = [line.split("\t") for line in text.decode().splitlines()]
    format = TabularFormat(from_toml(toml, "t.toml"))
    piece = format.from_lines("in", text)[1](Piece("in", 0, len(text), 1, text, len(text)))
    keys = format.parse(piece).rows.keys
    blank = 1 << 32
    for k in (0, 25):
        wanted = [int(row[14 + k], 16) % 1000 if row[14 + k] else blank for row in fields]
        assert keys[k].tolist() == wanted
    assert max(len(row[3]) for row in fields) > 1
    for row, key in zip(fields, keys[26 + 2].tolist(), strict=True):
        x = int(row[3] or 0)
        bucket = math.floor(math.log(x) ** 2) if x > 2 else x % 2**32
        assert key == (bucket if row[3] else blank)
    assert format.columns[28].name == "I3_bucket" and load("criteo").used[0] == "label"


@pytest.mark.parametrize(
    ("label", "dense", "categorical", "message"),
    [
        ("whole = 1", "", "", "whole must be true or false, not 1"),
        ("whole = true\npositive_from = 3", "", "", "whole is for numbers that are the label"),
        ("", 'n = {whole = "yes"}', "", "whole must be true or false, not 'yes'"),
        ("", "", 'c = {kind = "text", modulo = 3}', "modulo is for kind = 'hexadecimal'"),
        ("", "", 'c = {kind = "hexadecimal", modulo = 0}', "modulo must be a whole number of at"),
        ("", "", 'c = {kind = "hexadecimal", missing = 4294967296}', "missing must be an id in"),
    ],
)
def test_options_that_are_not_allowed(label, dense, categorical, message):
    toml = f'format = "tsv"\n[label]\ncolumn = "y"\n{label}\n[dense]\n{dense}\n'
    with pytest.raises(DataError, match=message):
        from_toml(f"{toml}[categorical]\n{categorical}\nd = 'text'\n", "t.toml")
