"""Each kind in its two forms: any text becomes the same key in Arrow and in a graph, or neither."""

import datetime
import functools

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrecords.errors import DataError
from tfrecords.kinds import Bucket, DatePart, Hexadecimal, Integer, Text
from tfrecords.kinds.label import Label
from tfrecords.kinds.number import Number
from tfrecords.kinds.whole import Whole

_NULLS = (b"", b"NA")
_KINDS = {
    "text": Text(),
    "hashed_text": Text(97),
    "integer": Integer(),
    "hashed_integer": Integer(hash_buckets=97),
    "ids": Integer(vocabulary_size=50),
    "ids_or_missing": Integer(vocabulary_size=50, missing=7),
    "hexadecimal": Hexadecimal(),
    "hexadecimal_modulo": Hexadecimal(modulo=1000, missing=0),
    "bucket": Bucket(),
    "unix_hour": DatePart("unix", "hour_of_day", missing=3),
    "unix_month": DatePart("unix", "month"),
    "hour": DatePart("%y%m%d%H", "hour_of_day"),
    "weekday": DatePart("%Y-%m-%d %H:%M:%S", "weekday", missing=0),
    "weekday_of_short_year": DatePart("%y%m%d", "weekday"),
    "day": DatePart("%d/%m/%Y", "day_of_month"),
}


def _csv(kind, texts):
    """The column as a conversion reads it: each null text a null."""
    return pa.array([None if text in _NULLS else text for text in texts], pa.binary())


def _arrow(read, texts):
    wrong = set()
    found = read(_csv(None, texts), lambda place, *_: wrong.add(place))
    return [None if k in wrong else value for k, value in enumerate(found.tolist())]


@functools.cache
def _traced(read):
    specs = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.bool)]
    return tf.function(read, autograph=False, input_signature=specs)


def _graph(read, texts, bits=np.uint64):
    values = tf.constant(texts, tf.string)
    missing = tf.reduce_any(values[:, tf.newaxis] == tf.constant(_NULLS), 1)
    found, fits = _traced(read)(values, missing)
    return [
        value if fit else None
        for value, fit in zip(found.numpy().view(bits).tolist(), fits.numpy(), strict=True)
    ]


_DIGITS = st.text("0123456789", min_size=1, max_size=21)
_SPACED = st.builds(
    "{}{}{}".format, st.text(" \t", max_size=2), _DIGITS, st.text(" \t", max_size=2)
)
_WHOLE = st.one_of(
    _DIGITS,
    _DIGITS.map("-{}".format),
    _SPACED,
    st.text("0123456789abcdefABCDEF", max_size=17).map("0x{}".format),
    _DIGITS.map("-000{}".format),
    st.integers(-(2**63) - 2, -(2**63) + 2).map(str),
    st.integers(2**63 - 3, 2**63 + 1).map(str),
    st.integers(0, 60).map(str),
    st.integers(-253_402_300_800, 253_402_300_800).map(str),
)
_DATES = st.datetimes(datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31))


def _date_texts():
    forms = ("%y%m%d%H", "%Y-%m-%d %H:%M:%S", "%d/%m/%Y")
    real = st.builds(lambda date, form: date.strftime(form), _DATES, st.sampled_from(forms))
    # Days and hours that there are not, and digits left out.
    odd = st.text("0123456789-/: ", max_size=19)
    cut = st.builds(lambda text, k: text[:k] + text[k + 1 :], real, st.integers(0, 18))
    return real | odd | cut | st.sampled_from(["30/2/2021", "29/2/2020", "29/2/1900", "2/1/2021"])


_TEXTS = st.one_of(
    st.just("NA"),
    st.just(""),
    st.text(max_size=9),
    st.text("0123456789abcdefABCDEFgxX ", max_size=10),
    _WHOLE,
    _date_texts(),
).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=6)


@pytest.mark.parametrize("name", _KINDS)
@settings(max_examples=40)
@given(st.lists(_TEXTS.filter(lambda text: b"\n" not in text), min_size=1, max_size=12))
def test_any_text_is_the_same_key_in_both_forms(name, texts):
    kind = _KINDS[name]
    assert _graph(kind.graph_keys, texts) == _arrow(kind.keys, texts)


