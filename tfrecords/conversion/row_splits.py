"""Splits that are not of consecutive rows: random ones, whole groups, or by a time.

Every row has a place on a line, and the splits are cut from it: the lowest rows are for training.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from tfrecords.conversion.encoding import EncodedRows
from tfrecords.conversion.spool import Spool
from tfrecords.errors import DataError
from tfrecords.hashing import hash_number, hash_numbers
from tfrecords.kinds.moment import moment

RANDOM, GROUP, TIME, TIME_FROM = "random", "group", "time", "time_from"
SPLITS = ("train", "evaluation", "test")
_PURPOSES = {RANDOM: 0x73706C74, GROUP: 0x67726F75}
# What the description must name for it.
_NEEDS = {GROUP: "group", TIME: "time", TIME_FROM: "time"}


@dataclasses.dataclass(frozen=True)
class RowSplit:
    """What `--split=WAY:AMOUNT` or `--split=WAY:AMOUNT,AMOUNT` says.

    Attributes:
        way: `random`: rows drawn by a seed. `group`: all rows of one group in one split, likewise.
            `time`: the latest rows; rows of one time stay together. `time_from`: the rows of a time
            and later.
        amounts: For the splits "evaluation" and, if there is one, "test": shares of the rows (of
            the groups, with `group`), or the times at which they begin.
        text: The value of `--split`.
    """

    way: str
    amounts: tuple[float, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> RowSplit | None:
        """Reads the value of `--split`; None where it says no such way.

        Raises:
            DataError: If the amounts are not allowed.
        """
        way, colon, amounts = text.partition(":")
        if not colon or way not in (RANDOM, GROUP, TIME, TIME_FROM):
            return None
        found: tuple[float, ...] = ()
        try:
            found = tuple(moment(part) for part in amounts.split(","))
        except (ValueError, OverflowError):
            pass  # None of them is allowed.
        if way == TIME_FROM:
            allowed = len(found) in (1, 2) and list(found) == sorted(set(found))
            needed = "one number or date, or two ascending ones"
        else:
            allowed = len(found) in (1, 2) and min(found) > 0 and sum(found) < 1
            needed = "one or two shares of the rows, each above 0 and together below 1"
        if not allowed:
            raise DataError(f"--split={way}: needs {needed} behind it, not {amounts!r}.")
        return cls(way, found, text)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits."""
        return SPLITS[: 1 + len(self.amounts)]

    def check(self, kept: dict[str, str]) -> None:
        """Checks that rows have what the way looks at.

        Args:
            kept: What is kept with the rows of the input, see `InputFormat`.

        Raises:
            DataError: If they have not.
        """
        needed = _NEEDS.get(self.way)
        if needed is not None and needed not in kept:
            raise DataError(
                f"--split={self.text} needs {needed} = the name of a column in the description of "
                "the table (--schema)."
            )

    def starts(self, spool: Spool) -> np.ndarray:
        """Where on the line the splits after the first begin, float64 `[splits - 1]`."""
        if self.way == TIME_FROM:
            return np.array(self.amounts)
        held_out = np.cumsum(self.amounts[::-1])[::-1]
        if self.way != TIME:
            return 1 - held_out
        # On disk, since memory need not have room for the times of all rows.
        path = f"{spool.path}-times"
        times: np.ndarray = np.memmap(path, np.float64, "w+", shape=(spool.rows,))
        for piece in spool.pieces:
            end = piece.first_row + piece.rows
            times[piece.first_row : end] = spool.read(piece).kept["time"]
        places = [min(spool.rows - int(spool.rows * share), spool.rows - 1) for share in held_out]
        times.partition(places)
        starts = np.array(times[places])
        del times
        os.unlink(path)
        return starts

    def codes(self, rows: EncodedRows, first_row: int, seed: int, starts: np.ndarray) -> np.ndarray:
        """The number of the split of each row, `[rows]`.

        Args:
            rows: Rows.
            first_row: Number of the first among all rows that were read.
            seed: Another seed draws others.
            starts: What `starts` returned.
        """
        places: np.ndarray
        if self.way in (TIME, TIME_FROM):
            places = rows.kept["time"]
        else:
            numbers = rows.kept.get("group") if self.way == GROUP else None
            if numbers is None:
                numbers = np.arange(first_row, first_row + len(rows))
            drawn = hash_numbers(hash_number(seed, _PURPOSES[self.way]), numbers)
            # 53 bits of the hash are a number in [0, 1) that float64 holds exactly.
            places = (drawn >> np.uint64(11)) * 2.0**-53
        return np.asarray(np.searchsorted(starts, places, side="right"))
