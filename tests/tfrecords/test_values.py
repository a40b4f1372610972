"""The values of ids, against the rows that they were made of."""

import collections
import io
import random

import pytest

from tfrecords.conversion.convert import convert
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.progress import Progress
from tfrecords.values import values

_TOML = """
format = "csv"
label = "y"
[categorical]
item = {kind = "integer", min_count = 2}
hex = {kind = "hexadecimal", separator = "|"}
city = "text"
hashed = {column = "city", hash_buckets = 5}
"""


@pytest.fixture
def converted(tmp_path):
    rng = random.Random(1)
    rows = [
        (k % 2, rng.choice(["", "-5", "12", str(2**62), str(100 + k)]),
         "|".join(rng.choices(["0000000a", "deadbeef", ""], k=rng.randrange(1, 4))), "Bern")
        for k in range(70)
    ]  # fmt: skip
    path = tmp_path / "t.csv"
    path.write_text("y,item,hex,city\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    format = TabularFormat(from_toml(_TOML, "t.toml"))
    convert([str(path)], str(tmp_path / "d"), format, Options(), Progress(io.StringIO()), 1)
    return str(tmp_path / "d"), rows[:60]


def test_each_id_has_its_value_and_its_count(converted):
    folder, rows = converted
    info = DatasetInfo.load(folder)
    of_rows = {
        "item": [row[1] for row in rows],
        "hex": [value for row in rows if row[2] for value in row[2].split("|")],
    }
    for name, least in (("item", 2), ("hex", 1)):
        counts = collections.Counter(of_rows[name])
        known = [value for value in dict.fromkeys(of_rows[name]) if counts[value] >= least]
        rest = len(of_rows[name]) - sum(counts[value] for value in known)
        assert list(values(folder, info, name)) == [
            f"0\t(out of vocabulary)\t{rest}",
            *(f"{id}\t{value}\t{counts[value]}" for id, value in enumerate(known, 1)),
        ]


def test_values_that_cannot_be_told(converted):
    folder, _ = converted
    info = DatasetInfo.load(folder)
    with pytest.raises(DataError, match="'city' holds fingerprints of texts"):
        list(values(folder, info, "city"))
    with pytest.raises(DataError, match="has no vocabulary of 'hashed'; it has item, hex, city"):
        list(values(folder, info, "hashed"))
