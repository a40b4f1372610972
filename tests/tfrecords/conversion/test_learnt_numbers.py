"""Numbers that are clipped, standardised or put into buckets, against NumPy."""

import functools
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_dlrm.serving.raw_table import RawTable
from tfrecords.conversion import meanings
from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml, to_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.kinds.number import Number
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.table_source import TableSource

_TOML = """
format = "csv"
label = "y"
[dense]
age = "standardise"
hours = {transform = "quantiles", buckets = 4, missing = -1}
gain = {low = 0, high = 2.5}
few = {transform = "standardise", low = -1, high = 1}
same = "standardise"
[categorical]
item = {kind = "integer", hash_buckets = 7}
"""
_NAMES = ("age", "hours", "gain", "few", "same")


def _rows(seed):
    rng = np.random.default_rng(seed)
    return {
        "y": rng.integers(0, 2, 400),
        "age": rng.normal(40, 12, 400).round(3),
        "hours": rng.integers(0, 9, 400),
        "gain": rng.normal(1, 3, 400).round(3),
        "few": rng.normal(0, 3, 400).round(3),
        "same": np.full(400, 7),
        "item": rng.integers(0, 100, 400),
    }


def _convert(tmp_path, name, columns, toml=_TOML, **options):
    path = tmp_path / f"{name}.csv"
    lines = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    path.write_text("\n".join(lines).replace(",3,", ",,") + "\n")  # some hours are missing
    output = str(tmp_path / name)
    format = TabularFormat(from_toml(toml, "t.toml"), piece_bytes=3000)
    convert([str(path)], output, format, Options(**options), Progress(io.StringIO()), 2)
    return output


def _dense(folder, split):
    return np.concatenate([f["dense"] for f, _ in RecordSource(folder).batches(split, 100)])


