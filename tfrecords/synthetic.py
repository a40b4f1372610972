"""Synthetic traces and data sets: the paper's second data source.

`python -m tfrecords.synthetic COMMAND`, where COMMAND is one of

* `profile`: a trace (`--trace_file`) or a column of a data set (`--dataset --feature`) to a
  distribution of stack distances (`--distribution_file`); with `--feature=all`, a data set to a
  folder of distributions (`--distribution_dir`).
* `generate`: a distribution to a new trace (`--synthetic_file`) of `--length` ids.
* `compare`: how close two traces, or two columns of data sets, are.
* `write`: a folder of distributions to a synthetic twin of the data set it was made from.

A folder of distributions holds no row of the original, so that people who may not share their data
can share it, or the twin. What it does tell: sizes, rates, quantiles, how often and how soon ids
come again, and with `--norelabel` which ids there are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import app, flags

from tfrecords import block, entry_point
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.machine import check_disk, check_memory
from tfrecords.progress import Progress
from tfrecords.traces.dataset_columns import read_ids
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.generator import LRU, POLICIES, TraceGenerator
from tfrecords.traces.miss_ratio import MissRatioCurve, compare
from tfrecords.traces.profile_dataset import ProfileOptions, profile_column, profile_dataset
from tfrecords.traces.stack_distance import stack_distances
from tfrecords.traces.trace_file import TEXT, TRACE_FORMATS, read_trace, write_trace
from tfrecords.traces.whole_file import write_whole
from tfrecords.writer import ROWS_PER_RECORD, DatasetWriter

_ALL = "all"
_AT_ONCE = 1 << 18


def _define_flags() -> None:
    # Not at import: this module's importers have flags of their own.
    flags.DEFINE_string("trace_file", None, "The trace to profile or to compare with.")
    flags.DEFINE_string("synthetic_file", None, "The trace to generate, or the one to compare.")
    flags.DEFINE_enum(
        "trace_format",
        TEXT,
        TRACE_FORMATS,
        "Traces as one line of numbers with commas between, or as raw 64-bit unsigned numbers.",
    )
    flags.DEFINE_string(
        "distribution_file", None, "The distribution of one trace, in the reference's text format."
    )
    flags.DEFINE_string("distribution_dir", None, "The distributions of all columns of a data set.")
    flags.DEFINE_string("dataset", None, "Data set folder to profile or to compare with.")
    flags.DEFINE_string("synthetic_dataset", None, "Data set folder to compare with --dataset.")
    flags.DEFINE_string("feature", _ALL, f"The column of --dataset, or {_ALL} of them.")
    flags.DEFINE_string("split", "train", "The split of --dataset.")
    flags.DEFINE_integer(
        "length",
        0,
        "generate: how many ids. profile, compare: how many accesses of a trace to look at, its "
        "first; 0: all.",
        lower_bound=0,
        upper_bound=2**62,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Another seed gives another trace, or other rows.",
        lower_bound=-(2**62),
        upper_bound=2**62,
    )
    flags.DEFINE_integer(
        "table", 0, "Another table has another trace.", lower_bound=0, upper_bound=2**62
    )
    flags.DEFINE_integer(
        "worker",
        0,
        "Each worker has a trace of its own from the same distribution.",
        lower_bound=0,
        upper_bound=2**62,
    )
    flags.DEFINE_enum(
        "policy",
        LRU,
        POLICIES,
        "generate: whether an access that is not new goes to the top (lru) or stays (rand).",
    )
    flags.DEFINE_bool(
        "padding",
        False,
        "profile: count more new accesses, as the reference does. generate: no new accesses once "
        "there were as many as the largest distance. (`write` does as the profile did.)",
    )
    flags.DEFINE_float(
        "minimum_of_new",
        0.0,
        "profile: raise the probability of a new id to this.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_bool(
        "new_after_all",
        True,
        "generate: whether, once all ids were seen, the least recently used one takes the place of "
        "new ones, or only repetitions follow.",
    )
    flags.DEFINE_bool(
        "relabel",
        None,
        "profile: number ids by their first access, so that the distribution tells no id. Default: "
        "yes for --dataset, no for --trace_file.",
    )
    flags.DEFINE_string("picture_file", None, "compare: draw the miss-ratio curves to this PNG.")
    flags.DEFINE_string("output_dir", None, "write: the data set folder to write.")
    flags.DEFINE_integer(
        "rows",
        None,
        "write: rows of the split 'train'; default: as the original.",
        lower_bound=0,
        upper_bound=10**12,
    )
    flags.DEFINE_integer(
        "evaluation_rows",
        None,
        "write: rows of the split 'evaluation'; likewise.",
        lower_bound=0,
        upper_bound=10**12,
    )


def _options(relabel: bool) -> ProfileOptions:
    values = flags.FLAGS
    return ProfileOptions(
        relabel=relabel if values.relabel is None else values.relabel,
        padding=values.padding,
        minimum_of_new=values.minimum_of_new,
        length=values.length,
    )


def _needed(command: str, *names: str) -> None:
    for name in names:
        if not getattr(flags.FLAGS, name):
            raise DataError(f"`{command}` needs the flag --{name}.")


def _trace(path: str) -> np.ndarray:
    ids = read_trace(path, flags.FLAGS.trace_format)
    return ids[: flags.FLAGS.length or None]


def _profile(progress: Progress) -> None:
    values = flags.FLAGS
    if bool(values.trace_file) == bool(values.dataset):
        raise DataError("`profile` needs either --trace_file or --dataset.")
    if values.trace_file:
        _needed("profile", "distribution_file")
        options = _options(relabel=False)
        ids = _trace(values.trace_file)
        distribution = Distribution.of_trace(ids, options.padding)
        distribution = distribution.with_minimum_of_new(options.minimum_of_new)
        if options.relabel:
            distribution = distribution.relabelled()
    elif values.feature == _ALL:
        _needed("profile", "distribution_dir")
        options = _options(relabel=True)
        profile_dataset(values.dataset, values.split, values.distribution_dir, options, progress)
        progress.say(f"Wrote {values.distribution_dir}.")
        return
    else:
        _needed("profile", "distribution_file")
        options = _options(relabel=True)
        distribution = profile_column(
            values.dataset, values.feature, values.split, options, progress
        )
    distribution.write(values.distribution_file)
    progress.say(
        f"Wrote {values.distribution_file}: {len(distribution.accesses):,} different ids, "
        f"{len(distribution.distances):,} stack distances up to {distribution.distances[-1]:,}."
    )


def _generate(progress: Progress) -> None:
    values = flags.FLAGS
    _needed("generate", "distribution_file", "synthetic_file", "length")
    generator = TraceGenerator(
        Distribution.read(values.distribution_file),
        values.seed,
        values.table,
        values.worker,
        policy=values.policy,
        padding=values.padding,
        new_after_all=values.new_after_all,
    )
    check_memory(f"--length={values.length}", 8 * values.length)
    check_disk(f"--length={values.length}", values.synthetic_file, values.length)
    progress.begin("Generating", values.length)
    parts = []
    while generator.position < values.length:
        parts.append(generator.generate(min(_AT_ONCE, values.length - generator.position)))
        progress.update(generator.position, generator.position)
    write_trace(values.synthetic_file, np.concatenate(parts), values.trace_format)
    progress.say(f"Wrote {values.synthetic_file}: {values.length:,} ids.")


def _compare(progress: Progress) -> None:
    values = flags.FLAGS
    if bool(values.trace_file) == bool(values.dataset):
        raise DataError(
            "`compare` needs either --trace_file and --synthetic_file, or --dataset and "
            "--synthetic_dataset."
        )
    if values.trace_file:
        _needed("compare", "synthetic_file")
        pairs = {"trace": (_trace(values.trace_file), _trace(values.synthetic_file))}
    else:
        _needed("compare", "synthetic_dataset")
        pairs = _columns(progress)
    results, curves = {}, {}
    for name, (first, second) in pairs.items():
        if not len(first) or not len(second):
            raise DataError(f"The column {name!r} has no ids to compare.")
        distances = stack_distances(first), stack_distances(second)
        compared = compare(*distances)
        curves[name] = tuple(MissRatioCurve.of_distances(d) for d in distances)
        results[name] = {
            "accesses": [len(first), len(second)],
            "ids": [int((d == 0).sum()) for d in distances],
            "max_difference": round(compared.max_difference, 6),
            "mean_difference": round(compared.mean_difference, 6),
            "total_variation": round(compared.total_variation, 6),
        }
    if values.picture_file:
        # Here, since matplotlib takes longer to import than all other commands to run.
        from tfrecords.traces.pictures import draw_comparisons

        write_whole(values.picture_file, draw_comparisons(curves, ("original", "synthetic")))
        progress.say(f"Drew {values.picture_file}.")
    for name, result in results.items():
        sys.stdout.write(json.dumps({"trace": name, **result}, ensure_ascii=False) + "\n")


def _columns(progress: Progress) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    values = flags.FLAGS
    infos = [DatasetInfo.load(path) for path in (values.dataset, values.synthetic_dataset)]
    names = list(infos[0].schema.categorical_names)
    if values.feature != _ALL:
        names = [values.feature]
    first, second = (
        read_ids(path, info, values.split, names, values.length, progress)
        for path, info in zip((values.dataset, values.synthetic_dataset), infos, strict=True)
    )
    return {name: (first[name], second[name]) for name in names}


def _write(progress: Progress) -> None:
    # Here, since it brings TensorFlow's readers, which no other command needs.
    from tfrecords.traces.source import SyntheticSource

    values = flags.FLAGS
    _needed("write", "distribution_dir", "output_dir")
    source = SyntheticSource(values.distribution_dir, seed=values.seed)
    rows = {split: source.rows(split) for split in source.splits}
    for split, count in (("train", values.rows), ("evaluation", values.evaluation_rows)):
        if count is not None:
            rows[split] = count
    source = SyntheticSource(values.distribution_dir, rows, values.seed)
    total = sum(rows.values())
    check_disk(f"A data set of {total} rows", values.output_dir, total * source.schema.row_bytes)
    with DatasetWriter(
        values.output_dir, source.schema, source.description(), ROWS_PER_RECORD
    ) as writer:
        for split, count in rows.items():
            progress.begin(f"Writing {split}", count)
            done = 0
            for columns in source.blocks(split):
                features, label = block.features(source.schema, columns)
                writer.write(split, features, label)
                done += len(label)
                progress.update(done, done)
            progress.end(done)
    progress.say(f"Wrote {values.output_dir}.")


_COMMANDS: dict[str, Callable[[Progress], None]] = {
    "profile": _profile,
    "generate": _generate,
    "compare": _compare,
    "write": _write,
}


def main(argv: Sequence[str]) -> None:
    """Does what the command on the command line says."""
    if len(argv) != 2 or argv[1] not in _COMMANDS:
        raise app.UsageError(
            f"Name one command of {', '.join(_COMMANDS)}: python -m tfrecords.synthetic profile "
            "--trace_file=FILE --distribution_file=FILE"
        )
    _COMMANDS[argv[1]](Progress())


if __name__ == "__main__":
    _define_flags()
    entry_point.run(main)
