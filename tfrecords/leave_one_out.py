"""Ratings as users' implicit feedback, each user's last item held out among items never seen.

```
python -m tfrecords.leave_one_out --input=ratings.csv --output_dir=movielens
```

The data of the paper on neural collaborative filtering (He et al., arXiv 1708.05031, section 4.1),
from a file in one of MovieLens's layouts: CSV with the columns userId, movieId and timestamp,
`u.data` or `ratings.dat`; whatever the rating. Training rows
are all interactions but each user's last, as label 1, each with sampled items that the user never
had, as label 0. Evaluation rows come in groups of one size, one group a user: the held-out item
first, then items that the user never had; `tf_dlrm.evaluate --ranking_group_size` ranks them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from absl import app, flags

from tfrecords import entry_point
from tfrecords.conversion.vocabulary_files import write_vocabulary
from tfrecords.errors import DataError
from tfrecords.file_kind import check_file
from tfrecords.folder import WholeFolder
from tfrecords.progress import Progress
from tfrecords.schema import CategoricalColumn, Schema
from tfrecords.unchanged import FileState, check_unchanged
from tfrecords.writer import DatasetWriter

USER, ITEM = "user", "item"
_CHUNK = 65_536
_ORDER, _TRAIN, _EVALUATION = range(3)  # what draws random numbers


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Who had which items, each pair once, each user's in the order of time.

    Attributes:
        users: int64 [n], numbered from 0, ascending.
        items: int64 [n], numbered from 0.
        user_keys: What the users' numbers stand for, int64, ascending.
        item_keys: What the items' numbers stand for, int64, ascending.
    """

    users: np.ndarray
    items: np.ndarray
    user_keys: np.ndarray
    item_keys: np.ndarray

    def held_out(self) -> np.ndarray:
        """Returns where each user's last item is, of users that have others too."""
        last: np.ndarray = np.append(self.users[1:] != self.users[:-1], True)
        first: np.ndarray = np.append(True, self.users[1:] != self.users[:-1])
        return np.flatnonzero(last & ~first)


# A line of `u.data`, with tabs, and of `ratings.dat`: user, item, rating, time.
_WITHOUT_HEADER = re.compile(rb"[0-9]+(\t|::)[0-9]+\1[0-9.]+\1[0-9]+\r?\n?")


def _layout(path: str, user: str, item: str, time: str) -> dict[str, Any]:
    """The options of Arrow's parser that a file needs, as its first line says."""
    with pa.input_stream(path) as file:
        found = _WITHOUT_HEADER.fullmatch(file.read(1 << 12).partition(b"\n")[0])
    if found is None:
        return {}
    columns = [user, item, "rating", time]
    if found[1] == b"::":
        # Of one colon, as Arrow wants it, with nothing between two.
        columns = [user, "1", item, "2", "rating", "3", time]
    return {
        "read_options": pa.csv.ReadOptions(column_names=columns),
        "parse_options": pa.csv.ParseOptions(delimiter=chr(found[1][0])),
    }


def read_ratings(path: str, user: str, item: str, time: str) -> Interactions:
    """Reads a CSV file with a header, or MovieLens's `u.data` or `ratings.dat`, which have none.

    Of a pair that comes more than once, the latest counts; at one time, that further down the file.

    Raises:
        DataError: If the file cannot be read, lacks a column, has a value that is no whole number,
            or changes while it is read.
    """
    before = FileState.of(path)
    if not path.endswith((".bz2", ".lz4", ".zst")):  # which pyarrow decompresses by their names
        check_file(path)
    try:
        table = pa.csv.read_csv(
            path,
            **_layout(path, user, item, time),
            convert_options=pa.csv.ConvertOptions(
                include_columns=[user, item, time],
                column_types=dict.fromkeys((user, item, time), pa.int64()),
                null_values=[],
            ),
        )
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as ratings: {str(error).splitlines()[0][:300]}"
        ) from error
    finally:
        check_unchanged([before])
    if not len(table):
        raise DataError(f"{path} has no ratings.")
    users, items, times = (table[column].to_numpy() for column in (user, item, time))
    user_keys, users = np.unique(users, return_inverse=True)
    item_keys, items = np.unique(items, return_inverse=True)
    order = np.lexsort((np.arange(len(times)), times, users))
    users, items = users[order], items[order]
    pairs = users * len(item_keys) + items
    # The last of equal pairs is the first from behind.
    _, latest = np.unique(pairs[::-1], return_index=True)
    kept = np.sort(len(pairs) - 1 - latest)
    return Interactions(users[kept], items[kept], user_keys, item_keys)


