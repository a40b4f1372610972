"""The order of the rows of an epoch, as a function of (seed, epoch, position), and its shards.

The unit is the block (one record). Without a seed, blocks come in file order. With a seed, the
blocks are permuted, consecutive blocks of the permutation form windows, and the rows are shuffled
within each window. A window's shuffle depends on (seed, epoch, window) alone, so reading can begin
at any row without having read the ones before it.

Shards (workers that read one data set together) divide this order by one rule:

    Shard `w` of `n` gets the rows whose position in the order is `w` modulo `n`, in order.

From it follows what training on several workers needs. After `k` steps of batch size `b` the
shards have together seen the rows at `k * n * b` consecutive positions, whatever `n` is: so a
number, `first_row`, says where to go on, with more or fewer shards than before. Every shard has
the same number of batches, and in one step the sizes of their batches differ by at most one row.

`shard_by` says which order is divided:

- "row": the order described above. A shard reads every block and keeps its rows. Any number of
  shards, together, train on the very batches that one reader has.
- "block": an order in which a window of `L` blocks deals its rows out in turn: position `p` of the
  window belongs to its block `p % L`. Where `n` divides `L`, a shard has its own blocks and reads
  no others. `L` is the largest power of two that fits in a window, so the order is a function of
  (seed, epoch) and the data set, not of `n`.
- "file": as "block", but the blocks that a shard reads lie in files of its own. That is possible
  for one `n` only, so here the order is a function of `n` too.

By block and by file, the blocks that fill no such window (fewer than a window, and those of files
that not every shard has one of) come last, divided by row.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from tfrecords.errors import DataError
from tfrecords.hashing import hash_numbers

SHUFFLE_WINDOW_ROWS = 262_144
_FILE_ORDER_WINDOW_ROWS = 65_536
SHARD_BY = ("row", "block", "file")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of the order is read.

    Attributes:
        index: Number of this shard, from 0.
        count: Number of shards.
        by: One of `SHARD_BY`.

    Raises:
        DataError: If a value is out of range.
    """

    index: int = 0
    count: int = 1
    by: str = "row"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError(f"shard_count must be at least 1, not {self.count}.")
        if not 0 <= self.index < self.count:
            raise DataError(
                f"shard_index must lie between 0 and shard_count - 1, {self.count - 1}, "
                f"not {self.index}."
            )
        if self.by not in SHARD_BY:
            raise DataError(f"shard_by must be one of {', '.join(SHARD_BY)}, not {self.by!r}.")


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of equally many blocks, in the order of reading, as one shard reads them.

    A window loads its blocks one behind the other. It has `lanes` lanes of equally many rows, one
    behind the other too; row `i` of what it has to say is row `i // lanes` of lane `i % lanes`.

    Attributes:
        blocks: Indices of the blocks to read, int64.
        per_window: Blocks in a window; the last window may have fewer.
        lanes: Lanes in a window.
        rows: Rows that each window loads, int64 `[windows]`.
        first: The first row of each window to yield, int64 `[windows]`.
        stride: Every how manyth row after that is to be yielded.
        seeds: Seed of each window's shuffle, int64 `[windows, 2]`.
        offsets: By how many rows each lane's shuffle is turned, int64 `[windows, lanes]`.
        shuffled: Whether rows are shuffled within the lanes.
        dealt: Whether the rows of the lanes are dealt out in turn.
    """

    blocks: np.ndarray
    per_window: int
    lanes: int
    rows: np.ndarray
    first: np.ndarray
    stride: int
    seeds: np.ndarray
    offsets: np.ndarray
    shuffled: bool
    dealt: bool

    @property
    def yields(self) -> np.ndarray:
        """Number of rows that each window yields, int64 `[windows]`."""
        return np.maximum(0, -((self.first - self.rows) // self.stride))

    @property
    def rows_to_yield(self) -> int:
        """Number of rows that these windows yield."""
        return int(self.yields.sum())

    @property
    def in_order(self) -> bool:
        """Whether a window yields its rows as they were loaded, from `first` on."""
        return not self.shuffled and self.stride == 1 and not self.dealt


@dataclasses.dataclass(frozen=True)
class EpochOrder:
    """What one shard has to read of an epoch.

    Attributes:
        parts: Windows, part after part.
        first_row: Position in the order of all shards at which reading begins.
        total_rows: Rows of the whole epoch, of all shards.
        shard: The shard.
    """

    parts: tuple[Windows, ...]
    first_row: int
    total_rows: int
    shard: Shard

    @property
    def rows(self) -> int:
        """Number of rows that are left to yield to this shard."""
        return sum(part.rows_to_yield for part in self.parts)

    def batches(self, batch_size: int, drop_remainder: bool) -> int:
        """Number of batches, the same for every shard."""
        together = batch_size * self.shard.count
        left = self.total_rows - self.first_row
        return left // together if drop_remainder else -(-left // together)


def epoch_order(
    block_rows: np.ndarray,
    *,
    shuffle_seed: int | None,
    epoch: int,
    first_row: int,
    shuffle_window_rows: int,
    shard: Shard = Shard(),
    block_files: np.ndarray | None = None,
) -> EpochOrder:
    """Works out the order of an epoch.

    Args:
        block_rows: Rows of each block, int64 `[blocks]`.
        shuffle_seed: None for file order.
        epoch: Number of the epoch; another epoch has another order.
        first_row: Position in the epoch's order at which to begin, in `[0, rows]`: counted over all
            shards.
        shuffle_window_rows: About how many rows are shuffled together.
        shard: Which shard's part is wanted.
        block_files: Number of the file that each block lies in, int64 `[blocks]`; needed by file.

    Raises:
        DataError: If `first_row` or `epoch` is out of range, or the shards cannot have blocks of
            their own.
    """
    total = int(block_rows.sum())
    if not 0 <= first_row <= total:
        raise DataError(
            f"first_row must lie between 0 and the number of rows, {total}, not {first_row}."
        )
    if epoch < 0:
        raise DataError(f"epoch must be at least 0, not {epoch}.")
    plan = _Plan(block_rows, shuffle_seed, epoch, first_row, shard)
    blocks: np.ndarray = np.arange(len(block_rows), dtype=np.int64)
    window_rows = _FILE_ORDER_WINDOW_ROWS
    if shuffle_seed is not None:
        blocks = np.argsort(hash_numbers(shuffle_seed, epoch, blocks), kind="stable")
        window_rows = shuffle_window_rows
    per_window = max(1, round(window_rows / int(block_rows.max(initial=1))))
    parts = []
    if shard.by == "row":
        rest = blocks
    else:
        lanes = _lanes(shard, per_window)
        per_window = per_window // lanes * lanes or lanes
        if shard.by == "file" and block_files is None:
            raise DataError("shard_by='file' needs a data set of files; this source has none.")
        dealt, rest = _deal(plan, blocks, lanes, per_window, block_files)
        parts.append(plan.dealt_windows(dealt, lanes, per_window))
    parts.append(plan.plain_windows(rest, per_window))
    # One part stays even where there is nothing to read: it knows the types.
    parts = [part for part in parts if len(part.rows)] or parts[-1:]
    return EpochOrder(tuple(parts), first_row, total, shard)


def _lanes(shard: Shard, per_window: int) -> int:
    if shard.by == "file":
        return shard.count
    lanes = 1 << (per_window.bit_length() - 1)
    if lanes % shard.count:
        raise DataError(
            f"shard_by='block' needs a shard_count that divides {lanes}, the power of two that "
            f"fits in a window of {per_window} blocks, not {shard.count}. Take shard_by='row', or "
            "other windows (shuffle_window_rows)."
        )
    return lanes


def _deal(
    plan: _Plan,
    blocks: np.ndarray,
    lanes: int,
    per_window: int,
    block_files: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Deals whole blocks to lanes.

    Returns:
        The blocks by window, lane and place in the lane, int64 `[windows, lanes, blocks]`, and
        those that are left over, in order.
    """
    whole = blocks[plan.block_rows[blocks] == plan.block_rows.max(initial=0)]
    per_lane = per_window // lanes
    if block_files is None or plan.shard.by == "block":
        count = len(whole) // per_window
        dealt = whole[: count * per_window].reshape(count, per_lane, lanes).transpose(0, 2, 1)
    else:
        files: np.ndarray = np.unique(block_files)
        if plan.seed is not None:
            files = files[np.argsort(hash_numbers(plan.seed, plan.epoch, files, 4), kind="stable")]
        # The largest files first, each to the lane that has the fewest blocks so far.
        sizes = np.bincount(block_files[whole], minlength=int(files.max(initial=-1)) + 1)
        lane_of: np.ndarray = np.zeros(len(sizes), np.int64)
        filled: np.ndarray = np.zeros(lanes, np.int64)
        for file in files[np.argsort(-sizes[files], kind="stable")]:
            lane_of[file] = np.argmin(filled)
            filled[lane_of[file]] += sizes[file]
        count = int(filled.min()) // per_lane
        of_lane = [whole[lane_of[block_files[whole]] == lane] for lane in range(lanes)]
        cut = [mine[: count * per_lane].reshape(count, per_lane) for mine in of_lane]
        dealt = np.stack(cut, axis=1)
    return dealt, blocks[~np.isin(blocks, dealt)]


