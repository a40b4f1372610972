"""A data set on one page: HTML that holds its pictures, for any browser, without a server."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

import numpy as np

from tfrecords.dataset_info import DatasetInfo
from tfrecords.report import pictures
from tfrecords.report.statistics import CategoricalSummary, DenseSummary, Statistics

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; color: #222;
  background: #f5f6f8; margin: 0; }
main { max-width: 1320px; margin: 0 auto; padding: 24px 24px 64px; }
h1 { font-size: 26px; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 6px; }
h3 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
p { margin: 6px 0 12px; max-width: 860px; }
.quiet, figcaption, dl { color: #666; font-size: 13px; }
nav a { margin-right: 18px; }
a { color: #1f5fa8; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); }
.cards.small { grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); }
figure { background: #fff; border: 1px solid #dfe2e7; border-radius: 8px; margin: 0;
  padding: 12px 14px; }
figure.wide { margin-bottom: 14px; }
figure img { display: block; width: 100%; height: auto; margin-top: 4px; }
.scroll { overflow-x: auto; background: #fff; border: 1px solid #dfe2e7; border-radius: 8px; }
table { border-collapse: collapse; font-size: 13px; width: 100%;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; white-space: nowrap;
  border-top: 1px solid #eceef1; }
thead th { border-top: 0; color: #555; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: #f3f6fb; }
details { margin-top: 12px; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def page(title: str, info: DatasetInfo, statistics: Statistics, description: str) -> bytes:
    """The whole page.

    Args:
        title: Heading, for example the name of the folder.
        info: The description of the data set.
        statistics: What to show.
        description: Text for people who want every detail (as `inspect` prints).

    Returns:
        UTF-8 HTML that refers to nothing outside itself.
    """
    name = html.escape(title)
    body = [
        f"<h1>{name}</h1>",
        f'<p class="quiet">fingerprint {info.fingerprint}</p>',
        _navigation(statistics),
        *_splits(info),
        *_labels(statistics),
        *_categorical(statistics),
        *_dense(statistics),
        "<h2>Description</h2>",
        f"<details><summary>As text</summary><pre>{html.escape(description)}</pre></details>",
    ]
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    return (text + "\n".join(body) + "\n</main>\n</body>\n</html>\n").encode("utf-8")


def _navigation(statistics: Statistics) -> str:
    links = [("label", "Label rate", bool(statistics.label_rates))]
    links.append(("categorical", "Categorical columns", bool(statistics.categorical)))
    links.append(("dense", "Dense columns", bool(statistics.dense)))
    shown = (f'<a href="#{target}">{text}</a>' for target, text, there in links if there)
    return f"<nav>{''.join(shown)}</nav>"


def _splits(info: DatasetInfo) -> Iterable[str]:
    rows = []
    for name, split in info.splits.items():
        size = sum(file.size for file in split.files)
        rate = f"{split.label_sum / split.rows:.4f}" if split.rows else "none"
        rows.append(
            (name, f"{split.rows:,}", rate, f"{len(split.files):,}", f"{size / 1e6:,.1f} MB")
        )
    yield "<h2>Splits</h2>"
    yield _table(("split", "rows", "label rate", "files", "size"), rows)


def _labels(statistics: Statistics) -> Iterable[str]:
    if not statistics.label_rates:
        return
    yield '<h2 id="label">Label rate over the rows</h2>'
    yield (
        "<p>Mean label of consecutive rows, in the order of the files. Jumps mean that the data "
        "changes over time, or that a shuffle was left out; rows that are well mixed stay within "
        "the band.</p>"
    )
    for name, rate in statistics.label_rates.items():
        caption = (
            f"{len(rate.rows)} pieces of about {rate.rows.mean():,.0f} rows; lowest "
            f"{rate.rates.min():.4f}, highest {rate.rates.max():.4f}."
        )
        yield _figure(name, pictures.label_rate(rate), f"Label rate of {name}", caption, "wide")


def _categorical(statistics: Statistics) -> Iterable[str]:
    if not statistics.categorical:
        return
    yield f'<h2 id="categorical">Categorical columns of {html.escape(str(statistics.split))}</h2>'
    yield (
        "<p>Left: how often each id occurs, the most frequent first. A straight line is a power "
        "law. Right: the share of look-ups that miss a cache of the most recently used ids, by "
        "the size of the cache: how much of a table has to be near.</p>"
    )
    rows = [_categorical_row(summary) for summary in statistics.categorical]
    header = (
        *("column", "vocabulary", "ids a row", "ids", "different", "most frequent"),
        *("10 most frequent", "ids for 90%", "ids for 99%", "once", "out of vocabulary"),
        "miss with 10% cached",
    )
    yield _table(header, rows)
    yield '<div class="cards" style="margin-top:14px">'
    for summary in statistics.categorical:
        name = summary.column.name
        yield _figure(
            name,
            pictures.categorical(summary),
            f"Frequencies of the ids and miss ratios of {name}",
            _sampled(summary),
        )
    yield "</div>"


def _categorical_row(summary: CategoricalSummary) -> tuple[str, ...]:
    column = summary.column
    hotness = "any" if column.hotness is None else str(column.hotness)
    oov = summary.out_of_vocabulary
    miss = "none"
    if summary.curve is not None:
        tenth = max(1, len(summary.counts) // 10)
        miss = _percent(float(summary.curve.at(np.array([tenth]))[0]))
    return (
        column.name,
        f"{column.vocabulary_size:,}",
        hotness,
        f"{summary.ids:,}",
        f"{len(summary.counts):,}",
        _percent(summary.share_of_most_frequent(1)),
        _percent(summary.share_of_most_frequent(10)),
        f"{summary.ids_for(0.9):,}",
        f"{summary.ids_for(0.99):,}",
        f"{int((summary.counts == 1).sum()):,}",
        "none" if oov is None else _percent(oov),
        miss,
    )


def _sampled(summary: CategoricalSummary) -> str:
    """Says what of a column was looked at."""
    if not summary.ids:
        return "No row has an id."
    parts = [f"{len(summary.counts):,} different of {summary.column.vocabulary_size:,} ids."]
    if summary.counted < summary.ids:
        parts.append(
            f"Counted over the first {summary.counted:,} of {summary.ids:,} ids, since the "
            "vocabulary is too large to count all."
        )
    if summary.traced < summary.ids:
        parts.append(
            f"Miss ratios of the first {summary.traced:,} of {summary.ids:,} ids "
            f"({_percent(summary.traced / summary.ids)})."
        )
    return " ".join(parts)


def _dense(statistics: Statistics) -> Iterable[str]:
    if not statistics.dense:
        return
    sampled = len(statistics.dense[0].sample)
    yield f'<h2 id="dense">Dense columns of {html.escape(str(statistics.split))}</h2>'
    yield (
        f"<p>Histograms and quantiles of {sampled:,} rows, evenly spaced over the split; mean, "
        "deviation, zeros and extremes of all rows. A histogram leaves out the lowest and highest "
        "thousandth.</p>"
    )
    quantiles = [f"{q:.0%}" for q in _QUANTILES]
    header = ("column", "mean", "deviation", "zeros", "smallest", *quantiles, "largest")
    yield _table(header, [_dense_row(summary) for summary in statistics.dense])
    yield '<div class="cards small" style="margin-top:14px">'
    for summary in statistics.dense:
        yield _figure(summary.name, pictures.dense(summary), f"Histogram of {summary.name}", "")
    yield "</div>"


def _dense_row(summary: DenseSummary) -> tuple[str, ...]:
    quantiles = np.quantile(summary.sample, _QUANTILES, method="inverted_cdf")
    numbers = [summary.mean, summary.deviation, summary.smallest, *quantiles, summary.largest]
    text = [f"{number:.4g}" for number in numbers]
    return (summary.name, *text[:2], _percent(summary.zeros), *text[2:])


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>'
        "</table></div>"
    )


def _figure(title: str, png: bytes, alternative: str, caption: str, kind: str = "") -> str:
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure class="{kind}"><h3>{html.escape(title)}</h3>'
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alternative)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
