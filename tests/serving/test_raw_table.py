"""Fields of the log as text, against the conversion of the same lines."""

import pathlib
import re
import shutil

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tf_dlrm.embeddings import SGD, FeatureConfig, TableConfig
from tf_dlrm.errors import UserError
from tf_dlrm.models import DLRM, DLRMConfig
from tf_dlrm.serving.export import export_model
from tf_dlrm.serving.raw_table import RawTable
from tfrecords.dataset_info import DatasetInfo
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter

DENSE_NAMES = tuple(f"I{k}" for k in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{k}" for k in range(1, 27))
FIELDS = (*DENSE_NAMES, *CATEGORICAL_NAMES)


def fields_of(lines):
    columns = zip(*(line.split("\t")[1:] for line in lines), strict=True)
    return {name: tf.constant(column) for name, column in zip(FIELDS, columns, strict=True)}


def filled(raw):
    """The vocabulary's variables with their content, as they are once a SavedModel is loaded."""
    for variable, rows in zip(raw.vocabulary, raw.rows(), strict=True):
        variable.assign(rows.read(0, rows.shape[0]))
    return raw


@pytest.fixture(scope="module")
def conversions():
    """What `converted` has made, by the options."""
    return {}


@pytest.fixture
def converted(criteo_lines, convert_criteo, conversions, tmp_path_factory):
    """By the options of a conversion: the lines, the data set, and its RawTable."""

    def make(**options):
        key = tuple(sorted(options.items()))
        if key not in conversions:
            folder = tmp_path_factory.mktemp("log")
            lines = criteo_lines(300)
            (folder / "input.txt").write_text("\n".join(lines) + "\n")
            data = str(folder / "out")
            convert_criteo([folder / "input.txt"], data, rows_per_record=64, **options)
            conversions[key] = lines, data, filled(RawTable(DatasetInfo.load(data), data))
        return conversions[key]

    return make


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_count": 4},
        {"max_index_range": 7},
        {"bucketize_dense": True},
        {"vocabulary": "all", "min_count": 2},
        {"reference": True},
        {"reference": True, "max_index_range": 7},
    ],
)
def test_features_are_those_of_the_conversion(converted, read_blocks, options):
    lines, data, raw = converted(**options)
    parts = [read_blocks(data, split)[0] for split in ("train", "evaluation")]
    features = raw.features(fields_of(lines))
    assert list(features) == ["dense", *DatasetInfo.load(data).schema.categorical_names]
    for name, values in features.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))


def test_other_texts_of_the_same_values(converted):
    lines, _, raw = converted(bucketize_dense=True)
    fields = fields_of(lines)
    features = raw.features(fields)
    for change in (tf.strings.upper, tf.strings.lower, lambda t: tf.strings.regex_replace(
        t, "^0*(.)", r"\1")):  # fmt: skip
        changed = fields | {name: change(fields[name]) for name in CATEGORICAL_NAMES}
        for name, values in raw.features(changed).items():
            np.testing.assert_array_equal(values, features[name])


def test_the_largest_and_the_least_numbers(converted):
    lines, _, raw = converted()
    fields = fields_of(lines[:3]) | {"I5": tf.constant(["2147483647", "-2147483648", "0001"])}
    dense = raw.features(fields)["dense"]
    np.testing.assert_allclose(dense[:, 4], [31 * np.log(2), 0, np.log(2)], rtol=1e-6)


def test_values_that_training_never_saw(converted):
    lines, _, raw = converted()
    fields = fields_of(lines[:2]) | {"C3": tf.constant(["fedcba98", "ffffffff"])}
    np.testing.assert_array_equal(raw.features(fields)["C3"], [0, 0])
    lines, _, raw = converted(reference=True)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="Field C3 of row 1 is ffffffff, but must be a value of its vocabulary",
    ):
        known = lines[0].split("\t")[1 + FIELDS.index("C3")]
        raw.features(fields_of(lines[:2]) | {"C3": tf.constant([known, "ffffffff"])})


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("C1", "g1", "one to eight hexadecimal digits, or empty"),
        ("C1", "123456789", "one to eight hexadecimal digits, or empty"),
        ("C1", "12 4", "one to eight hexadecimal digits, or empty"),
        ("C1", "-1", "one to eight hexadecimal digits, or empty"),
        ("C1", "\0", "one to eight hexadecimal digits, or empty"),
        ("I5", "1.5", "a whole number of 32 bits, or empty"),
        ("I5", "-2147483649", "a whole number of 32 bits, or empty"),
        ("I5", "2147483648", "a whole number of 32 bits, or empty"),
        ("I5", "1" * 30, "a whole number of 32 bits, or empty"),
        ("C1", b"\xa2", "one to eight hexadecimal digits, or empty"),
        ("I5", b"1\xff", "a whole number of 32 bits, or empty"),
        ("I5", " ", "a whole number of 32 bits, or empty"),
    ],
)
def test_texts_that_are_no_values(converted, field, text, message):
    lines, _, raw = converted()
    fields = fields_of(lines[:3])
    good = fields[field][0]
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        raw.features(fields | {field: tf.stack([good, good, tf.constant(text)])})
    assert f"Field {field} of row 2 is " in str(caught.value) and message in str(caught.value)


