"""Conversions of random rows by random options, against a plain reading of the options."""

import collections
import dataclasses
import functools
import io
import json
import math
import os
import pathlib
import random
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfrecords import writer
from tfrecords.conversion import memory, shuffle
from tfrecords.conversion.convert import convert
from tfrecords.conversion.formats import BadRow, InputColumn, Parsed, Piece
from tfrecords.conversion.options import MemoryTooSmall, Options
from tfrecords.conversion.rows import Rows
from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers
from tfrecords.progress import Progress

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


def splitmix(*parts):
    """What `hash_numbers` should be, by Python's own numbers."""
    state = 0
    for part in parts:
        state = ((state ^ part % 2**64) + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state


def test_hashes_are_splitmix64():
    # The first number after the seed 1234567, as others have published it.
    assert splitmix(1234567) == 6457827717110365317
    numbers = [0, 1, 2**31, 2**63 - 1, -1]
    for parts in ((7,), (2**64 - 1, 5), (-3, 2**63)):
        hashed = hash_numbers(*parts, np.array(numbers))
        assert hashed.tolist() == [splitmix(*parts, number) for number in numbers]


def bag(first, hotness, size, column, options):
    """The ids that MLPerf's way makes of one."""
    ids = [first]
    for place in range(1, hotness):
        hashed = splitmix(splitmix(options.seed, 0x6D756C74, column), first, place)
        if options.multi_hot_distribution == "uniform":
            ids.append(hashed % size)
        else:
            square = (((hashed >> 11) + 0.5) * 2.0**-53) ** 2
            ids.append(int(math.fmod(math.floor(1 / square**2 - 1), size)))
    return ids


def expected(files, columns, options):
    """Splits to rows `(label, x, y, ids of each column)`, and the number of ids of each column."""
    rows = [
        (file, row)
        for file, lines in enumerate(files)
        for row in (json.loads(line) for line in lines if line != "bad")
    ]

    def kept(number):
        hashed = splitmix(splitmix(options.seed, 0x6E656761), number)
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
    elif options.split == "files":
        names = ["evaluation"] * options.held_out_files[0] + ["test"] * options.held_out_files[1]
        names = ["train"] * (len(files) - len(names)) + names
        splits = {name: [] for name in names}
        for n in numbers:
            splits[names[rows[n][0]]].append(n)
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
            splits["train"], key=lambda n: (0 if total else day[n], splitmix(options.seed, n))
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
                ids = bag(*ids, options.multi_hot[index], sizes[index], index, options)
            cells.append(tuple(ids))
        return (*(float(np.float32(value)) for value in row[:3]), *cells)

    return {name: [converted(n) for n in split] for name, split in splits.items()}, sizes, known


@pytest.fixture(scope="session")
def read(read_blocks):
    """All rows of a data set, by splits, as `expected` has them."""

    def run(folder, info):
        splits = {}
        for name in info.splits:
            columns, label = read_blocks(folder, name)
            cells = [label.tolist(), *columns["dense"].T.tolist()]
            for column in info.schema.categorical:
                rows = columns[column.name]
                rows = rows if column.hotness is None else rows.reshape(len(label), -1).tolist()
                cells.append([tuple(ids) for ids in rows])
            splits[name] = list(zip(*cells, strict=True))
        return splits

    return run


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
    splits = ["none", "last_seventh", "last_day", "0.3"]
    held_out = (0, 0)
    if len(files) > 1:
        splits.append("files")
        held_out = draw(
            st.tuples(st.integers(0, 2), st.integers(0, 2)).filter(
                lambda held: 0 < sum(held) < len(files)
            )
        )
    split = draw(st.sampled_from(splits))
    options = Options(
        min_count=1 if reference else draw(st.integers(1, 3)),
        vocabulary="all" if reference else draw(st.sampled_from(["train", "all"])),
        split=split,
        held_out_files=held_out if split == "files" else (0, 0),
        shuffle=draw(st.sampled_from(["none", "day", "total"])),
        seed=draw(st.integers(0, 3)),
        reference=reference,
        on_bad_row="skip",
        on_odd_labels="accept",
        rows_per_record=draw(st.sampled_from([3, 8192])),
        keep_negatives=draw(st.sampled_from([1.0, 1.0, 0.5])),
        multi_hot=(3, 2) if multi_hot else (),
        multi_hot_distribution=draw(st.sampled_from(["uniform", "pareto"])),
    )
    if options.split not in ("none", "files") and draw(st.booleans()):
        options = dataclasses.replace(options, tuning=True)
    return files, JsonLines(columns, draw(st.integers(1, 9))), options, draw(st.booleans())


def _check(files, source, options, little_memory, read):
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
        output = os.path.join(folder, "set")
        run = functools.partial(convert, paths, output, source, options, _quiet(), threads=2)
        needed = 3 if options.tuning else 2
        try:
            if options.split == "last_day" and len(files) < needed:
                raise ValueError("too few files")
            splits, sizes, known = expected(files, source.columns, options)
        except ValueError:
            with pytest.raises(DataError):
                run()
            return
        info = run()
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


@given(conversions())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_conversion(read, case):
    _check(*case, read)


_COLUMNS = (InputColumn(ONE), InputColumn(FIXED, vocabulary_size=5))
_MORE_COLUMNS = (*_COLUMNS, InputColumn(PAIR, 2, min_count=2), InputColumn(MANY, None))


def _some_files(columns):
    """Four days of rows, whose keys come once to six times."""
    rng = random.Random(11)
    keys = [*range(15), *(2**63 - n for n in range(15)), 1 << 32, 2**64 - 1]

    def cells(column):
        count = rng.randrange(4) if column.hotness is None else column.hotness
        return [rng.choice(range(5) if column.vocabulary_size else keys) for _ in range(count)]

    def row():
        return json.dumps([int(rng.random() < 0.4), rng.randrange(99), 0.5, *map(cells, columns)])

    return [["bad" if n % 9 == 4 else row() for n in range(rows)] for rows in (23, 17, 31, 19)]


# Each of them alone sees a break of what it names, whatever examples are drawn above.
_CASES = {
    "sampled": {"keep_negatives": 0.5, "seed": 3},
    "sampled, all counted": {"keep_negatives": 0.5, "seed": 1, "vocabulary": "all", "split": "0.3"},
    "sampled before the split": {"keep_negatives": 0.4, "seed": 2, "reference": True},
    "tuning, sampled before": {"tuning": True, "keep_negatives": 0.4, "seed": 2, "reference": True},
    "reference": {"reference": True, "split": "last_day", "shuffle": "day", "seed": 6},
    "days": {"shuffle": "day", "split": "last_day", "seed": 2, "min_count": 2},
    "sevenths": {"shuffle": "day", "seed": 4, "keep_negatives": 0.7},
    "total": {"shuffle": "total", "seed": 1, "min_count": 3, "vocabulary": "all"},
    "tuning": {"tuning": True, "split": "last_day", "min_count": 2, "vocabulary": "all"},
    "files": {"split": "files", "held_out_files": (1, 1), "min_count": 2, "shuffle": "day"},
    "files, all counted": {"split": "files", "held_out_files": (0, 2), "vocabulary": "all"},
    "files, sampled": {"split": "files", "held_out_files": (2, 0), "keep_negatives": 0.5},
    "uniform": {"multi_hot": (3, 2), "seed": 5, "min_count": 2},
    "pareto": {"multi_hot": (4, 3), "seed": 6, "multi_hot_distribution": "pareto"},
}


@pytest.mark.parametrize("little_memory", [False, True])
@pytest.mark.parametrize("options", _CASES.values(), ids=_CASES)
def test_some_conversions(read, options, little_memory):
    columns = _COLUMNS if "multi_hot" in options else _MORE_COLUMNS
    always = {"on_odd_labels": "accept", "on_bad_row": "skip", "rows_per_record": 7}
    how = Options(**{**always, **options})
    _check(_some_files(columns), JsonLines(columns, 6), how, little_memory, read)


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
    accept = Options(split="none", on_odd_labels="accept")
    with pytest.raises(DataError, match=r"Row 1 of column 'fixed' has the id 5; .*\[0, 5\)"):
        convert([str(path)], str(tmp_path / "set"), source, accept, _quiet())
    path.write_text("[1, 0, 0, [18446744073709551615]]\n")
    with pytest.raises(DataError, match="Row 0 of column 'fixed' has the id"):
        convert([str(path)], str(tmp_path / "set"), source, accept, _quiet())
    assert os.listdir(tmp_path) == ["rows"]


def test_ids_of_64_bits_and_ragged_columns_are_shuffled(tmp_path, read):
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
    assert [row[1] for row in got] == sorted(range(300), key=lambda n: splitmix(3, n))
    for row in got:
        n = int(row[1])
        assert row[3:] == ((2**40 + n,), tuple(2**40 * k for k in range(n % 5)))


def test_multi_hot_that_does_not_fit(tmp_path):
    paths, source = _distinct(tmp_path, 10)
    with pytest.raises(
        DataError, match="names 2 numbers of ids, where the input has 1 categorical"
    ):
        convert(paths, str(tmp_path / "set"), source, Options(multi_hot=(2, 2)), _quiet())
    source = JsonLines((InputColumn(MANY, None),), 10)
    with pytest.raises(DataError, match="the column 'many' has any number of ids already"):
        convert(paths, str(tmp_path / "set"), source, Options(multi_hot=(2,)), _quiet())
