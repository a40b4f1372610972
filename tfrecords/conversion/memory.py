"""How much memory each part of a conversion may take."""

from __future__ import annotations

import dataclasses
import os

from tfrecords.conversion import text_input

# A piece of text of one byte takes about so many while it is parsed and encoded, and while its
# rows are made into records (more where columns are blown up to many ids).
_PIECE_FACTOR = 12


@dataclasses.dataclass(frozen=True)
class Memory:
    """Shares of `--memory_gb`.

    Attributes:
        gigabytes: All of it.
        threads: Threads that work at once.
    """

    gigabytes: float
    threads: int

    @classmethod
    def of(cls, gigabytes: float | None, threads: int) -> Memory:
        """The value of the flag; None for half of the machine's memory."""
        if gigabytes is None:
            gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2e9
        return cls(gigabytes, threads)

    def _share(self, part: float) -> int:
        return max(1 << 16, int(self.gigabytes * 1e9 * part))

    @property
    def piece_bytes(self) -> int:
        """Bytes of text in one piece."""
        pieces = self._share(0.3) // ((self.threads + 2) * _PIECE_FACTOR)
        return max(1 << 18, min(text_input.PIECE_BYTES, pieces))

    @property
    def counting_bytes(self) -> int:
        """Bytes of counted values that are held before they go to disk."""
        return self._share(0.2)

    @property
    def merging_bytes(self) -> int:
        """Bytes of counted values that are merged at once."""
        return self._share(0.1)

    @property
    def vocabulary_bytes(self) -> int:
        """Bytes of all finished vocabularies together."""
        return self._share(0.5)

    @property
    def bucket_bytes(self) -> int:
        """Bytes of a bucket of rows that is shuffled in memory."""
        # Each is held up to four times: as read, ordered, as columns, and as records.
        return max(1 << 16, min(1 << 26, self._share(0.4) // (4 * (self.threads + 2))))
