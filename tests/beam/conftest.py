"""Inputs, and both ways to convert them, for the tests of tfrecords.beam."""

import io
import os
import random

import pytest

from tfrecords import writer
from tfrecords.conversion.convert import convert
from tfrecords.progress import Progress

MODES = {"one": [], "threads": ["multi_threading"], "processes": ["multi_processing"]}


def _line(rng: random.Random) -> str:
    fields = [str(int(rng.random() < 0.3))]
    fields += ["" if rng.random() < 0.2 else str(rng.choice([-1, 0, 1, 3, 250])) for _ in range(13)]
    for column in range(26):
        value = rng.randrange(3 + 5 * column) * (1 if column % 2 else 151_234_567) % 2**32
        fields.append("" if rng.random() < 0.1 else f"{value:08x}")
    return "\t".join(fields)


@pytest.fixture
def criteo_lines():
    """Makes lines of Criteo's text."""

    def make(count: int, seed: int = 0) -> list[str]:
        rng = random.Random(seed)
        return [_line(rng) for _ in range(count)]

    return make


@pytest.fixture
def criteo_file(tmp_path, criteo_lines):
    """A file of 700 rows."""
    path = tmp_path / "criteo.txt"
    path.write_text("\n".join(criteo_lines(700)) + "\n")
    return str(path)


@pytest.fixture
def convert_with_beam():
    """Converts with Beam's direct runner: in one, in two threads or in two processes."""

    from apache_beam.options.pipeline_options import PipelineOptions

    from tfrecords.beam import pipeline

    def run(inputs, output_dir, format, options, workers="one", **others):
        arguments = [f"--runner={pipeline.DIRECT_RUNNER}"]
        for mode in MODES[workers]:
            arguments += ["--direct_num_workers=2", f"--direct_running_mode={mode}"]
        return pipeline.convert(
            [str(path) for path in inputs],
            str(output_dir),
            format,
            options,
            PipelineOptions(arguments),
            **others,
        )

    return run


@pytest.fixture
def convert_both(tmp_path, monkeypatch, convert_with_beam):
    """Converts on one machine and with Beam; returns the files of both folders by their names."""

    def run(inputs, format, options, workers="one", records_per_file=512, unit_bytes=10_000):
        monkeypatch.setattr(writer, "RECORDS_PER_FILE", records_per_file)
        inputs = [str(path) for path in inputs]
        convert(inputs, str(tmp_path / "local"), format, options, Progress(io.StringIO()))
        convert_with_beam(
            inputs,
            tmp_path / "beam",
            format,
            options,
            workers,
            records_per_file=records_per_file,
            unit_bytes=unit_bytes,
        )
        return _content(tmp_path / "local"), _content(tmp_path / "beam")

    return run


def _content(folder) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(root, name), folder): open(
            os.path.join(root, name), "rb"
        ).read()
        for root, _, names in os.walk(folder)
        for name in names
    }
