"""Requests of any shape, type and value, past all of Python's checks, as a server gets them."""

import dataclasses
import itertools
import re
from typing import Any

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from serving.client_options import examples
from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.raw_table import RawTable
from tfrecords.conversion.vocabulary_files import read_vocabulary
from tfrecords.dataset_info import DatasetInfo
from tfrecords.kinds.hexadecimal import BLANK

DENSE_NAMES = tuple(f"I{k}" for k in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{k}" for k in range(1, 27))
REFUSED = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, TypeError, ValueError)
# By input: type, what may differ is None, and the ids that there are.
SPECS = {
    "serving_default": {
        "dense": ("float32", (None, 2), None),
        "user": ("int64", (None,), 50),
        "words": ("int64", (None, 3), 30),
        "tags": ("int64", ("tags",), 20),
        "tags_row_lengths": ("int64", (None,), None),
    },
    "rank": {
        "dense": ("float32", (1,), None),
        "candidate_dense": ("float32", (None, 1), None),
        "user": ("int64", (), 50),
        "words": ("int64", (None, 3), 30),
        "tags": ("int64", ("tags",), 20),
        "tags_row_lengths": ("int64", (None,), None),
    },
}
# Of both versions of the model: see `largest_dense`. In between it depends on the weights.
SURELY_ALLOWED, SURELY_REFUSED = 1e6, 1e19


def is_right(signature, inputs):
    """Whether a request is as the signature's description says; None where that may differ."""
    rows = {len(v) for k, v in inputs.items() if _is_of_rows(signature, k) and v.ndim}
    if len(rows) > 1:
        return False
    unsure = False
    for name, (dtype, shape, size) in SPECS[signature].items():
        value = inputs[name]
        fits = [w in (None, "tags") or n == w for n, w in zip(value.shape, shape, strict=False)]
        if value.dtype != dtype or value.ndim != len(shape) or not all(fits):
            return False
        if size is not None and not all(0 <= i < size for i in value.ravel().tolist()):
            return False
        if "dense" in name:
            if not np.all(np.abs(value) <= SURELY_REFUSED):
                return False
            unsure |= not np.all(np.abs(value) <= SURELY_ALLOWED)
    lengths = inputs["tags_row_lengths"].tolist()  # Python's numbers, which do not wrap
    if min(lengths, default=0) < 0 or sum(lengths) != len(inputs["tags"]):
        return False
    return None if unsure else True


def _is_of_rows(signature, name):
    return SPECS[signature][name][1][:1] == (None,)


EXTREMES = {
    "f": [np.nan, np.inf, -np.inf, 3.4e38, -3e38, 1e30, -1e20, 1e12, 1e-40, -0.0, 0.5],
    "i": [-1, 0, 1, 19, 20, 30, 50, 2**31, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63)],
}
TYPES = ["float32", "float64", "int32", "int64", "uint8", "bool", "bytes", "float16", "uint64"]