# What a draw seldom meets: the first and the last value that is read, and its neighbours.
@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("ids", [b"-1", b"0", b"49", b"50"], [None, 0, 49, None]),
        ("ids_or_missing", [b"", b"49", b"50", b"NA"], [7, 49, None, 7]),
        # 2068-01-01 is a Sunday, 1969-01-01 a Wednesday, 1999-12-31 a Friday.
        ("weekday_of_short_year", [b"680101", b"690101", b"991231"], [6, 2, 4]),
        (
            "unix_hour",
            [b"-253402300799", b"253402300799", b"253402300800", b"-1", b"NA"],
            [0, 23, None, 23, 3],
        ),
    ],
)
def test_edges_of_what_is_read_are_the_same_in_both_forms(name, texts, expected):
    kind = _KINDS[name]
    assert _arrow(kind.keys, texts) == expected
    assert _graph(kind.graph_keys, texts) == expected


@pytest.mark.parametrize(
    "number",
    [Number(), Number("log1p"), Number("log1p", 2.5), Whole("log1p", 0.0), Whole()],
    ids=["none", "log1p", "missing", "whole", "whole_needed"],
)
@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.floats(width=64).map(repr),
            st.text("0123456789.eE+- \tx", max_size=12),
            _WHOLE,
            st.sampled_from(["", "NA", "1e400", "1e39", "-1e-400", "3.4028236e38", "5.", ".5"]),
        ).map(str.encode),
        min_size=1,
        max_size=12,
    )
)
def test_numbers_in_both_forms(number, texts):
    in_graph = _graph(number.graph_read, texts, np.float32)
    for got, wanted in zip(in_graph, _arrow(number.read, texts), strict=True):
        assert (got is None) == (wanted is None), (texts, got, wanted)
        if wanted is not None:
            assert got == pytest.approx(
                wanted, rel=2e-7, abs=2**-126
            )  # TensorFlow has no smaller ones


def test_labels():
    texts = [b"0", b"1", b"0.5", b"0.25", b"-1", b"2", b"x", b"1e-3"]
    assert _arrow(Label().read, texts) == [0, 1, 0.5, 0.25, None, None, None, np.float32(1e-3)]
    assert _arrow(Label(positive_from=0.5).read, texts) == [0, 1, 1, 0, 0, 1, None, 0]
    assert _arrow(Label(whole=True).read, [*texts, b"", b"01"]) == [0, 1, *[None] * 7, 1]


def test_iso_dates_as_far_as_a_graph_reads_them():
    kind = DatePart("iso", "hour_of_day")
    texts = [
        *(b"2014-10-21", b"2014-10-21T07:59", b"2014-10-21 07:59:59", b"1969-12-31T23:00:00Z"),
        *(b"2014-10-21T01:00:00+02:00", b"2014-10-21T23:30:00.250-01:30", b"2020-02-29T05:00"),
        *(b"2021-02-29", b"2014-13-01", b"2014-10-21T24:00", b"yesterday"),
        b"0001-01-01T00:00+05:00",
    ]  # fmt: skip
    found = _graph(kind.graph_keys, texts)
    assert found[:7] == [0, 7, 7, 23, 23, 1, 5]
    assert found[7:] == [None, None, None, None, 19]
    assert found == [None if v is None else int(v) for v in _arrow(kind.keys, texts)]


def test_numbers_as_numbers():
    """Columns that are numbers already, as Parquet has them, are what their text is."""
    missing = tf.constant([False, False])
    for values in (tf.constant([3, 4], tf.int32), tf.constant([3, 4], tf.int64)):
        of_text = tf.constant(["3", "4"])
        for kind in (Text(), Text(11), Integer(), Integer(hash_buckets=11), Integer(9)):
            got, fits = kind.graph_keys(values, missing)
            wanted, _ = kind.graph_keys(of_text, missing)
            assert got.numpy().tolist() == wanted.numpy().tolist() and fits.numpy().all()


@pytest.mark.parametrize("written", ["%j", "%Y%Y", "%y%Y", "%b %d", "%f"])
def test_dates_that_no_graph_reads(written):
    with pytest.raises(DataError, match=r"cannot be read in a graph, which knows %Y, %y, %m"):
        DatePart(written, "month").graph_keys(tf.constant(["1"]), tf.constant([False]))
