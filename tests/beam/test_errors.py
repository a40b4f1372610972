"""What cannot be done is said in a sentence, and leaves nothing behind."""

import dataclasses
import gzip
import io
import os

import pytest

pytest.importorskip(
    "apache_beam", reason="apache-beam is not installed; pip install 'tf-dlrm[beam]' brings it."
)

from apache_beam.options.pipeline_options import PipelineOptions

from tfrecords.beam import pipeline
from tfrecords.beam.errors import sentence
from tfrecords.conversion.convert import convert
from tfrecords.conversion.criteo import CriteoFormat
from tfrecords.conversion.description_file import from_toml
from tfrecords.conversion.options import Options
from tfrecords.conversion.tabular import TabularFormat
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.folder import lock_folder
from tfrecords.progress import Progress


@pytest.mark.parametrize("workers", ["one", "threads"])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, criteo_lines, convert_with_beam, workers):
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("\n".join(criteo_lines(120)) + "\n")
    lines = criteo_lines(120)
    lines[97] = lines[97].replace("\t", ",", 1)
    paths[1].write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        convert_with_beam(
            paths, tmp_path / "out", CriteoFormat(), Options(), workers, unit_bytes=5000
        )
    assert str(caught.value) == (
        f"Line 98 of {paths[1]} is no row: it has 39 columns, where 40 are needed. "
        "(--on_bad_row=skip leaves such lines out and counts them.)"
    )
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


def test_a_truncated_file_is_named(tmp_path, criteo_lines, convert_with_beam):
    whole = gzip.compress("\n".join(criteo_lines(200)).encode())
    path = tmp_path / "day_0.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"day_0\.gz ends in the middle of its compressed data"):
        convert_with_beam([path], tmp_path / "out", CriteoFormat(), Options())
    assert os.listdir(tmp_path) == ["day_0.gz"]


def test_a_data_set_is_replaced_only_when_asked_and_only_by_a_whole_one(
    tmp_path, criteo_file, criteo_lines, convert_with_beam
):
    out = tmp_path / "out"
    small = Options(rows_per_record=64)
    convert_with_beam([criteo_file], out, CriteoFormat(), small, records_per_file=1)
    before = {name: (out / name).stat().st_mtime_ns for name in os.listdir(out)}
    with pytest.raises(DataError, match="holds a data set already. --overwrite replaces it"):
        convert_with_beam([criteo_file], out, CriteoFormat(), Options())
    bad = tmp_path / "bad.txt"
    bad.write_text("nonsense\n")
    with pytest.raises(DataError, match="Line 1 of .*bad.txt is no row"):
        convert_with_beam([bad], out, CriteoFormat(), Options(), overwrite=True)
    assert {name: (out / name).stat().st_mtime_ns for name in os.listdir(out)} == before
    rows = convert_with_beam([criteo_file], out, CriteoFormat(), Options(), overwrite=True)
    assert rows == {"train": 600, "evaluation": 100}
    assert sorted(os.listdir(out)) == [
        "dataset.json",
        "evaluation-00000.tfrecord",
        "train-00000.tfrecord",
        "vocabulary",
    ]
    assert DatasetInfo.load(str(out)).splits["train"].rows == 600
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_other_folders_and_missing_inputs_are_refused(tmp_path, criteo_file, convert_with_beam):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("")
    (tmp_path / "empty").write_text("")
    for inputs, output, message in (
        ([criteo_file], "holiday", "is not empty and is no data set"),
        ([criteo_file], "empty", "is not empty and is no data set"),
        ([tmp_path / "none.txt"], "out", "does not exist or is no file"),
        ([tmp_path / "*.txt"], "out", "name each file"),
        ([tmp_path / "empty"], "out", "is empty"),
        ([], "out", "There is no input file"),
    ):
        with pytest.raises(DataError, match=message):
            convert_with_beam(inputs, tmp_path / output, CriteoFormat(), Options())


def test_rows_that_the_splits_cannot_share_are_refused(tmp_path, criteo_lines, convert_with_beam):
    (tmp_path / "a.txt").write_text("\n".join(criteo_lines(3)))
    with pytest.raises(DataError, match="too few for --split=last_seventh"):
        convert_with_beam([tmp_path / "a.txt"], tmp_path / "out", CriteoFormat(), Options())
    (tmp_path / "b.txt").write_text("x\ny\n")
    with pytest.raises(DataError, match="There is not one row in .* all 2 lines were skipped"):
        convert_with_beam(
            [tmp_path / "b.txt"], tmp_path / "out", CriteoFormat(), Options(on_bad_row="skip")
        )