def _expected(columns, train):
    """What NumPy makes of columns, by the constants of the rows `train` of others."""
    wide = {name: np.float32(columns[name]).astype(np.float64) for name in _NAMES}
    wide["hours"][columns["hours"] == 3] = -1
    of = {name: np.float32(train[name]).astype(np.float64)[:343] for name in _NAMES}
    of["hours"][train["hours"][:343] == 3] = -1
    few, of_few = np.clip(wide["few"], -1, 1), np.clip(of["few"], -1, 1)
    ordered = np.sort(of["hours"])
    cuts = np.unique([ordered[343 * k // 4] for k in (1, 2, 3)])
    buckets = (wide["hours"][:, None] >= cuts).mean(1)
    return np.stack(
        [
            (wide["age"] - of["age"].mean()) / of["age"].std(),
            buckets,
            np.clip(wide["gain"], 0, 2.5),
            (few - of_few.mean()) / of_few.std(),
            wide["same"] - 7,
        ],
        1,
    )


@pytest.fixture
def converted(tmp_path):
    columns = _rows(1)
    return columns, _convert(tmp_path, "first", columns)


def test_constants_are_those_of_the_training_rows(converted):
    columns, folder = converted
    expected = _expected(columns, columns)
    np.testing.assert_allclose(_dense(folder, "train"), expected[:343], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(_dense(folder, "evaluation"), expected[343:], rtol=1e-6, atol=1e-7)


def test_pieces_and_shuffles_do_not_matter(converted, tmp_path):
    columns, folder = converted
    path = tmp_path / "first.csv"
    format = TabularFormat(from_toml(_TOML, "t.toml"))
    output = str(tmp_path / "whole")
    convert([str(path)], output, format, Options(), Progress(io.StringIO()), 1)
    read = [DatasetInfo.load(f) for f in (folder, output)]
    # but for the name of the description
    assert read[0].splits == read[1].splits and read[0].how_it_was_made == read[1].how_it_was_made
    shuffled = _convert(tmp_path, "shuffled", columns, shuffle="total")
    assert sorted(_dense(shuffled, "train").tolist()) == sorted(_dense(folder, "train").tolist())


def test_new_rows_take_the_constants_of_old_ones(converted, tmp_path):
    columns, folder = converted
    later = _rows(2)
    output = _convert(tmp_path, "later", later, split="none", vocabulary_of=folder)
    np.testing.assert_allclose(
        _dense(output, "train"), _expected(later, columns), rtol=1e-6, atol=1e-7
    )
    known, own = (
        meanings.of_data_set(DatasetInfo.load(f).how_it_was_made) for f in (folder, output)
    )
    assert known == own and "np." not in known["Feature age"].words
    alone = _convert(tmp_path, "alone", later, split="none")
    other = meanings.of_data_set(DatasetInfo.load(alone).how_it_was_made)
    assert own["Feature age"].contradicts(other["Feature age"])
    with pytest.raises(DataError, match="no column that is transformed alike"):
        toml = _TOML.replace("low = -1", "low = -2")
        _convert(tmp_path, "x", later, toml, split="none", vocabulary_of=folder)


def test_tables_and_requests_are_read_by_the_same_constants(converted, tmp_path):
    columns, folder = converted
    made = _dense(folder, "train")
    hours = pa.array(columns["hours"], mask=columns["hours"] == 3)
    table = pa.table({**columns, "hours": hours}).slice(0, 343)
    (tmp_path / "direct" / "train").mkdir(parents=True)
    pq.write_table(table, tmp_path / "direct" / "train" / "a.parquet", row_group_size=100)
    description = from_toml(_TOML.replace('"csv"', '"parquet"'), "t.toml")
    source = TableSource(str(tmp_path / "direct"), description, vocabulary_of=folder)
    read = np.concatenate([f["dense"] for f, _ in source.batches("train", 100)])
    assert read.tobytes() == made.tobytes()
    with pytest.raises(DataError, match="'age' is transformed by 'standardise', whose constants"):
        TableSource(str(tmp_path / "direct"), description)

    served = RawTable(DatasetInfo.load(folder), folder)
    values = {
        name: tf.constant(
            [str(v) if name != "hours" or v != 3 else "" for v in columns[name][:343]]
        )
        for name in served.specs
    }
    assert tf.function(served.features)(values)["dense"].numpy().tobytes() == made.tobytes()


# TensorFlow takes numbers below the smallest normal one for 0.
_SMALLEST = np.finfo(np.float32).tiny
_FLOATS = functools.partial(st.floats, allow_subnormal=False)
_NUMBERS = _FLOATS(-1e30, 1e30) | _FLOATS(-10, 10) | st.integers(-5, 5).map(float)


def _without_subnormals(numbers):
    return np.where(np.abs(numbers) < _SMALLEST, np.float32(0), numbers)


@settings(max_examples=60)
@given(
    st.lists(_NUMBERS, min_size=1, max_size=20),
    st.sampled_from(["none", "log1p", "standardise", "quantiles"]),
    st.none() | _FLOATS(-5, 0),
    st.none() | _FLOATS(1, 5),
    st.none() | _NUMBERS,
    st.data(),
)
def test_arrow_and_graph_give_the_same_numbers(values, transform, low, high, missing, data):
    constants = {}
    if transform == "standardise":
        constants = {"mean": data.draw(_NUMBERS), "deviation": data.draw(st.floats(0.1, 1e6))}
    if transform == "quantiles":
        constants = {
            "boundaries": tuple(sorted({*data.draw(st.lists(_NUMBERS, min_size=1)), *values[:2]}))
        }
    number = Number(transform, missing, low, high, **constants)
    texts = [repr(value) for value in values] + [""]
    wrong = []
    array = pa.array([*texts[:-1], None])
    found = number.read(array, lambda row, *_: wrong.append(row))
    is_missing = tf.constant([text == "" for text in texts])
    graph, fits = number.graph_read(tf.constant(texts), is_missing)
    assert np.flatnonzero(~fits.numpy()).tolist() == sorted(wrong)
    good = fits.numpy()
    if transform == "log1p":
        np.testing.assert_allclose(graph.numpy()[good], found[good], rtol=1e-6, atol=_SMALLEST)
    else:
        ours, theirs = _without_subnormals(found[good]), _without_subnormals(graph.numpy()[good])
        assert theirs.tobytes() == ours.tobytes()
    again = number.read(pa.array([*values, None], pa.float64()), lambda *_: None)
    assert again[good].tobytes() == found[good].tobytes()


def test_descriptions_with_constants_are_written_and_read():
    text = to_toml(from_toml(_TOML, "t.toml"))
    assert from_toml(text, "t.toml") == from_toml(_TOML, "t.toml")
    given = _TOML.replace(
        'age = "standardise"', 'age = {transform = "standardise", mean = 0.1, deviation = 3e-7}'
    )
    given = given.replace("buckets = 4", "buckets = 4, boundaries = [0.1, 2]")
    assert from_toml(to_toml(from_toml(given, "t.toml")), "t.toml") == from_toml(given, "t.toml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{transform = "quantiles"}', "and buckets = a number go together"),
        ("{buckets = 3}", "and buckets = a number go together"),
        ('{transform = "quantiles", buckets = 1}', "buckets must be from 2 to 1000, not 1"),
        ('{transform = "quantiles", buckets = 3, boundaries = [2, 1]}', "ascending numbers, not"),
        ('{transform = "quantiles", buckets = 3, boundaries = ["a"]}', "ascending numbers, not"),
        ("{boundaries = [1]}", "boundaries are for transform = 'quantiles'"),
        ('{transform = "standardise", mean = 1}', "mean and deviation go together"),
        ('{transform = "standardise", mean = 1, deviation = 0}', "must be above 0"),
        ("{mean = 1, deviation = 1}", "are for transform = 'standardise'"),
        ("{low = 1, high = 1}", "low must be below high = 1.0, not 1.0"),
    ],
)
def test_other_transforms_are_refused(entry, message):
    with pytest.raises(DataError, match=message):
        from_toml(f'format = "csv"\nlabel = "y"\n[dense]\nage = {entry}', "t.toml")
