"""A folder of distributions: all that is needed to make a synthetic twin of a data set.

One file per categorical column (see `Distribution`), and `twin.json`: the schema, the number of
rows and the rate of the label per split, quantiles of the dense columns, and how many rows of a
ragged column have how many ids. No row of the original is in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import urllib.parse
from typing import Any

import numpy as np

from tfrecords import files, json_values
from tfrecords.errors import DataError
from tfrecords.schema import Schema
from tfrecords.traces.distribution import Distribution

FILE_NAME = "twin.json"
KIND = "folder of distributions"
_FORMAT = "tf_dlrm synthetic twin"
_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Twin:
    """What a data set is replaced by.

    Attributes:
        schema: The columns.
        rows: Number of rows of each split.
        label_rates: Mean label of each split that has rows.
        dense_quantiles: For each dense column, its quantiles 0, 1/n, ..., 1; float32 `[n + 1]`.
        row_lengths: For each ragged column, the number of rows with 0, 1, 2, ... ids, int64.
        distributions: For each categorical column its distribution; None where no row has an id.
        padding: Whether the distributions were profiled with padding.
        how_it_was_made: For people to read.

    Raises:
        DataError: If parts are missing or contradict each other.
    """

    schema: Schema
    rows: dict[str, int]
    label_rates: dict[str, float]
    dense_quantiles: dict[str, np.ndarray]
    row_lengths: dict[str, np.ndarray]
    distributions: dict[str, Distribution | None]
    padding: bool
    how_it_was_made: dict[str, Any]

    def __post_init__(self) -> None:
        for split, count in self.rows.items():
            if not isinstance(count, int) or not 0 <= count <= json_values.LARGEST:
                raise DataError(f"The split {split!r} cannot have {json_values.shown(count)} rows.")
        if not self.label_rates:
            raise DataError("There is no split with a label rate.")
        for split, rate in self.label_rates.items():
            if not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
                raise DataError(
                    f"The label rate of the split {split!r} must lie in [0, 1], not "
                    f"{json_values.shown(rate)}."
                )
        for name in self.schema.dense:
            quantiles = self.dense_quantiles.get(name)
            if quantiles is None or len(quantiles) < 2:
                raise DataError(f"The dense column {name!r} has no quantiles.")
            if not np.isfinite(quantiles).all() or (np.diff(quantiles) < 0).any():
                raise DataError(
                    f"The quantiles of the dense column {name!r} must be finite and ascend."
                )
        for column in self.schema.categorical:
            self._check_column(column.name, column.vocabulary_size, column.hotness)

    def _check_column(self, name: str, vocabulary_size: int, hotness: int | None) -> None:
        if name not in self.distributions:
            raise DataError(f"The column {name!r} has no distribution.")
        distribution = self.distributions[name]
        lengths = self.row_lengths.get(name)
        if hotness is None and (lengths is None or lengths.min() < 0 or not lengths.sum()):
            raise DataError(f"The ragged column {name!r} needs the numbers of ids of its rows.")
        if distribution is None:
            if hotness is not None or lengths is None or lengths[1:].any():
                raise DataError(f"The column {name!r} has no distribution, but rows have ids.")
        elif distribution.accesses.max() >= vocabulary_size:
            raise DataError(
                f"The distribution of the column {name!r} has the id "
                f"{distribution.accesses.max()}, which lies outside its vocabulary of "
                f"{vocabulary_size} ids."
            )

    def label_rate(self, split: str) -> float:
        """The rate of a split; that of the first one for a split that the original has not."""
        return self.label_rates.get(split, next(iter(self.label_rates.values())))

    def to_files(self) -> dict[str, bytes]:
        """The content of the folder: names of files and their bytes."""
        content = {}
        names: dict[str, str | None] = {}
        for name, distribution in self.distributions.items():
            names[name] = None
            if distribution is not None:
                names[name] = urllib.parse.quote(name, safe="") + ".distribution"
                content[str(names[name])] = distribution.to_bytes()
        value = {
            "format": _FORMAT,
            "version": _VERSION,
            "schema": self.schema.to_json(),
            "rows": self.rows,
            "label_rates": self.label_rates,
            "dense_quantiles": {n: q.tolist() for n, q in self.dense_quantiles.items()},
            "row_lengths": {n: lengths.tolist() for n, lengths in self.row_lengths.items()},
            "distributions": names,
            "padding": self.padding,
            "how_it_was_made": self.how_it_was_made,
        }
        text = json.dumps(value, ensure_ascii=False) + "\n"
        return {**content, FILE_NAME: text.encode("utf-8")}

    @property
    def fingerprint(self) -> str:
        """A string that changes when the content changes."""
        digest = hashlib.sha256()
        for name, content in sorted(self.to_files().items()):
            digest.update(f"{name}\n{len(content)}\n".encode())
            digest.update(content)
        return digest.hexdigest()[:32]

    @classmethod
    def load(cls, folder: str) -> Twin:
        """Reads a folder of distributions.

        Raises:
            DataError: If it is none, or a file of it cannot be used; names the file.
        """
        path = files.join(folder, FILE_NAME)
        try:
            value = json_values.parse(files.read_bytes(path), path, "Make it again.")
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"The folder {folder!r} is no {KIND}: it has no {FILE_NAME}. Make one with "
                "`python -m tfrecords.synthetic profile --dataset=DIR --feature=all "
                "--distribution_dir=DIR`."
            ) from None
        except OSError as error:
            raise DataError(
                f"The file {path} cannot be read: {error.strerror or error}."
            ) from error
        if (
            not isinstance(value, dict)
            or value.get("format") != _FORMAT
            or value.get("version") != _VERSION
        ):
            raise DataError(
                f"{path} does not describe a {KIND} of version {_VERSION}; make it again."
            )
        try:
            return cls(
                schema=Schema.from_json(value["schema"]),
                rows=dict(value["rows"]),
                label_rates=dict(value["label_rates"]),
                dense_quantiles={
                    n: np.array(q, np.float32) for n, q in value["dense_quantiles"].items()
                },
                row_lengths={n: np.array(v, np.int64) for n, v in value["row_lengths"].items()},
                distributions={
                    n: None if file is None else _read_distribution(folder, file)
                    for n, file in value["distributions"].items()
                },
                padding=bool(value["padding"]),
                how_it_was_made=value["how_it_was_made"],
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            reason = error if isinstance(error, DataError) else repr(error)
            raise DataError(f"{path} cannot be used: {reason}") from error


def _read_distribution(folder: str, name: str) -> Distribution:
    json_values.a_path_inside("The path of a distribution", name)
    json_values.no_link(folder, name)
    return Distribution.read(files.join(folder, name))
