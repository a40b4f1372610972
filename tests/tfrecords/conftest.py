"""Made-up Criteo rows, and data sets, for the tests of tfrecords."""

import io
import random

import numpy as np
import pytest

from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.options import Options
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.writer import DatasetWriter


def _line(rng: random.Random) -> str:
    fields = [str(int(rng.random() < 0.3))]
    for column in range(13):
        if rng.random() < 0.2:
            fields.append("")
        else:
            fields.append(str(rng.choice([-2, -1, 0, 1, 2, 3, 4, 17, 250, 65535 + column])))
    for column in range(26):
        if rng.random() < 0.1:
            fields.append("")
        else:
            # Few and many values, hexadecimal digits of any number and case, zero among them.
            value = rng.randrange(3 + 5 * column) * (1 if column % 2 else 151_234_567) % 2**32
            text = f"{value:08x}" if column % 3 else f"{value:x}"
            fields.append(text.upper() if column % 5 == 0 else text)
    return "\t".join(fields)


@pytest.fixture
def criteo_lines():
    """Makes lines of Criteo's text."""

    def make(count: int, seed: int = 0) -> list[str]:
        rng = random.Random(seed)
        return [_line(rng) for _ in range(count)]

    return make


@pytest.fixture
def convert_criteo():
    """Converts files; options of the format and of the conversion by their names."""

    def run(paths, output_dir, stream=None, fresh=False, **options):
        names = ("name", "max_index_range", "bucketize_dense", "reference")
        source = CriteoFormat(**{name: options[name] for name in names if name in options})
        others = {name: options[name] for name in options if name not in names[:3]}
        progress = Progress(stream or io.StringIO())
        return convert(
            [str(path) for path in paths],
            str(output_dir),
            source,
            Options(**others),
            progress,
            threads=2,
            fresh=fresh,
        )

    return run


@pytest.fixture
def convert_text(tmp_path, convert_criteo):
    """Converts lines, and returns the source."""

    def run(lines, output="out", **options) -> RecordSource:
        path = tmp_path / "input.txt"
        path.write_text("\n".join(lines) + "\n")
        output_dir = str(tmp_path / output)
        convert_criteo([str(path)], output_dir, **options)
        return RecordSource(output_dir)

    return run


@pytest.fixture
def read_all():
    """Reads a split: features and label as arrays."""

    def read(source, split, batch_size=64, **arguments):
        features: dict[str, list] = {}
        labels = []
        for batch, label in source.batches(split, batch_size, **arguments):
            labels.append(label.numpy())
            for name, column in batch.items():
                rows = column.to_list() if hasattr(column, "to_list") else column.numpy()
                features.setdefault(name, []).append(rows)
        joined = {
            name: sum(parts, []) if isinstance(parts[0], list) else np.concatenate(parts)
            for name, parts in features.items()
        }
        return joined, np.concatenate(labels) if labels else np.zeros(0, np.float32)

    return read


@pytest.fixture
def numbered(tmp_path):
    """A data set whose rows carry their number, with every kind of column."""

    def make(rows: int, rows_per_record: int = 50, records_per_file: int = 3, name="numbered"):
        rng = np.random.default_rng(rows)
        schema = Schema(
            dense=("row", "noise"),
            categorical=(
                CategoricalColumn("row_id", max(rows, 1)),
                CategoricalColumn("many", 2**31, hotness=1),
                CategoricalColumn("pair", 11, hotness=2),
                CategoricalColumn("bag", 7, hotness=None),
            ),
        )
        lengths = rng.integers(0, 4, rows)
        features = {
            "dense": np.stack([np.arange(rows), rng.random(rows)], axis=1).astype(np.float32),
            "row_id": np.arange(rows),
            "many": rng.integers(0, 2**31, rows),
            "pair": rng.integers(0, 11, (rows, 2)),
            "bag": (rng.integers(0, 7, lengths.sum()), lengths),
        }
        label = (rng.random(rows) < 0.5).astype(np.float32)
        path = str(tmp_path / name)
        with DatasetWriter(path, schema, {}, rows_per_record, records_per_file) as writer:
            writer.write("train", features, label)
        return path, features, label

    return make
