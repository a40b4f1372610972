"""Conversions of random rows by random options, against a plain reading of the options."""

import collections
import io
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrecords import block, writer
from tfrecords.conversion import memory, shuffle
from tfrecords.conversion.convert import convert
from tfrecords.conversion.formats import BadRow, InputColumn, Parsed, Piece
from tfrecords.conversion.multi_hot import bags
from tfrecords.conversion.options import MemoryTooSmall, Options
from tfrecords.conversion.rows import Rows
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.hashing import hash_number
from tfrecords.progress import Progress
from tfrecords.record_format import read_records

ONE, PAIR, MANY, FIXED = "one", "a pair/of ids", "many", "fixed"


class JsonLines:
    """A row is a list: label, two dense values, and a list of keys for each column."""

    name, label, dense = "json", "clicked", ("x", "y")

    def __init__(self, columns, lines_per_piece):
        self.columns = columns
        self._lines = lines_per_piece

    def describe(self):
        return {"name": self.name}

    def pieces(self, path, start=0):
        lines = pathlib.Path(path).read_text().splitlines()
        for first in range(start, len(lines), self._lines):
            part = lines[first : first + self._lines]
            yield Piece(path, first, first + len(part), first + 1, part, first)

    def parse(self, piece):
        rows, bad = [], []
        for number, line in enumerate(piece.data):
            if line == "bad":
                bad.append(BadRow(number, "badness", "it is bad"))
            else:
                rows.append(json.loads(line))
        if not rows:
            return Parsed(len(piece.data), None, bad)
        keys, lengths = [], []
        for index, column in enumerate(self.columns):
            values = [row[3 + index] for row in rows]
            keys.append(np.array(sum(values, []), np.uint64))
            ragged = column.hotness is None
            lengths.append(np.array([len(v) for v in values], np.int32) if ragged else None)
        return Parsed(
            len(piece.data),
            Rows(
                np.array([row[0] for row in rows], np.float32),
                np.array([row[1:3] for row in rows], np.float32).T,
                tuple(keys),
                tuple(lengths),
            ),
            bad,
        )


