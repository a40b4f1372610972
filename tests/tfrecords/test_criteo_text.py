import random

import numpy as np
import pyarrow as pa
import pytest

from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.criteo_text import parse
from tfrecords.conversion.formats import Piece
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


def test_parse(criteo_lines):
    lines = criteo_lines(50)
    rows = parse(("\n".join(lines) + "\n").encode())
    fields = [line.split("\t") for line in lines]
    assert rows.label.tolist() == [int(row[0]) for row in fields]
    assert rows.integers.T.tolist() == [[int(x or 0) for x in row[1:14]] for row in fields]
    assert rows.categories.T.tolist() == [[int(x or "0", 16) for x in row[14:]] for row in fields]
    assert rows.blank.T.tolist() == [[x == "" for x in row[1:]] for row in fields]


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
        parsed = CriteoFormat().parse(Piece("in", 0, len(text), 1, text, len(text)))
        assert [bad.line for bad in parsed.bad] == [0] * (value is None) + [1] * (beside != "")
        if value is None:
            assert parsed.rows is None and parsed.bad[0].what.startswith("column ")
        elif column == 0:
            assert parsed.rows.label.tolist() == [value]
        else:
            expected = np.float32(np.log1p(max(value, 0)))
            assert parsed.rows.dense[column - 1].tolist() == [expected]
