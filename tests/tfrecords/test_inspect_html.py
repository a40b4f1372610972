import base64
import html.parser
import io
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tfrecords.dataset_info import DatasetInfo
from tfrecords.progress import Progress
from tfrecords.report import page as report
from tfrecords.report.statistics import LabelRate, gather
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.traces.stack_distance import stack_distances
from tfrecords.writer import DatasetWriter

_ROOT = pathlib.Path(__file__).parents[2]


def _gather(path, **arguments):
    info = DatasetInfo.load(path)
    return info, gather(path, info, Progress(io.StringIO()), **arguments)


class _Tags(html.parser.HTMLParser):
    """Collects the tags, and fails where one is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.all, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_statistics_are_those_of_the_rows(numbered):
    path, features, label = numbered(500)
    info, statistics = _gather(path)
    assert statistics.split == "train"
    rate = statistics.label_rates["train"]
    assert rate.rows.sum() == 500 and len(rate.rows) == 120 and rate.rows.min() >= 4
    ends = np.cumsum(rate.rows)
    np.testing.assert_allclose(
        rate.label_sums, [label[a:b].sum() for a, b in zip(ends - rate.rows, ends, strict=True)]
    )
    row, noise = statistics.dense
    assert (row.smallest, row.largest, row.mean, row.zeros) == (0, 499, 249.5, 1 / 500)
    assert row.deviation == pytest.approx(np.arange(500).std())
    assert noise.sample.tolist() == sorted(features["dense"][:, 1].tolist())
    by_name = {summary.column.name: summary for summary in statistics.categorical}
    pairs = features["pair"].reshape(-1)
    pair = by_name["pair"]
    assert pair.counts.tolist() == sorted(np.bincount(pairs).tolist(), reverse=True)
    assert pair.ids == pair.counted == pair.traced == 1000
    distances = stack_distances(pairs)
    hits = ((distances > 0) & (distances <= 3)).mean()
    assert pair.curve.at(np.array([3]))[0] == pytest.approx(1 - hits)
    assert pair.ids_for(1.0) == 11 and pair.share_of_most_frequent(11) == 1.0
    bag = by_name["bag"]
    assert bag.ids == len(features["bag"][0])
    # A vocabulary of 2**31 ids: counted over the first ids only, which are all here.
    assert by_name["many"].counted == 500 and len(by_name["many"].counts) == len(
        np.unique(features["many"])
    )


def test_what_is_sampled_is_said(numbered):
    path, features, _ = numbered(500)
    info, statistics = _gather(path, accesses=100)
    by_name = {summary.column.name: summary for summary in statistics.categorical}
    assert by_name["pair"].traced == 100 and by_name["pair"].counted == 1000
    assert by_name["many"].counted == 100
    text = report.page("numbered", info, statistics, "").decode()
    assert "Miss ratios of the first 100 of 1,000 ids (10.00%)." in text
    assert "Counted over the first 100 of 500 ids, since the vocabulary is too large" in text


def test_the_confidence_band():
    rate = LabelRate(np.array([100, 10]), np.array([20.0, 0.0]))
    low, high = rate.band()
    # Wilson's interval of 20 of 100, and of 0 of 10.
    np.testing.assert_allclose(low, [0.1334, 0.0], atol=1e-4)
    np.testing.assert_allclose(high, [0.2888, 0.2775], atol=1e-4)


def test_the_page_is_whole_and_refers_to_nothing_outside(numbered):
    path, _, _ = numbered(500)
    info, statistics = _gather(path)
    text = report.page("a<b>&c", info, statistics, "row <1>").decode()
    tags = _Tags(text)
    assert tags.open == [] and "a<b>&c" in tags.text and "row <1>" in tags.text
    pictures = [attributes for tag, attributes in tags.all if tag == "img"]
    assert len(pictures) == 1 + 4 + 2 and all(picture["alt"] for picture in pictures)
    for picture in pictures:
        data = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 2000
    assert not re.search(r"https?://|<script|<link|url\(", text)
    for name in ("row", "noise", "row_id", "many", "pair", "bag"):
        assert tags.text.count(name) >= 2
    assert text == report.page("a<b>&c", info, statistics, "row <1>").decode()


def test_data_sets_with_little_in_them(tmp_path):
    schema = Schema((), (CategoricalColumn("bag", 5, hotness=None),))
    empty = np.zeros(0, np.int64)
    for rows in (0, 1):
        path = str(tmp_path / str(rows))
        with DatasetWriter(path, schema) as writer:
            writer.write("train", {"bag": (empty, np.zeros(rows, np.int64))}, np.zeros(rows))
        text = _Tags(report.page("x", *_gather(path), "").decode()).text
        assert ("No row has an id." in text) == (rows == 1)
    path = str(tmp_path / "constant")
    with DatasetWriter(path, Schema(("d",), ())) as writer:
        writer.write("evaluation", {"dense": np.ones((3, 1))}, np.ones(3))
    assert "Dense columns of evaluation" in report.page("x", *_gather(path), "").decode()


def test_the_command_writes_the_page_or_nothing(numbered, tmp_path, run_command):
    path, _, _ = numbered(120)
    page = tmp_path / "pages" / "report.html"
    done = run_command("tfrecords.inspect", path, f"--html={page}", "--html_accesses=50")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith("All checksums")
    assert "first 50 of 240 ids" in page.read_text() and os.listdir(page.parent) == ["report.html"]
    with open(os.path.join(path, "train-00000.tfrecord"), "r+b") as stream:
        stream.seek(100)
        stream.write(b"\xff\x00\xff")
    page.unlink()
    done = run_command("tfrecords.inspect", path, f"--html={page}")
    assert done.code == 1 and os.listdir(page.parent) == []


@pytest.mark.process
def test_the_command_is_a_process_too(numbered, tmp_path):
    command = [sys.executable, "-m", "tfrecords.inspect", numbered(120)[0]]
    done = subprocess.run(
        [*command, f"--html={tmp_path}/report.html"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "data:image/png" in (tmp_path / "report.html").read_text()
