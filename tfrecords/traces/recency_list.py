"""Many moves to the top of a list at once.

Taking the item at position d of a list and putting it on top is one memory move of up to the whole
list, or a walk through a tree; either is slow in Python. Instead, accesses are worked out in
chunks, apart from the list: which positions of the list, as it is when the chunk begins, does it
take, in which order do they lie on top afterwards, and which of its accesses take the same item
again. Chunks of one access join to chunks of two, four, ..., all pairs at once, O(n log chunk);
each whole chunk then changes the list in one go.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_SMALLEST_CHUNK = 4096
# Working memory is about 200 bytes per access.
_PASS = 1 << 18


class RecencyList:
    """A list of items, most recently used first, that is accessed by position.

    Args:
        items: The items from the top, `[size]`; copied.

    Attributes:
        items: The items from the top, at this moment.
    """

    def __init__(self, items: np.ndarray) -> None:
        self.items = np.array(items)
        # A chunk moves the whole list once, so longer lists are given longer chunks.
        wanted = max(_SMALLEST_CHUNK, len(self.items) // 128)
        self._levels = min((wanted - 1).bit_length(), 18)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Takes items one after the other, each of which goes on top before the next is taken.

        Args:
            positions: Positions from the top, each in [1, size], int64 `[accesses]`.

        Returns:
            The items taken, `[accesses]`.
        """
        taken = np.empty(len(positions), self.items.dtype)
        for start in range(0, len(positions), _PASS):
            end = min(start + _PASS, len(positions))
            taken[start:end] = self._take(positions[start:end])
        return taken

    def _take(self, positions: np.ndarray) -> np.ndarray:
        chunks = _Chunks.of_single_accesses(positions)
        same_as: np.ndarray = np.arange(len(positions))
        for _ in range(self._levels):
            if len(chunks.sizes) == 1:
                break
            chunks = _joined_in_pairs(chunks, same_as)
        taken = np.empty(len(positions), self.items.dtype)
        ends = np.cumsum(chunks.sizes).tolist()
        start = 0
        for end in ends:
            places: np.ndarray = chunks.positions[start:end] - 1
            deepest = int(places[-1]) + 1
            top = self.items[:deepest]
            found = top[places]
            taken[chunks.first_access[start:end]] = found
            stays: np.ndarray = np.ones(deepest, bool)
            stays[places] = False
            top[end - start :] = top[stays]
            top[chunks.ranks[start:end]] = found
            start = end
        # An access may point to one that points further.
        while True:
            further = same_as[same_as]
            if np.array_equal(further, same_as):
                return taken[same_as]
            same_as = further


@dataclasses.dataclass
class _Chunks:
    """What chunks of accesses do to a list; the items they take, chunk after chunk.

    Attributes:
        sizes: Number of different items that each chunk takes, `[chunks]`.
        positions: Position of each item (from 1) in the list as the chunk finds it, ascending
            within the chunk.
        ranks: Position of the item (from 0) after the chunk.
        first_access: The first access of the chunk that takes the item.
    """

    sizes: np.ndarray
    positions: np.ndarray
    ranks: np.ndarray
    first_access: np.ndarray

    @classmethod
    def of_single_accesses(cls, positions: np.ndarray) -> _Chunks:
        count = len(positions)
        return cls(np.ones(count, np.int64), positions, np.zeros(count, np.int64), np.arange(count))


def _joined_in_pairs(chunks: _Chunks, same_as: np.ndarray) -> _Chunks:
    """Joins the chunks 0 and 1, 2 and 3, ...

    Args:
        chunks: The chunks.
        same_as: For each access, an earlier one that takes the same item; changed in place for the
            items of second halves that their first halves take as well.
    """
    sizes = chunks.sizes if len(chunks.sizes) % 2 == 0 else np.append(chunks.sizes, 0)
    first_size, second_size = sizes[::2], sizes[1::2]
    pairs = len(first_size)
    second: np.ndarray = np.repeat(np.tile([False, True], pairs), sizes)
    first_start = np.cumsum(first_size) - first_size
    first = ~second
    first_position, first_rank = chunks.positions[first], chunks.ranks[first]
    first_access = chunks.first_access[first]
    pair_of_first: np.ndarray = np.repeat(np.arange(pairs), first_size)
    start_of_first = first_start[pair_of_first]
    by_rank: np.ndarray = np.empty(len(first_rank), np.int64)
    by_rank[start_of_first + first_rank] = np.arange(len(first_rank))

    position, rank = chunks.positions[second], chunks.ranks[second]
    access = chunks.first_access[second]
    pair: np.ndarray = np.repeat(np.arange(pairs), second_size)
    below = position - first_size[pair]
    # Positions within what the first half put on top: its items once more.
    again = np.flatnonzero(below <= 0)
    hit = by_rank[first_start[pair[again]] + position[again] - 1]
    same_as[access[again]] = first_access[hit]
    was_hit: np.ndarray = np.zeros(len(first_rank), np.int64)
    was_hit[start_of_first[hit] + first_rank[hit]] = 1
    hit_before = np.cumsum(was_hit) - was_hit
    new_rank = second_size[pair_of_first] + first_rank
    new_rank -= hit_before[start_of_first + first_rank] - hit_before[start_of_first]
    new_rank[hit] = rank[again]

    # The others lie `below` the first half's items: count what it took from above them.
    other = np.flatnonzero(below > 0)
    pair, below, rank, access = pair[other], below[other], rank[other], access[other]
    span = int(chunks.positions.max()) + 1
    lifted = first_position - np.arange(len(first_position)) + start_of_first
    above = np.searchsorted(lifted + pair_of_first * span, below + pair * span, side="right")
    position = below + above - first_start[pair]
    # Both are in order, so an item's place is its own number plus that of the others before it.
    place = np.arange(len(other)) + above
    total = len(first_rank) + len(other)
    from_first: np.ndarray = np.ones(total, bool)
    from_first[place] = False

    def merged(of_first: np.ndarray, of_other: np.ndarray) -> np.ndarray:
        both: np.ndarray = np.empty(total, np.int64)
        both[place] = of_other
        both[from_first] = of_first
        return both

    return _Chunks(
        first_size + np.bincount(pair, minlength=pairs),
        merged(first_position, position),
        merged(new_rank, rank),
        merged(first_access, access),
    )
