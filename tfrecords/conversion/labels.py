"""Labels that nothing can be learnt from: all alike, or of texts that never occur."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tfrecords.conversion.column_description import LabelColumn
from tfrecords.conversion.formats import InputFormat
from tfrecords.conversion.options import Options
from tfrecords.conversion.plan import Plan, make_plan
from tfrecords.conversion.spool import Spool
from tfrecords.kinds.kind import encoded
from tfrecords.odd_labels import ACCEPT, LabelRange, OddLabels

_LOOKED_AT = 1000
_MOST = 8


def seen(array: pa.Array, label: LabelColumn) -> dict[str, int]:
    """What the label column of some rows holds, and how often.

    Args:
        array: The column, `[rows]`.
        label: What it is.

    Returns:
        Of a text label the number of rows of each of the described texts, and of the most frequent
        others; of numbers that a threshold cuts those of the first rows; else nothing, since the
        labels themselves say it.
    """
    if label.positive_from is None and not label.positive_values:
        return {}
    if not label.positive_values:
        array = array[:_LOOKED_AT]
    codes = encoded(array)
    places = codes.indices.drop_null().to_numpy(zero_copy_only=False)
    counts = np.bincount(places, minlength=len(codes.dictionary)).tolist()
    texts = [text.decode("utf-8", "replace") for text in codes.dictionary.to_pylist()]
    return _most_frequent(dict(zip(texts, counts, strict=True)), described(label))


def described(label: LabelColumn) -> tuple[str, ...]:
    """The texts that the description of a label names."""
    return label.positive_values + label.negative_values


def check_values(format: InputFormat, found: Mapping[str, int], on_odd_labels: str) -> None:
    """Checks that each of the described texts of the label occurs.

    Args:
        format: What the files hold.
        found: What `seen` returned of all rows, added up.
        on_odd_labels: As in `Options`.

    Raises:
        OddLabels: If one never does; names what occurs.
    """
    if on_odd_labels == ACCEPT:
        return
    for text in getattr(format, "label_texts", ()):
        if not found.get(text):
            raise OddLabels(
                f"The text {text!r} of the description's label stands in no row"
                f"{holds(format, found)}. Correct the description, or say "
                f"--on_odd_labels={ACCEPT}."
            )


def checked_plan(
    format: InputFormat, found: Mapping[str, int], options: Options, spool: Spool
) -> Plan:
    """The splits, whose labels are looked at.

    Args:
        format: What the files hold.
        found: What `seen` returned of all rows, added up.
        options: How to convert.
        spool: The rows.

    Raises:
        OddLabels: If labels of a split are all alike, or a described text never occurs.
        DataError: If one of the splits would have no row.
    """
    check_values(format, found, options.on_odd_labels)
    plan = make_plan(options, spool)
    if options.on_odd_labels == ACCEPT:
        return plan
    for part in plan.ranges:
        labels = LabelRange()
        for piece in spool.between(part.start, part.end):
            rows = spool.read(piece)
            mask = plan.mask(piece, rows, part)
            labels.add(rows.label if mask is None else rows.label[mask])
            if labels.differ:
                break
        labels.check(part.split, holds(format, found))
    return plan


def holds(format: InputFormat, found: Mapping[str, int]) -> str:
    """What the label column holds, as a clause; empty where that is not known."""
    if not found:
        return ""
    listed = [f"{text[:40]!r}" for text, count in _most_frequent(found, ()).items() if count] or [
        "nothing"
    ]
    return f"; the column {format.label!r} holds {', '.join(listed)}"


def _most_frequent(counts: Mapping[str, int], always: tuple[str, ...]) -> dict[str, int]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = {text: count for text, count in ordered[:_MOST] if count}
    return kept | {text: counts[text] for text in always if text in counts}