class _Plan:
    """Makes the parts of an order one behind the other, and counts the rows of all shards."""

    def __init__(
        self,
        block_rows: np.ndarray,
        seed: int | None,
        epoch: int,
        first_row: int,
        shard: Shard,
    ) -> None:
        self.block_rows = block_rows
        self.seed = seed
        self.epoch = epoch
        self.shard = shard
        self._first_row = first_row
        self._start = 0
        self._windows = 0

    def plain_windows(self, blocks: np.ndarray, per_window: int) -> Windows:
        """Windows that every shard reads, to keep every `count`th row."""
        starts = np.arange(0, len(blocks), per_window)
        rows = np.add.reduceat(self.block_rows[blocks], starts) if len(blocks) else blocks
        begin, numbers = self._advance(rows)
        first = self._first_of_shard(begin, rows) - begin
        return self._from_first(
            Windows(
                blocks=blocks,
                per_window=per_window,
                lanes=1,
                rows=rows,
                first=first,
                stride=self.shard.count,
                seeds=self._seeds(numbers),
                offsets=np.zeros((len(rows), 1), np.int64),
                shuffled=self.seed is not None,
                dealt=False,
            ),
            begin,
            rows,
        )

    def dealt_windows(self, dealt: np.ndarray, lanes: int, per_window: int) -> Windows:
        """Windows of which this shard reads its own lanes."""
        shard = self.shard
        lane_rows = int(self.block_rows.max(initial=0)) * (per_window // lanes)
        rows: np.ndarray = np.full(len(dealt), lane_rows * lanes, np.int64)
        begin, numbers = self._advance(rows)
        first = self._first_of_shard(begin, rows) - begin
        offsets: np.ndarray = np.zeros((len(rows), lanes), np.int64)
        if self.seed is not None:
            hashed = hash_numbers(
                self.seed, self.epoch, numbers[:, None], 3, np.arange(lanes)[None, :]
            )
            offsets = (hashed % np.uint64(max(1, lane_rows))).astype(np.int64)
        own = dealt[:, shard.index :: shard.count]
        return self._from_first(
            Windows(
                blocks=own.reshape(-1),
                per_window=per_window // shard.count,
                lanes=lanes // shard.count,
                rows=rows // shard.count,
                # Windows begin at multiples of `lanes`, so position modulo `count` is the shard.
                first=first // shard.count,
                stride=1,
                seeds=self._seeds(numbers),
                offsets=offsets[:, shard.index :: shard.count],
                shuffled=self.seed is not None,
                dealt=True,
            ),
            begin,
            rows,
        )

    def _advance(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = self._start + np.cumsum(rows)
        numbers: np.ndarray = np.arange(self._windows, self._windows + len(rows), dtype=np.int64)
        self._windows += len(rows)
        self._start += int(rows.sum())
        return ends - rows, numbers

    def _first_of_shard(self, begin: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The first position of each window that this shard is to yield."""
        wanted = np.clip(self._first_row, begin, begin + rows)
        return wanted + (self.shard.index - wanted) % self.shard.count

    def _from_first(self, windows: Windows, begin: np.ndarray, rows: np.ndarray) -> Windows:
        """Without the windows that end before the first row."""
        skipped = int(np.searchsorted(begin + rows, self._first_row, side="right"))
        return dataclasses.replace(
            windows,
            blocks=windows.blocks[skipped * windows.per_window :],
            rows=windows.rows[skipped:],
            first=windows.first[skipped:],
            seeds=windows.seeds[skipped:],
            offsets=windows.offsets[skipped:],
        )

    def _seeds(self, numbers: np.ndarray) -> np.ndarray:
        seeds: np.ndarray = np.zeros((len(numbers), 2), np.int64)
        if self.seed is not None:
            for part in range(2):
                hashed = hash_numbers(self.seed, self.epoch, numbers, part + 1)
                seeds[:, part] = (hashed >> np.uint64(1)).astype(np.int64)
        return seeds
