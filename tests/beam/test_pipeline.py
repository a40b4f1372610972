"""The pipeline writes what the conversion on one machine writes."""

import collections
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip(
    "apache_beam", reason="apache-beam is not installed; pip install 'tf-dlrm[beam]' brings it."
)

from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.description_file import load
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.reader import RecordSource

TABLE = """
format = "{format}"
ignore = ["id"]

[label]
column = "click"

[dense]
price = "log1p"

[categorical]
city = "text"
tags = {{kind = "text", separator = "|", hotness = "any", min_count = 2}}
"""


def _same(both) -> None:
    local, beam = both
    assert sorted(local) == sorted(beam)
    for name in local:
        assert local[name] == beam[name], name


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ({}, {"min_count": 2}),
        ({}, {"shuffle": "total", "seed": 3}),
        ({}, {"shuffle": "day", "split": "0.2", "tuning": True}),
        ({"max_index_range": 50, "bucketize_dense": True}, {"split": "none", "vocabulary": "all"}),
        ({}, {"keep_negatives": 0.4, "seed": 1}),
        ({"reference": True}, {"reference": True, "keep_negatives": 0.4}),
        ({}, {"multi_hot": (3, *(1,) * 24, 5), "multi_hot_distribution": "pareto"}),
    ],
    ids=["min_count", "total", "day", "range", "negatives", "reference", "multi_hot"],
)
def test_kaggle_gives_the_same_bytes(criteo_file, convert_both, format, options):
    options = Options(rows_per_record=64, **options)
    both = convert_both([criteo_file], CriteoFormat(**format), options)
    _same(both)
    assert "vocabulary/C1.npy" in both[1]


@pytest.mark.parametrize("shuffle", ["none", "day", "total"])
def test_many_files_of_equal_size_give_the_same_bytes(criteo_file, convert_both, shuffle):
    options = Options(rows_per_record=16, shuffle=shuffle, split="0.1")
    both = convert_both([criteo_file], CriteoFormat(), options, records_per_file=3)
    _same(both)
    # 630 training rows, 48 in a file.
    assert sum(name.startswith("train-") for name in both[1]) == 14


@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_several_workers_give_the_same_bytes(criteo_file, convert_both, workers):
    options = Options(min_count=2, shuffle="total", rows_per_record=64)
    _same(convert_both([criteo_file], CriteoFormat(), options, workers, records_per_file=2))


def test_compressed_days_give_the_same_bytes(tmp_path, criteo_lines, convert_both):
    paths = []
    for day, rows in enumerate((150, 90, 121)):
        paths.append(tmp_path / f"day_{day}.gz")
        text = "\n".join(criteo_lines(rows, day)) + "\n"
        paths[-1].write_bytes(gzip.compress(text.encode()))
    options = Options(split="last_day", keep_negatives=0.5, rows_per_record=32)
    both = convert_both(paths, CriteoFormat("terabyte"), options, "threads")
    _same(both)
    assert "test-00000.tfrecord" in both[1]


def test_bad_rows_are_skipped_and_counted_alike(tmp_path, criteo_lines, convert_both):
    lines = criteo_lines(100)
    lines[13] = "nonsense"
    lines[70] = "2" + lines[70][1:]
    (tmp_path / "input.txt").write_text("\n".join(lines))
    options = Options(on_bad_row="skip", rows_per_record=32)
    local, beam = convert_both([tmp_path / "input.txt"], CriteoFormat(), options)
    _same((local, beam))
    assert b'"label": 1' in beam["dataset.json"]


def test_shuffled_and_sampled_rows_are_the_same_ones(tmp_path, criteo_file, convert_both):
    options = Options(keep_negatives=0.5, shuffle="total", rows_per_record=64)
    local, beam = convert_both([criteo_file], CriteoFormat(), options)
    assert [name for name in local if local[name] != beam[name]]
    for name in local:
        if name.startswith(("vocabulary/", "evaluation-")):
            assert local[name] == beam[name]
    found = []
    for folder in ("local", "beam"):
        rows = collections.Counter()
        for features, label in RecordSource(str(tmp_path / folder)).batches("train", 100):
            columns = [np.asarray(label)[:, None], np.asarray(features["dense"])]
            columns += [np.asarray(features[f"C{i}"])[:, None] for i in range(1, 27)]
            rows.update(map(bytes, np.concatenate(columns, axis=1)))
        found.append(rows)
    assert found[0] == found[1]


@pytest.mark.parametrize("format", ["csv", "csv.gz", "parquet"])
def test_tables_with_ragged_columns_give_the_same_bytes(tmp_path, convert_both, format):
    rng = np.random.default_rng(0)
    rows = 400
    table = pa.table(
        {
            "id": np.arange(rows),
            "click": rng.integers(0, 2, rows),
            "price": rng.integers(0, 1000, rows) / 10,
            "city": [f"city {i}" for i in rng.integers(0, 30, rows)],
            "tags": [
                "|".join(f"tag{i}" for i in rng.integers(0, 60, rng.integers(1, 5)))
                for _ in range(rows)
            ],
        }
    )
    kind = format.split(".")[0]
    description = tmp_path / "table.toml"
    description.write_text(TABLE.format(format=kind))
    path = tmp_path / f"table.{format}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=150)
    else:
        text = ",".join(table.column_names) + "\n"
        text += "".join(",".join(map(str, row.values())) + "\n" for row in table.to_pylist())
        path.write_bytes(gzip.compress(text.encode()) if format.endswith("gz") else text.encode())
    options = Options(shuffle="total", split="0.25", rows_per_record=32)
    source = TabularFormat(load(str(description)))
    both = convert_both([path], source, options, records_per_file=2, unit_bytes=1000)
    _same(both)
    for features, _ in RecordSource(str(tmp_path / "beam")).batches("evaluation", 100):
        assert features["tags"].row_lengths().numpy().tolist() == [
            len(tags.split("|")) for tags in table["tags"].to_pylist()[300:]
        ]