TEXTS = st.one_of(
    st.binary(max_size=10),
    st.text("0123456789abcdefABCDEFg-+ .\0\n", max_size=12).map(str.encode),
    st.integers(-(2**64), 2**64).map(lambda n: str(n).encode()),
    st.integers(0, 2**33).map(lambda n: f"{n:x}".encode()),
)


def is_right(field, text):
    if field in DENSE_NAMES:
        number = re.fullmatch(rb"-?[0-9]{1,18}", text) and int(text)
        return text == b"" or (number is not None and -(2**31) <= number < 2**31)
    return re.fullmatch(rb"[0-9a-fA-F]{0,8}", text) is not None


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(50, marks=pytest.mark.slow),
        pytest.param(5_000, marks=pytest.mark.exhaustive),
    ],
)
def test_any_text_is_a_value_or_refused(converted, search, count):
    lines, _, raw = converted()
    good = {name: texts.numpy() for name, texts in fields_of(lines[:3]).items()}
    features = tf.function(raw.features, input_signature=[raw.specs])
    known = features({name: tf.constant(texts) for name, texts in good.items()})
    place = st.tuples(st.sampled_from(FIELDS), st.integers(0, 2), TEXTS)

    def one(changes):
        given = {name: texts.copy() for name, texts in good.items()}
        for field, row, text in changes:
            given[field][row] = text
        right = all(is_right(name, text) for name, texts in given.items() for text in texts)
        try:
            found = features({name: tf.constant(texts) for name, texts in given.items()})
        except tf.errors.InvalidArgumentError:
            assert not right
            return
        assert right
        for k, name in enumerate(DENSE_NAMES):
            wanted = [np.log1p(max(int(text or b"0"), 0)) for text in given[name]]
            np.testing.assert_allclose(found["dense"][:, k], wanted, rtol=1e-6)
        for name in CATEGORICAL_NAMES:
            kept = np.array([int(t or b"0", 16) == int(g or b"0", 16) and bool(t) == bool(g)
                             for t, g in zip(given[name], good[name], strict=True)])  # fmt: skip
            np.testing.assert_array_equal(found[name][kept], known[name][kept])

    search(hypothesis.given(st.lists(place, min_size=1, max_size=3))(one), count)


def test_a_saved_model_has_the_vocabulary_inside(converted, read_blocks, tmp_path):
    lines, data, raw = converted(min_count=4)
    info = DatasetInfo.load(data)
    tables = tuple(
        FeatureConfig(
            c.name,
            TableConfig(c.name, c.vocabulary_size, 4, out_of_vocabulary=0, optimizer=SGD(0.01)),
        )
        for c in info.schema.categorical
    )
    model = DLRM(DLRMConfig(13, tables, (4,), (1,), interaction="concat", seed=1))
    export_model(model, info.schema, str(tmp_path / "export"), {"step": 1}, raw=raw)
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    features, labels = read_blocks(data, "evaluation")
    rows = len(labels)
    answer = loaded.signatures["serve_raw"](**fields_of(lines[-rows:]))["probability"]
    expected = tf.sigmoid(model(features))[:, 0]
    assert rows > 40 and np.std(expected) > 1e-3
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    blank = {name: tf.constant([""]) for name in FIELDS}
    ids = {name: values for name, values in raw.features(blank).items() if name != "dense"}
    expected = tf.sigmoid(model({"dense": tf.zeros((1, 13)), **ids}))[:, 0]
    answer = loaded.signatures["serve_raw"](**blank)["probability"]
    np.testing.assert_allclose(answer, expected, atol=1e-6)


def test_data_that_are_no_log(tmp_path):
    with DatasetWriter(str(tmp_path), Schema((), (CategoricalColumn("x", 3),)), {}) as writer:
        writer.write("train", {"x": np.zeros(3, np.int64)}, np.zeros(3, np.float32))
    with pytest.raises(UserError, match="does not say of which text it was made"):
        RawTable(DatasetInfo.load(str(tmp_path)), str(tmp_path))


def test_a_damaged_vocabulary_is_named(converted, tmp_path):
    _, data, _ = converted()
    copy = str(shutil.copytree(data, tmp_path / "copy"))
    pathlib.Path(copy, "vocabulary", "C7.npy").write_bytes(b"damaged")
    with pytest.raises(UserError, match="The vocabulary .*C7.npy is missing or damaged"):
        RawTable(DatasetInfo.load(copy), copy)