@st.composite
def requests(draw, signature):
    """A good request, of which up to three inputs are changed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.sampled_from([0, 1, 2, 3, 7, 33]))
    inputs = {}
    lengths = rng.integers(0, 4, rows)
    for name, (dtype, shape, size) in SPECS[signature].items():
        actual = [{None: rows, "tags": lengths.sum()}.get(n, n) for n in shape]
        if dtype == "float32":
            inputs[name] = rng.normal(size=actual).astype(dtype)
        else:
            inputs[name] = np.array(rng.integers(0, size or 1, actual), np.int64)
    inputs["tags_row_lengths"] = lengths
    for name in draw(st.lists(st.sampled_from(list(inputs)), max_size=3)):
        inputs[name] = draw(changed(inputs[name], rng))
    return inputs


@st.composite
def changed(draw, value, rng):
    kind = draw(st.sampled_from(["value", "wrap", "shape", "rank", "type", "rows"]))
    if value.dtype.kind not in "fi":
        return value
    value = value.copy()
    if kind == "value" and value.size:
        at = draw(st.integers(0, value.size - 1))
        extreme = draw(st.sampled_from(EXTREMES[value.dtype.kind]))
        with np.errstate(over="ignore", invalid="ignore"):
            value.flat[at] = np.array(extreme).astype(value.dtype)
    elif kind == "wrap" and value.dtype == np.int64 and value.size:
        # The sum stays as it was, once it has wrapped around.
        parts = draw(st.sampled_from([2, 4]))
        for k in range(parts):
            with np.errstate(over="ignore"):
                value.flat[k % value.size] += np.uint64(2**64 // parts).astype(np.int64)
    elif kind == "shape":
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        value = np.resize(value, shape) if value.size else np.zeros(shape, value.dtype)
    elif kind == "rank":
        value = draw(st.sampled_from([value[np.newaxis], value[..., np.newaxis], value.ravel()]))
    elif kind == "type":
        with np.errstate(invalid="ignore", over="ignore"):
            dtype = draw(st.sampled_from(TYPES))
            value = value.astype(object if dtype == "bytes" else dtype)
            if dtype == "bytes":
                value = np.array([b"1"] * value.size, object).reshape(value.shape)
    elif kind == "rows" and value.ndim and len(value):
        value = np.concatenate([value, value[:1]]) if rng.random() < 0.5 else value[:-1]
    return value


def check(served, signature, inputs):
    right = is_right(signature, inputs)
    try:
        answer = served.call(signature, inputs)
    except REFUSED:
        assert not right
        return
    if right is False:
        # The user's values reach no row, so that no probability is wrong: nobody is to be ranked.
        assert answer.shape == (0,)
        return
    assert answer.shape == (len(inputs["tags_row_lengths"]),)
    assert np.all((answer >= 0) & (answer <= 1))


COUNTS = pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.exhaustive)])


@COUNTS
@pytest.mark.parametrize("signature", list(SPECS))
def test_a_wrong_request_is_refused_and_a_right_one_answered(exported, search, signature, count):
    served = exported["1"].served
    search(hypothesis.given(requests(signature))(lambda r: check(served, signature, r)), count)


@st.composite
def serialized(draw, good):
    """Examples of which a byte is changed, inserted or lost, or that are something else."""
    rows = [draw(st.sampled_from(good)) for _ in range(draw(st.integers(1, 3)))]
    kind = draw(st.sampled_from(["change", "cut", "insert", "other", "shape"]))
    row = bytearray(rows[-1])
    at = draw(st.integers(0, len(row) - 1))
    if kind == "change":
        row[at] = draw(st.integers(0, 255))
    elif kind == "cut":
        del row[at:]
    elif kind == "insert":
        row[at:at] = draw(st.binary(max_size=4))
    elif kind == "other":
        row = draw(st.binary(max_size=50))
    rows[-1] = bytes(row)
    array = np.array(rows, object)
    return array[:, np.newaxis] if kind == "shape" else array


def parsed(row):
    """What an example says by protobuf's own parser; None if it refuses what TensorFlow's takes."""
    try:
        feature = tf.train.Example.FromString(row).features.feature
    except Exception:
        return None
    lists = {name: feature[name] for name in ("dense", "user", "words", "tags")}
    values = {
        "dense": np.float32(lists["dense"].float_list.value)[np.newaxis],
        **{
            name: np.array(lists[name].int64_list.value, np.int64)[np.newaxis]
            for name in ("user", "words", "tags")
        },
    }
    values["user"] = values["user"][0]
    values["tags"] = values["tags"][0]
    values["tags_row_lengths"] = np.array([len(values["tags"])])
    return values


@COUNTS
def test_a_wrong_example_is_refused(exported, search, rows, count):
    served = exported["1"].served
    good = examples(rows.tensors(rows.features(rows.ragged, 11)), 11)

    def one(given):
        try:
            answer = served.call("serve_examples", {"examples": given})
        except REFUSED:
            return
        assert given.ndim == 1 and answer.shape == given.shape
        for row, probability in zip(given, answer, strict=True):
            assert 0 <= probability <= 1
            values = parsed(row)
            if values is None:
                continue
            assert is_right("serving_default", values) is not False
            np.testing.assert_allclose(
                served.call("serving_default", values), [probability], atol=1e-6
            )

    search(hypothesis.given(serialized(good))(one), count)


@dataclasses.dataclass
class Log:
    """A model of Criteo's log, and what is needed to know its answers.

    Attributes:
        served: The SavedModel.
        lines: The fields of rows that it was trained on.
        ids: By column, the id of each key of the vocabulary.
        unknown: The id of all others; None where they are refused.
        blank: The key of an empty text.
    """

    served: Any
    lines: list[list[bytes]]
    ids: dict[str, dict[int, int]]
    unknown: int | None
    blank: int

    def features(self, request):
        """What a request says of features; None where it is wrong."""
        texts = {name: value.tolist() for name, value in request.items()}
        if any(value.ndim != 1 or value.dtype.kind not in "OSU" for value in request.values()):
            return None
        if len({len(column) for column in texts.values()}) > 1:
            return None
        found = {"dense": np.zeros((len(texts["I1"]), 13), np.float32)}
        for k, name in enumerate(DENSE_NAMES):
            for row, text in enumerate(map(as_bytes, texts[name])):
                if text and not re.fullmatch(rb"-?[0-9]{1,18}", text):
                    return None
                number = int(text or b"0")
                if not -(2**31) <= number < 2**31:
                    return None
                found["dense"][row, k] = np.log1p(max(number, 0))
        for name in CATEGORICAL_NAMES:
            found[name] = np.zeros(len(texts[name]), np.int64)
            for row, text in enumerate(map(as_bytes, texts[name])):
                if not re.fullmatch(rb"[0-9a-fA-F]{0,8}", text):
                    return None
                id = self.ids[name].get(int(text, 16) if text else self.blank, self.unknown)
                if id is None:
                    return None
                found[name][row] = id
        return found


def as_bytes(text):
    return text.encode() if isinstance(text, str) else text


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(False, id="unknown"),
        pytest.param(True, id="all_known", marks=pytest.mark.slow),
    ],
)
def log(request, criteo_lines, convert_criteo, as_served, tmp_path_factory):
    """A model to which values may be unknown, and one by which such are refused."""
    folder = tmp_path_factory.mktemp("log")
    lines = criteo_lines(120)
    (folder / "input.txt").write_text("\n".join(lines) + "\n")
    data = str(folder / "data")
    convert_criteo([folder / "input.txt"], data, reference=request.param)
    info = DatasetInfo.load(data)
    tables = [
        TableConfig(c.name, c.vocabulary_size, 4, optimizer=SGD(0.01))
        for c in info.schema.categorical
    ]
    features = tuple(FeatureConfig(table.name, table) for table in tables)
    model = DLRM(DLRMConfig(13, features, (4,), (1,), interaction="concat", seed=1))
    path = str(folder / "model")
    export_model(model, info.schema, path, {"step": 1}, raw=RawTable(info, data))
    ids = {}
    for name in CATEGORICAL_NAMES:
        keys = read_vocabulary(data, info.vocabularies[name]).tolist()
        first = info.vocabularies[name].reserved
        ids[name] = {key: first + place for place, key in enumerate(keys)}
    fields = [line.encode().split(b"\t")[1:] for line in lines]
    unknown, blank = (None, 0) if request.param else (0, BLANK)
    return Log(as_served(path), fields, ids, unknown, blank)


# No UTF-8, digits of another script, what other programs take for numbers, and the limits.
SPECIAL_TEXTS = st.sampled_from(
    b"| |\t|\0|1\0|\xff\xfe|1\xc3|\xed\xa0\x80|\xd9\xa1|-0|+1|--1|1e3|0x1f|nan|inf|"
    b"2147483647|2147483648|-2147483648|-2147483649|00000000|000000000|ffffffff|"
    b"999999999999999999|-999999999999999999|9999999999999999999".split(b"|")
    + [b"1" * 100_000]
)
TEXTS = st.one_of(
    st.binary(max_size=10),
    st.text("0123456789abcdefABCDEFg-+ .\0\n", max_size=12).map(str.encode),
    st.integers(-(2**64), 2**64).map(lambda n: str(n).encode()),
    st.integers(0, 2**33).map(lambda n: f"{n:x}".encode()),
    SPECIAL_TEXTS,
    SPECIAL_TEXTS,
)


@st.composite
def raw_requests(draw, lines):
    """Fields of rows of the log, of which up to three inputs, or all, are changed."""
    rows = draw(st.lists(st.sampled_from(lines), max_size=4))
    columns = zip(*rows, strict=True) if rows else itertools.repeat([])
    names = (*DENSE_NAMES, *CATEGORICAL_NAMES)
    inputs = {name: np.array(column, object) for name, column in zip(names, columns, strict=False)}
    how = draw(st.sampled_from(["a text", "a text", "inputs", "all"]))
    if how == "a text":
        # By itself, so that nothing else hides whether it is refused.
        name = draw(st.sampled_from(draw(st.sampled_from([DENSE_NAMES, CATEGORICAL_NAMES]))))
        inputs[name] = draw(raw_changes(len(rows), ["text"]))(inputs[name])
    elif how == "inputs":
        for name in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
            inputs[name] = draw(raw_changes(len(rows), RAW_CHANGES))(inputs[name])
    else:
        change = draw(raw_changes(len(rows), RAW_CHANGES))
        inputs = {name: change(value) for name, value in inputs.items()}
    return inputs


RAW_CHANGES = ["text", "texts", "rows", "shape", "rank", "type"]


@st.composite
def raw_changes(draw, rows, kinds):
    """A change, of one of these kinds, of an input of so many rows."""
    kind = draw(st.sampled_from(kinds))
    text = draw(TEXTS)
    at, more = draw(st.integers(0, max(0, rows - 1))), draw(st.booleans())
    if kind == "text":
        return lambda value: np.array([text if n == at else t for n, t in enumerate(value)], object)
    if kind == "texts":
        return lambda value: np.array([text] * len(value), object)
    if kind == "rows":
        return lambda value: np.append(value, [text]) if more else value[:-1]
    if kind == "shape":
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        return lambda value: np.resize(value if len(value) else np.array([text], object), shape)
    if kind == "rank":
        return draw(
            st.sampled_from([lambda value: value[np.newaxis], lambda value: value[:, None]])
        )
    dtype = draw(st.sampled_from([*(t for t in TYPES if t != "bytes"), "S", "U", "complex64"]))
    numbers = dtype not in "SU"
    return lambda value: (np.ones(len(value)) if numbers else value.astype("S")).astype(dtype)


@COUNTS
def test_wrong_fields_of_a_log_are_refused_and_right_ones_answered(log, search, count):
    def one(request):
        features = log.features(request)
        try:
            answer = log.served.call("serve_raw", request)
        except REFUSED:
            assert features is None
            return
        assert features is not None
        assert answer.shape == (len(features["dense"]),)
        assert np.all((answer >= 0) & (answer <= 1))
        expected = log.served.call("serving_default", features)
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-7)

    search(hypothesis.given(raw_requests(log.lines))(one), count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # The sum of lengths wraps around to the number of ids.
        ({"tags_row_lengths": [2**62, 2**62, 2**62, 2**62 + 6]}, "tags_row_lengths must be"),
        ({"tags_row_lengths": [2**63 - 1, 2**63 - 1, 2, 6]}, "tags_row_lengths must be"),
        ({"tags_row_lengths": [-(2**63), -(2**63), 0, 6]}, "tags_row_lengths must be"),
        # Of other ranks, but together of as many dimensions.
        (
            {"user": [[7] * 4] * 4, "words": [1, 2, 3]},
            "is not compatible with expected shape|equal_n",
        ),
        ({"user": [[7]] * 4}, r"values\[0\].shape = \[4,1\] != values\[1\].shape = \[4\]"),
        ({"tags": [[1, 2, 3], [4, 5, 6]]}, "is not compatible with expected shape .*tags|tags.*"),
        ({"dense": [[1e30, 0]] * 4}, "dense features of the request must be numbers from -1e"),
        ({"dense": [[0, -3e38]] * 4}, "dense features of the request must be numbers from -1e"),
        ({"dense": [[0, np.inf]] * 4}, "dense features of the request must be numbers from -1e"),
    ],
)
def test_what_adds_up_by_overflow_is_refused(exported, change, message):
    served = exported["1"].served
    good = {
        "dense": np.zeros((4, 2), np.float32),
        "user": np.arange(4),
        "words": np.zeros((4, 3), np.int64),
        "tags": np.arange(6),
        "tags_row_lengths": np.array([0, 3, 2, 1]),
    }
    before = served.call("serving_default", good)
    bad = good | {name: np.array(value, good[name].dtype) for name, value in change.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served.call("serving_default", bad)
    np.testing.assert_array_equal(served.call("serving_default", good), before)
