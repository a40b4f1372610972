"""Labels that nothing can be learnt from: all alike, or of texts that never occur."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrecords import examples
from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.errors import DataError
from tfrecords.odd_labels import OddLabels
from tfrecords.progress import Progress
from tfrecords.reader import RecordSource
from tfrecords.schema import Schema
from tfrecords.writer import DatasetWriter

_TOML = 'format = "{form}"\n[label]\ncolumn = "y"\n{label}\n[dense]\nx = "none"\n'
_TEXT = [" >50K" if row % 3 == 0 else " <=50K" for row in range(70)]


@pytest.fixture
def made(tmp_path):
    """Converts a table of a label and a number; returns labels of the splits and what was said."""

    def run(values, label, form="csv", **options):
        path = tmp_path / f"in.{form}"
        if form == "parquet":
            pq.write_table(pa.table({"y": values, "x": list(range(len(values)))}), path)
        else:
            rows = [f"{value},{x}" for x, value in enumerate(values)]
            text = "\n".join(["y,x", *rows]) + "\n"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        source = TabularFormat(
            from_toml(_TOML.format(form=form, label=label), "t.toml"), piece_bytes=100
        )
        said, out = io.StringIO(), str(tmp_path / "out")
        convert([str(path)], out, source, Options(**options), Progress(said), threads=2)
        read = RecordSource(out)
        labels = {
            split: np.concatenate([label for _, label in read.batches(split, 64)]).tolist()
            for split in read.info.splits
        }
        return labels, said.getvalue()

    return run


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_text_that_never_occurs(made, form):
    with pytest.raises(OddLabels) as raised:
        made(_TEXT, 'positive_values = [">50K"]', form)
    said = str(raised.value)
    assert "The text '>50K' of the description's label stands in no row" in said
    assert "the column 'y' holds ' <=50K', ' >50K'" in said
    with pytest.raises(OddLabels, match="The text 'no' of the description's label"):
        made([text.strip() for text in _TEXT], 'positive_values = [">50K", "no"]')
    with pytest.raises(OddLabels, match="'maybe' of the description's label stands in no row"):
        label = 'positive_values = [" >50K"]\nnegative_values = [" <=50K", "maybe"]'
        made(_TEXT, label, form)
    labels, _ = made(_TEXT, 'positive_values = [" >50K"]', form)
    assert labels["train"] + labels["evaluation"] == [float(row % 3 == 0) for row in range(70)]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_threshold_that_makes_all_alike(made, form):
    values = [1 + row % 2 for row in range(70)]
    with pytest.raises(OddLabels, match="All 60 rows of the split 'train' have the label 1") as e:
        made(values, "positive_from = 1", form)
    assert "the column 'y' holds '1', '2'" in str(e.value)
    labels, _ = made(values, "positive_from = 2", form)
    assert labels["train"] == [row % 2 for row in range(60)]


def test_one_label_in_one_split_and_how_to_ask_for_it(made, tmp_path):
    values = [row % 2 for row in range(60)] + [0] * 10
    with pytest.raises(OddLabels, match="All 10 rows of the split 'evaluation' have the label 0"):
        made(values, "")
    labels, said = made(values, "", on_odd_labels="accept")
    assert labels["evaluation"] == [0] * 10 and labels["train"] == values[:60]
    assert "Using 70 rows that were parsed already." in said
    values = [0.5] * 70
    with pytest.raises(OddLabels, match="All 60 rows of the split 'train' have the label 0.5"):
        made(values, "")


def test_only_the_rows_that_are_kept_count(made):
    values = [0.0] * 69 + [1.0]
    with pytest.raises(OddLabels, match="the split 'train' have the label 0"):
        made(values, "")
    labels, _ = made([1.0, *values], "", split="none")
    assert sum(labels["train"]) == 2
    # All negatives are dropped by their hashes: a share of 2 ** -60 keeps none of 69.
    with pytest.raises(OddLabels, match="All 2 rows of the split 'train' have the label 1"):
        made([1.0, *values], "", split="none", keep_negatives=2.0**-60)


def test_criteos_log(tmp_path, criteo_lines, run_command):
    path = tmp_path / "in.txt"
    path.write_text("\n".join(f"0{line[1:]}" for line in criteo_lines(70)) + "\n")
    flags = [f"--input={path}", f"--output_dir={tmp_path / 'out'}"]
    done = run_command("tfrecords.convert_criteo", *flags)
    assert done.code == 1 and "the split 'train' have the label 0" in done.err
    done = run_command("tfrecords.convert_criteo", *flags, "--on_odd_labels=accept")
    assert done.code == 0, done.err
    assert "Wrote" in done.err and CriteoFormat().label == "label"


def test_examples(tmp_path, run_command):
    rows = {"dense": np.arange(4, dtype=np.float32).reshape(4, 1)}
    with DatasetWriter(str(tmp_path / "set"), Schema(("x",), ())) as writer:
        writer.write("train", rows, np.array([0, 1, 0, 1]))
        writer.write("evaluation", rows, np.array([1, 1, 1, 1]))
    examples.export_examples(RecordSource(str(tmp_path / "set")), str(tmp_path / "rows"))
    with pytest.raises(DataError, match="All 4 rows of the split 'evaluation' have the label 1"):
        examples.import_examples(str(tmp_path / "rows"), str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
    flags = [f"--dataset={tmp_path / 'rows'}", f"--output_dir={tmp_path / 'again'}"]
    done = run_command("tfrecords.examples", "import", *flags, "--on_odd_labels=accept")
    assert done.code == 0, done.err
    assert RecordSource(str(tmp_path / "again")).info.splits["evaluation"].label_sum == 4