def test_what_needs_all_rows_on_one_machine_is_refused(tmp_path, criteo_file, convert_with_beam):
    given = [criteo_file], tmp_path / "out"
    with pytest.raises(DataError, match="--split=random:0.2 is for tfrecords.convert and"):
        convert_with_beam(*given, CriteoFormat(), Options(split="random:0.2"))
    toml = 'format = "csv"\n[label]\ncolumn = "y"\n[dense]\nx = "standardise"\n'
    with pytest.raises(DataError, match="Transforms that are learnt are for tfrecords.convert"):
        convert_with_beam(*given, TabularFormat(from_toml(toml, "t.toml")), Options())


def test_two_that_write_one_folder(tmp_path, criteo_file, convert_with_beam):
    lock = lock_folder(str(tmp_path / "out"))
    with pytest.raises(DataError, match=f"Another process is writing the data set {tmp_path}/out"):
        convert_with_beam([criteo_file], tmp_path / "out", CriteoFormat(), Options())
    assert not (tmp_path / "out").exists()
    lock.release()
    convert_with_beam([criteo_file], tmp_path / "out", CriteoFormat(), Options())
    assert DatasetInfo.load(str(tmp_path / "out")).splits["train"].rows
    assert sorted(os.listdir(tmp_path)) == ["criteo.txt", "out"]


def refusal(convert, *arguments, **options):
    """What a conversion that is refused says."""
    with pytest.raises(DataError) as refused:
        convert(*arguments, **options)
    return str(refused.value)


def converted_here(inputs, output_dir, format, options):
    inputs = [str(path) for path in inputs]
    convert(inputs, str(output_dir), format, options, Progress(io.StringIO()))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("0" * 140, "All 120 rows of the split 'train' have the label 0, so nothing can be"),
        ("01" * 60 + "1" * 20, "All 20 rows of the split 'evaluation' have the label 1, so"),
    ],
    ids=["train", "evaluation"],
)
def test_labels_that_are_alike_are_refused_unless_accepted(
    tmp_path, criteo_lines, convert_with_beam, labels, said
):
    path = tmp_path / "a.txt"
    lines = [label + line[1:] for label, line in zip(labels, criteo_lines(140), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    small = {"records_per_file": 2}  # so that a split is several files, each of them alike
    options = Options(rows_per_record=8)
    given = [path], tmp_path / "out", CriteoFormat()
    found = refusal(convert_with_beam, *given, options, **small)
    assert said in found
    assert found == refusal(converted_here, *given, options)
    assert not (tmp_path / "out").exists()
    accepted = dataclasses.replace(options, on_odd_labels="accept")
    assert convert_with_beam(*given, accepted, **small) == {"train": 120, "evaluation": 20}


def test_the_label_of_a_row_by_itself_is_no_odd_one(tmp_path, criteo_lines, convert_with_beam):
    path = tmp_path / "a.txt"
    lines = [label + line[1:] for label, line in zip("0101010", criteo_lines(7), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    rows = {"train": 6, "evaluation": 1}
    assert convert_with_beam([path], tmp_path / "out", CriteoFormat(), Options()) == rows


def test_a_described_text_that_never_occurs_is_refused_unless_accepted(tmp_path, convert_with_beam):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["y,x", *(f"{'yes' if n % 3 else 'no'},{n}" for n in range(70))]))
    toml = 'format = "csv"\n[label]\ncolumn = "y"\npositive_values = ["yes", "Yes"]\n'
    format = TabularFormat(from_toml(f'{toml}[dense]\nx = "none"\n', "t.toml"))
    given = [path], tmp_path / "out", format
    found = refusal(convert_with_beam, *given, Options())
    assert "The text 'Yes' of the description's label stands in no row" in found
    assert found == refusal(converted_here, *given, Options())
    rows = {"train": 60, "evaluation": 10}
    assert convert_with_beam(*given, Options(on_odd_labels="accept")) == rows


def test_an_unknown_runner_is_named(tmp_path, criteo_file):
    with pytest.raises(DataError, match="Carthorse"):
        pipeline.convert(
            [criteo_file],
            str(tmp_path / "out"),
            CriteoFormat(),
            Options(),
            PipelineOptions(["--runner=CarthorseRunner"]),
        )


def test_sentences_are_found_in_tracebacks():
    said = "Line 3 of a is no row: it has 2 columns, where 40 are needed. (Skip it.)"
    assert sentence(DataError(f"{said} [while running 'Positions']")) == said
    trace = (
        f"Traceback\n  File x\ntfrecords.errors.DataError: {said} [while running 'Positions']\n\n"
    )
    assert sentence(RuntimeError(trace)) == said
    other = "Traceback\n  File x\nValueError: odd [while running 'Parse']\n"
    assert sentence(RuntimeError(other)) == (
        "The pipeline failed: ValueError: odd. Nothing was changed."
    )