def training_rows(
    data: Interactions, negatives: int, passes: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields users, items and labels of training rows, in a random order.

    Args:
        data: All interactions.
        negatives: Items that the user never had, drawn for each one that they had.
        passes: How often each interaction comes, each time with other negatives.
        seed: Another one gives other negatives and another order.
    """
    count = len(data.item_keys)
    pairs = np.sort(data.users * count + data.items)
    known: np.ndarray = np.ones(len(data.users), bool)
    known[data.held_out()] = False
    positives = np.flatnonzero(known)
    for number in range(passes):
        order = np.random.default_rng([seed, _ORDER, number]).permutation(positives)
        for start in range(0, len(order), _CHUNK):
            rng = np.random.default_rng([seed, _TRAIN, number, start])
            own = order[start : start + _CHUNK]
            users: np.ndarray = np.repeat(data.users[own], 1 + negatives)
            items: np.ndarray = np.repeat(data.items[own], 1 + negatives)
            drawn = np.arange(len(users)) % (1 + negatives) > 0
            labels = np.where(drawn, 0.0, 1.0).astype(np.float32)
            left = np.flatnonzero(drawn)
            while left.size:
                items[left] = rng.integers(0, count, left.size)
                wanted = users[left] * count + items[left]
                place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
                left = left[pairs[place] == wanted]
            mixed = rng.permutation(len(users))
            yield users[mixed], items[mixed], labels[mixed]


def evaluation_groups(
    data: Interactions, negatives: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields users, items and labels of each user's group: the held-out item, then others.

    Args:
        data: All interactions.
        negatives: Different items in each group that the user never had.
        seed: Another one gives other items.

    Raises:
        DataError: If a user never had fewer items than that.
    """
    count = len(data.item_keys)
    ends = np.cumsum(np.bincount(data.users))
    labels: np.ndarray = np.zeros(1 + negatives, np.float32)
    labels[0] = 1.0
    for place in data.held_out():
        user = data.users[place]
        had = data.items[ends[user - 1] if user else 0 : ends[user]]
        if count - len(had) < negatives:
            raise DataError(
                f"User {data.user_keys[user]} never had {count - len(had)} of the {count} items, "
                f"but --evaluation_negatives={negatives} are wanted."
            )
        never: np.ndarray = np.delete(np.arange(count), had)
        rng = np.random.default_rng([seed, _EVALUATION, int(user)])
        items: np.ndarray = np.append(
            data.items[place], rng.choice(never, negatives, replace=False)
        )
        yield np.full(1 + negatives, user), items, labels


def write(
    data: Interactions,
    output_dir: str,
    *,
    training_negatives: int,
    evaluation_negatives: int,
    passes: int,
    seed: int,
    how_it_was_made: dict[str, object],
) -> None:
    """Writes the data set, whole or not at all.

    Raises:
        DataError: If users have too few or too many items, or the folder cannot be used.
    """
    held_out = data.held_out()
    if not held_out.size:
        raise DataError("No user has two items or more, so none can be held out.")
    fullest = np.bincount(data.users).max()
    if training_negatives and fullest >= len(data.item_keys):
        raise DataError("A user had all items, so there is nothing to draw negatives from.")
    schema = Schema(
        (),
        (
            CategoricalColumn(USER, len(data.user_keys)),
            CategoricalColumn(ITEM, len(data.item_keys)),
        ),
    )
    progress = Progress()
    with WholeFolder(output_dir) as folder:
        vocabularies = {
            name: write_vocabulary(folder.work, name, keys.astype(np.uint64), 0)
            for name, keys in ((USER, data.user_keys), (ITEM, data.item_keys))
        }
        with DatasetWriter(folder, schema, how_it_was_made, vocabularies=vocabularies) as writer:
            positives = (len(data.users) - len(held_out)) * passes
            parts = (
                ("train", positives, training_rows(data, training_negatives, passes, seed)),
                ("evaluation", len(held_out), evaluation_groups(data, evaluation_negatives, seed)),
            )
            for split, total, rows in parts:
                progress.begin(f"Writing {split}", total)
                done = 0
                for users, items, labels in rows:
                    writer.write(split, {USER: users, ITEM: items}, labels)
                    done += int(labels.sum())
                    progress.update(done, writer.rows(split))
                progress.say(f"Wrote {writer.rows(split):,} rows {split}.")


def _define_flags() -> None:
    flags.DEFINE_string(
        "input",
        None,
        "CSV file of ratings with a header, or MovieLens's u.data or ratings.dat.",
        required=True,
    )
    flags.DEFINE_string("output_dir", None, "Folder of the data set.", required=True)
    flags.DEFINE_string("user_column", "userId", "Column of users, whole numbers.")
    flags.DEFINE_string("item_column", "movieId", "Column of items, whole numbers.")
    flags.DEFINE_string("time_column", "timestamp", "Column of times, whole numbers.")
    flags.DEFINE_integer(
        "training_negatives",
        4,
        "Negatives for each training interaction.",
        lower_bound=0,
        upper_bound=10**6,
    )
    flags.DEFINE_integer(
        "evaluation_negatives",
        99,
        "Negatives beside each held-out item.",
        lower_bound=1,
        upper_bound=10**9,
    )
    flags.DEFINE_integer(
        "passes",
        1,
        "How often each training interaction comes, each time with other negatives: then one "
        "epoch is what so many epochs are in the paper, which draws anew in each.",
        lower_bound=1,
        upper_bound=10**9,
    )
    flags.DEFINE_integer(
        "seed", 0, "Another seed draws other negatives.", lower_bound=0, upper_bound=2**62
    )


def main(argv: Sequence[str]) -> None:
    """Converts, as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown argument {argv[1]!r}; all options are flags.")
    values = flags.FLAGS
    names = ("training_negatives", "evaluation_negatives", "passes", "seed")
    options: dict[str, Any] = {name: values[name].value for name in names}
    columns = [values.user_column, values.item_column, values.time_column]
    made = {"source": "tfrecords.leave_one_out", "columns": columns, **options}
    data = read_ratings(values.input, *columns)
    write(data, values.output_dir, **options, how_it_was_made=made)


if __name__ == "__main__":
    _define_flags()
    entry_point.run(main)
