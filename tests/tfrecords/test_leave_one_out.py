"""Ratings as users' implicit feedback: rows against a plain reading of the definition."""

import collections
import csv
import gzip
import subprocess
import sys

import numpy as np
import pytest

from tfrecords.errors import DataError
from tfrecords.leave_one_out import (
    evaluation_groups,
    read_ratings,
    training_rows,
    write,
)
from tfrecords.reader import RecordSource


def ratings_file(path, rows, header=("userId", "movieId", "rating", "timestamp")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def random_ratings(users=30, items=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        had = rng.choice(items, rng.integers(1, 12), replace=True)
        rows += [(10 * user + 7, 3 * item + 1, 4.0, int(rng.integers(0, 50))) for item in had]
    return [rows[k] for k in rng.permutation(len(rows))]


def read(tmp_path, rows):
    return read_ratings(ratings_file(tmp_path / "r.csv", rows), "userId", "movieId", "timestamp")


def plain(rows):
    """Each user's items in the order of time, each once, at its latest time."""
    latest: dict = {}
    for place, (user, item, _, time) in enumerate(rows):
        key = (time, place)
        latest[user, item] = max(key, latest.get((user, item), key))
    found = collections.defaultdict(list)
    for (user, item), _ in sorted(latest.items(), key=lambda entry: entry[1]):
        found[user].append(item)
    return found


def test_the_last_item_is_held_out_and_all_others_are_trained_on(tmp_path):
    rows = random_ratings()
    data, wanted = read(tmp_path, rows), plain(rows)
    assert data.user_keys.tolist() == sorted(wanted)
    held = {data.user_keys[data.users[k]]: data.item_keys[data.items[k]] for k in data.held_out()}
    assert held == {user: items[-1] for user, items in wanted.items() if len(items) > 1}
    pairs = collections.Counter()
    for users, items, labels in training_rows(data, 4, 2, seed=3):
        for user, item, label in zip(users, items, labels, strict=True):
            pairs[data.user_keys[user], data.item_keys[item], label] += 1
    expected = collections.Counter(
        {
            (user, item, 1.0): 2
            for user, items in wanted.items()
            for item in (items[:-1] if len(items) > 1 else items)
        }
    )
    assert {key: n for key, n in pairs.items() if key[2]} == expected
    negatives = {key: n for key, n in pairs.items() if not key[2]}
    assert sum(negatives.values()) == 4 * sum(expected.values())
    assert not any(item in wanted[user] for user, item, _ in negatives)
    drawn = collections.Counter(item for _, item, _ in negatives)
    assert len(drawn) == len(data.item_keys)


def test_groups_have_the_held_out_item_first_and_different_items_never_seen(tmp_path):
    rows = random_ratings()
    data, wanted = read(tmp_path, rows), plain(rows)
    groups = list(evaluation_groups(data, 20, seed=1))
    assert len(groups) == sum(len(items) > 1 for items in wanted.values())
    for users, items, labels in groups:
        assert labels.tolist() == [1.0] + [0.0] * 20
        (user,) = set(data.user_keys[users])
        assert data.item_keys[items[0]] == wanted[user][-1]
        others = set(data.item_keys[items[1:]])
        assert len(others) == 20 and not others & set(wanted[user])


def test_rows_depend_on_the_seed_alone(tmp_path):
    data = read(tmp_path, random_ratings())

    def all_rows(seed):
        parts = [*training_rows(data, 2, 1, seed), *evaluation_groups(data, 5, seed)]
        return np.concatenate([np.stack(part) for part in parts], 1)

    np.testing.assert_array_equal(all_rows(1), all_rows(1))
    assert (all_rows(1) != all_rows(2)).mean() > 0.1


@pytest.mark.parametrize(("name", "delimiter"), [("u.data", "\t"), ("ratings.dat", "::")])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_movielens_without_a_header(tmp_path, name, delimiter, packed):
    rows = random_ratings()
    text = "".join(f"{delimiter.join(map(str, row))}\n" for row in rows).encode()
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text) if packed else text)
    found = read_ratings(str(path), "userId", "movieId", "timestamp")
    expected = plain(rows)
    assert found.user_keys.tolist() == sorted(expected)
    items = found.item_keys[found.items]
    for number, user in enumerate(found.user_keys.tolist()):
        assert items[found.users == number].tolist() == expected[user]


def test_the_command_writes_a_data_set(tmp_path, run_command, read_blocks):
    path = ratings_file(tmp_path / "ratings.csv", random_ratings(users=40, items=200))
    flags = f"--input={path}", f"--output_dir={tmp_path}/out", "--passes=2"
    done = run_command("tfrecords.leave_one_out", *flags)
    assert done.code == 0, done.err
    source = RecordSource(f"{tmp_path}/out")
    assert [c.name for c in source.schema.categorical] == ["user", "item"]
    features, labels = read_blocks(tmp_path / "out", "evaluation")
    groups = labels.reshape(-1, 100)
    np.testing.assert_array_equal(groups[:, 0], 1.0)
    np.testing.assert_array_equal(groups[:, 1:], 0.0)
    users = features["user"].reshape(-1, 100)
    assert (users == users[:, :1]).all()
    data = read_ratings(path, "userId", "movieId", "timestamp")
    kept = len(data.users) - len(data.held_out())
    assert source.rows("train") == 2 * 5 * kept
    keys = np.load(f"{tmp_path}/out/vocabulary/item.npy")
    np.testing.assert_array_equal(keys, data.item_keys)


@pytest.mark.process
def test_the_command_is_a_process_too(tmp_path):
    path = ratings_file(tmp_path / "ratings.csv", [(1, 5, 3, 9)])
    command = [sys.executable, "-m", "tfrecords.leave_one_out", f"--input={path}"]
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path}/out"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: No user has two items or more, so none can be held out."
    )


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([(1, 5, 3, 9)], {}, "No user has two items or more, so none can be held out."),
        ([(1, 5, 3, 9), (1, 6, 3, 9)], {}, "A user had all items, so there is nothing to draw"),
        (
            [(1, 5, 3, 9), (1, 6, 3, 9), (2, 7, 1, 1)],
            {"evaluation_negatives": 2},
            "User 1 never had 1 of the 3 items, but --evaluation_negatives=2 are wanted.",
        ),
    ],
)
def test_what_cannot_be_held_out_is_said_and_nothing_is_written(tmp_path, rows, options, sentence):
    data = read(tmp_path, rows)
    common = {"training_negatives": 1, "evaluation_negatives": 1, "passes": 1, "seed": 0}
    with pytest.raises(DataError, match=sentence):
        write(data, str(tmp_path / "out"), **(common | options), how_it_was_made={})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "header", "sentence"),
    [
        ([(1, "x", 3, 9)], None, "r.csv cannot be read as ratings: .*x"),
        ([(1, 2, 3, 9)], ("user", "movieId", "rating", "timestamp"), "r.csv .*: .*userId"),
        ([], None, "r.csv (has no ratings|cannot be read as ratings)"),
        ([(1, "", 3, 9)], None, "r.csv cannot be read as ratings"),
    ],
)
def test_files_that_are_no_ratings_are_named(tmp_path, rows, header, sentence):
    options = {} if header is None else {"header": header}
    path = ratings_file(tmp_path / "r.csv", rows, **options)
    with pytest.raises(DataError, match=sentence):
        read_ratings(path, "userId", "movieId", "timestamp")
