"""From a data set folder to the distributions of its columns."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from tfrecords import block
from tfrecords.dataset_info import DatasetInfo
from tfrecords.errors import DataError
from tfrecords.folder import WholeFolder
from tfrecords.progress import Progress
from tfrecords.schema import Schema
from tfrecords.traces import twin
from tfrecords.traces.dataset_columns import column_of, read_blocks, read_ids, split_of
from tfrecords.traces.distribution import Distribution
from tfrecords.traces.twin import Twin

# Ids that are held in memory at once, where columns are profiled in several passes.
_IDS_PER_PASS = 1 << 27
_DENSE_SAMPLE = 1 << 19
_QUANTILES = 1000


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """How to profile.

    Attributes:
        relabel: Number ids by their first access, so that the files tell no original id; the id
            for values outside the vocabulary keeps its number.
        padding: As for `Distribution.of_trace`.
        minimum_of_new: As for `Distribution.with_minimum_of_new`.
        length: Profile only so many accesses of each column, its first; 0: all.

    Raises:
        DataError: If `minimum_of_new` is out of range, which else is seen after all reading.
    """

    relabel: bool = True
    padding: bool = False
    minimum_of_new: float = 0.0
    length: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_of_new < 1:
            raise DataError(f"--minimum_of_new={self.minimum_of_new} must lie in [0, 1).")


def profile_column(
    data_dir: str, feature: str, split: str, options: ProfileOptions, progress: Progress
) -> Distribution:
    """The distribution of one column of a split.

    Raises:
        DataError: If the data set, the split or the column is not there, or the column is empty.
    """
    info = DatasetInfo.load(data_dir)
    ids = read_ids(data_dir, info, split, [feature], options.length, progress)[feature]
    oov = column_of(data_dir, info, feature).out_of_vocabulary
    return _distribution(ids, options, oov)


def profile_dataset(
    data_dir: str, split: str, output_dir: str, options: ProfileOptions, progress: Progress
) -> Twin:
    """Writes the folder of distributions of a data set, whole or not at all.

    Memory: up to 1 GB of ids, or one column if that is more, and about 150 bytes per access of
    the column at hand.

    Args:
        data_dir: The data set.
        split: The split whose columns are profiled.
        output_dir: The folder to write.
        options: How.
        progress: Told how far it is.

    Raises:
        DataError: If the data set cannot be read or the folder cannot be written.
    """
    info = DatasetInfo.load(data_dir)
    split_of(data_dir, info, split)
    with WholeFolder(output_dir, twin.FILE_NAME, twin.KIND) as folder:
        quantiles, row_lengths = _dense_and_lengths(data_dir, info, split, progress)
        distributions: dict[str, Distribution | None] = {}
        for names in _passes(info, split, options, row_lengths):
            columns = read_ids(data_dir, info, split, names, options.length, progress)
            for name in names:
                ids = columns.pop(name)
                oov = column_of(data_dir, info, name).out_of_vocabulary
                distributions[name] = _distribution(ids, options, oov) if len(ids) else None
                progress.say(f"Profiled {name}: {len(ids):,} accesses.")
        # The profiled split first: its rate is the one for splits that the original has not.
        splits = [split, *(name for name in info.splits if name != split)]
        rates = {
            name: info.splits[name].label_sum / info.splits[name].rows
            for name in splits
            if info.splits[name].rows
        }
        result = Twin(
            schema=info.schema,
            rows={name: info.splits[name].rows for name in splits},
            label_rates=rates,
            dense_quantiles=quantiles,
            row_lengths=row_lengths,
            distributions={name: distributions[name] for name in info.schema.categorical_names},
            padding=options.padding,
            how_it_was_made={"split": split, **dataclasses.asdict(options)},
        )
        for name, content in result.to_files().items():
            with open(os.path.join(folder.work, name), "wb") as file:
                file.write(content)
        folder.commit()
    return result


def _distribution(ids: np.ndarray, options: ProfileOptions, oov: int | None) -> Distribution:
    distribution = Distribution.of_trace(ids, options.padding)
    distribution = distribution.with_minimum_of_new(options.minimum_of_new)
    return distribution.relabelled(keep=oov) if options.relabel else distribution


def _passes(
    info: DatasetInfo, split: str, options: ProfileOptions, row_lengths: dict[str, np.ndarray]
) -> list[list[str]]:
    """The columns, in groups whose ids fit in memory together."""
    passes: list[list[str]] = []
    held = 0
    for column in info.schema.categorical:
        if column.hotness is None:
            lengths = row_lengths[column.name]
            ids = int((lengths * np.arange(len(lengths))).sum())
        else:
            ids = info.splits[split].rows * column.hotness
        ids = min(ids, options.length or ids)
        if not passes or held + ids > _IDS_PER_PASS:
            passes.append([])
            held = 0
        passes[-1].append(column.name)
        held += ids
    return passes


def _dense_and_lengths(
    data_dir: str, info: DatasetInfo, split: str, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Quantiles of the dense columns, and counts of row lengths of the ragged ones."""
    schema: Schema = info.schema
    ragged = [column.name for column in schema.categorical if column.hotness is None]
    lengths: dict[str, np.ndarray] = {name: np.zeros(1, np.int64) for name in ragged}
    if not schema.dense and not ragged:
        return {}, {}
    step = -(-info.splits[split].rows // _DENSE_SAMPLE)
    sample: list[np.ndarray] = []
    first = 0
    for columns in read_blocks(data_dir, info, split, progress, "Reading dense columns"):
        if schema.dense:
            sample.append(columns[block.DENSE][-first % step :: step].copy())
        first += len(columns[schema.label])
        for name in ragged:
            counts = np.bincount(columns[name + block.LENGTHS], minlength=len(lengths[name]))
            counts[: len(lengths[name])] += lengths[name]
            lengths[name] = counts
    if not schema.dense:
        return {}, lengths
    # Quantiles that are values of the column: between two of them would be one that never occurs.
    quantiles = np.quantile(
        np.concatenate(sample), np.linspace(0, 1, _QUANTILES + 1), axis=0, method="inverted_cdf"
    )
    return dict(zip(schema.dense, quantiles.astype(np.float32).T, strict=True)), lengths