def expected(files, columns, options):
    """Splits to rows `(label, x, y, ids of each column)`, and the number of ids of each column."""
    rows = [
        (file, row)
        for file, lines in enumerate(files)
        for row in (json.loads(line) for line in lines if line != "bad")
    ]

    def kept(number):
        hashed = hash_number(hash_number(options.seed, 0x6E656761), number)
        return rows[number][1][0] > 0 or (hashed >> 11) * 2.0**-53 < options.keep_negatives

    numbers = [n for n in range(len(rows)) if not options.reference or kept(n)]
    last = len(files) - 1

    def hold_out(numbers, file):
        if options.split == "last_day":
            cut = sum(rows[n][0] < file for n in numbers)
        else:
            share = 1 / 7 if options.fraction is None else options.fraction
            cut = len(numbers) - (
                len(numbers) // 7 if options.fraction is None else int(len(numbers) * share)
            )
        return numbers[:cut], numbers[cut:]

    if options.split == "none":
        splits = {"train": numbers}
    else:
        if options.tuning:
            numbers, _ = hold_out(numbers, last)
            last -= 1
        train, rest = hold_out(numbers, last)
        splits = {"train": train, "evaluation": rest}
        if options.split == "last_day":
            half = -(-len(rest) // 2)
            first, second = rest[:half], rest[half:]
            splits["evaluation"] = second if options.reference else first
            splits["test"] = first if options.reference else second
    if not all(splits.values()):
        raise ValueError("an empty split")
    used = [n for split in splits.values() for n in split]
    if options.split == "last_day":
        day = {n: rows[n][0] for n in used}
    else:
        quotient, remainder = divmod(len(used), 7)
        sizes = [quotient + (chunk < remainder) for chunk in range(7)]
        days = sum(([number] * size for number, size in enumerate(sizes)), [])
        day = dict(zip(sorted(used), days, strict=True))
    if not options.reference:
        splits["train"] = [n for n in splits["train"] if kept(n)]
        if not splits["train"]:
            raise ValueError("no training row is left")
    counted = splits["train"] if options.vocabulary == "train" else sum(splits.values(), [])
    if options.shuffle != "none":
        total = options.shuffle == "total"
        splits["train"] = sorted(
            splits["train"], key=lambda n: (0 if total else day[n], hash_number(options.seed, n))
        )
    reserved = 0 if options.reference else 1
    known, sizes = [], []
    for index, column in enumerate(columns):
        values = [value for n in sorted(counted) for value in rows[n][1][3 + index]]
        counts = collections.Counter(values)
        ids: dict = {}
        for value in values:
            if counts[value] >= (column.min_count or options.min_count):
                ids.setdefault(value, len(ids) + reserved)
        fixed = column.vocabulary_size
        known.append({n: n for n in range(fixed)} if fixed else ids)
        sizes.append(fixed or max(1, len(ids) + reserved))

    def converted(n):
        row = rows[n][1]
        cells = []
        for index in range(len(columns)):
            ids = [known[index].get(value, 0) for value in row[3 + index]]
            if options.multi_hot:
                (bag,) = bags(
                    np.array(ids),
                    options.multi_hot[index],
                    sizes[index],
                    index,
                    options.multi_hot_distribution,
                    options.seed,
                ).tolist()
                assert bag[0] == ids[0]
                ids = bag
            cells.append(tuple(ids))
        return (*(float(np.float32(value)) for value in row[:3]), *cells)

    return {name: [converted(n) for n in split] for name, split in splits.items()}, sizes, known


def read(folder, info):
    splits = {}
    for name, split in info.splits.items():
        rows = []
        for file in split.files:
            with open(os.path.join(folder, file.path), "rb") as stream:
                for _, data in read_records(stream):
                    rows += _rows(info.schema, block.decode(info.schema, data))
        splits[name] = rows
    return splits


def _rows(schema, columns):
    count = len(columns[schema.label])
    cells = [columns[schema.label].tolist(), *columns["dense"].T.tolist()]
    for column in schema.categorical:
        values = columns[column.name]
        if column.hotness is None:
            ends = np.cumsum(columns[column.name + block.LENGTHS])
            cells.append([tuple(part.tolist()) for part in np.split(values, ends)[:count]])
        else:
            cells.append([tuple(ids) for ids in values.reshape(count, -1).tolist()])
    return list(zip(*cells, strict=True))


@st.composite
def conversions(draw):
    multi_hot = draw(st.booleans())
    columns = (InputColumn(ONE), InputColumn(FIXED, vocabulary_size=5))
    if not multi_hot:
        columns += (InputColumn(PAIR, 2, min_count=draw(st.sampled_from([None, 2]))),)
        columns += (InputColumn(MANY, None),)
    # Keys of all sizes: those too wide for a position below them are encoded in another way.
    key = st.sampled_from([0, 1, 2, 3, 1 << 32, 2**64 - 1, 2**63, 77])

    def cells(column):
        keys = st.integers(0, 4) if column.vocabulary_size else key
        least, most = (0, 4) if column.hotness is None else (column.hotness, column.hotness)
        return st.lists(keys, min_size=least, max_size=most)

    row = st.tuples(
        st.sampled_from([0, 0, 1]),
        st.floats(-100, 100, width=32),
        st.integers(0, 9),
        *(cells(column) for column in columns),
    ).map(json.dumps)
    file = st.lists(st.one_of(row, row, row, st.just("bad")), min_size=1, max_size=25)
    files = draw(st.lists(file, min_size=1, max_size=4))
    reference = draw(st.booleans())
    options = Options(
        min_count=1 if reference else draw(st.integers(1, 3)),
        vocabulary="all" if reference else draw(st.sampled_from(["train", "all"])),
        split=draw(st.sampled_from(["none", "last_seventh", "last_day", "0.3"])),
        shuffle=draw(st.sampled_from(["none", "day", "total"])),
        seed=draw(st.integers(0, 3)),
        reference=reference,
        on_bad_row="skip",
        rows_per_record=draw(st.sampled_from([3, 8192])),
        keep_negatives=draw(st.sampled_from([1.0, 1.0, 0.5])),
        multi_hot=(3, 2) if multi_hot else (),
        multi_hot_distribution=draw(st.sampled_from(["uniform", "pareto"])),
    )
    if options.split != "none" and draw(st.booleans()):
        options = Options(**{**options.describe(), "tuning": True})
    return files, JsonLines(columns, draw(st.integers(1, 9))), options, draw(st.booleans())


@given(conversions())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_conversion(case):
    files, source, options, little_memory = case
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if little_memory:
            patch.setattr(memory.Memory, "counting_bytes", 200)
            patch.setattr(memory.Memory, "merging_bytes", 400)
            patch.setattr(memory.Memory, "bucket_bytes", 500)
            patch.setattr(shuffle, "_FLUSH_BYTES", 300)
            patch.setattr(writer, "RECORDS_PER_FILE", 2)
        paths = []
        for number, lines in enumerate(files):
            paths.append(os.path.join(folder, str(number)))
            pathlib.Path(paths[-1]).write_text("\n".join(lines) + "\n")
        needed = 3 if options.tuning else 2
        try:
            if options.split == "last_day" and len(files) < needed:
                raise ValueError("too few files")
            splits, sizes, known = expected(files, source.columns, options)
        except ValueError:
            with pytest.raises(DataError):
                convert(paths, os.path.join(folder, "set"), source, options, _quiet())
            return
        output = os.path.join(folder, "set")
        info = convert(paths, output, source, options, _quiet(), threads=2)
        assert read(output, info) == splits
        assert [column.vocabulary_size for column in info.schema.categorical] == sizes
        assert set(info.splits) == set(splits)
        for column, ids in zip(source.columns, known, strict=True):
            if column.vocabulary_size is None:
                vocabulary = info.vocabularies[column.name]
                keys = np.load(os.path.join(output, vocabulary.path)).tolist()
                assert {key: n + vocabulary.reserved for n, key in enumerate(keys)} == ids
            else:
                assert column.name not in info.vocabularies


def _quiet():
    return Progress(io.StringIO())


def _distinct(tmp_path, rows):
    path = tmp_path / "rows"
    lines = [json.dumps([n % 2, 0, 0, [n * 2654435761 % 2**32]]) for n in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return [str(path)], JsonLines((InputColumn(ONE),), 500)


def test_vocabularies_that_do_not_fit(tmp_path):
    paths, source = _distinct(tmp_path, 20_000)
    output = str(tmp_path / "set")
    with pytest.raises(MemoryTooSmall) as raised:
        convert(paths, output, source, Options(split="none", memory_gb=1e-4), _quiet())
    said = str(raised.value)
    assert "20,000 values (the largest: one 20,000)" in said and "--min_count" in said
    enough = float(said.split("Use --memory_gb=")[1].split(" ")[0])
    stream = io.StringIO()
    info = convert(paths, output, source, Options(split="none", memory_gb=enough), Progress(stream))
    assert info.vocabularies[ONE].values == 20_000
    assert "Using 20,000 rows that were parsed already." in stream.getvalue()


def test_ids_beyond_a_vocabulary_of_fixed_size(tmp_path):
    path = tmp_path / "rows"
    path.write_text("[1, 0, 0, [4]]\n[1, 0, 0, [5]]\n")
    source = JsonLines((InputColumn(FIXED, vocabulary_size=5),), 10)
    with pytest.raises(DataError, match=r"Row 1 of column 'fixed' has the id 5; .*\[0, 5\)"):
        convert([str(path)], str(tmp_path / "set"), source, Options(split="none"), _quiet())
    path.write_text("[1, 0, 0, [18446744073709551615]]\n")
    with pytest.raises(DataError, match="Row 0 of column 'fixed' has the id"):
        convert([str(path)], str(tmp_path / "set"), source, Options(split="none"), _quiet())
    assert os.listdir(tmp_path) == ["rows"]


def test_ids_of_64_bits_and_ragged_columns_are_shuffled(tmp_path):
    path = tmp_path / "rows"
    rows = [[n % 2, n, 0, [2**40 + n], [2**40 * k for k in range(n % 5)]] for n in range(300)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    columns = (InputColumn("big", 1, 2**50), InputColumn("bag", None, 2**50))
    source = JsonLines(columns, 70)
    output = str(tmp_path / "set")
    info = convert(
        [str(path)], output, source, Options(split="none", shuffle="total", seed=3), _quiet()
    )
    (got,) = read(output, info).values()
    assert [row[1] for row in got] == sorted(range(300), key=lambda n: hash_number(3, n))
    for row in got:
        n = int(row[1])
        assert row[3:] == ((2**40 + n,), tuple(2**40 * k for k in range(n % 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": "some"}, "--shuffle must be none, day or total, not 'some'"),
        ({"keep_negatives": 0.0}, "--keep_negatives .* above 0 and at most 1, not 0.0"),
        ({"keep_negatives": float("nan")}, "--keep_negatives .* not nan"),
        ({"memory_gb": 0.0}, "--memory_gb must be a number above 0, not 0.0"),
        ({"multi_hot": (2, 0)}, "--multi_hot must be mlperf or numbers of at least 1"),
        ({"multi_hot_distribution": "zipf"}, "--multi_hot_distribution must be one of uniform"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(DataError, match=message):
        Options(**options)


def test_multi_hot_that_does_not_fit(tmp_path):
    paths, source = _distinct(tmp_path, 10)
    with pytest.raises(
        DataError, match="names 2 numbers of ids, where the input has 1 categorical"
    ):
        convert(paths, str(tmp_path / "set"), source, Options(multi_hot=(2, 2)), _quiet())
    source = JsonLines((InputColumn(MANY, None),), 10)
    with pytest.raises(DataError, match="the column 'many' has any number of ids already"):
        convert(paths, str(tmp_path / "set"), source, Options(multi_hot=(2,)), _quiet())


def test_dataset_json_says_what_was_dropped(tmp_path):
    paths, source = _distinct(tmp_path, 1000)
    options = Options(split="0.2", keep_negatives=0.25)
    info = convert(paths, str(tmp_path / "set"), source, options, _quiet())
    assert DatasetInfo.load(str(tmp_path / "set")) == info
    dropped = info.how_it_was_made["negative_rows_dropped"]
    assert info.how_it_was_made["options"]["keep_negatives"] == 0.25
    # 400 negatives for training, three quarters of which are dropped.
    assert abs(dropped - 300) < 40
    assert info.splits["train"].rows == 800 - dropped
    assert info.splits["evaluation"].rows == 200
