"""Parallel work whose results come in the order of the input."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_in_order(work: Callable[[_In], _Out], items: Iterable[_In], threads: int) -> Iterator[_Out]:
    """Like `map`, on threads, with at most `threads + 1` items in work or waiting.

    Threads, not processes: what is run releases the interpreter lock (pyarrow, sorting and
    arithmetic of NumPy), and the results need no copying.

    Args:
        work: Called for each item, on a thread.
        items: Read on the calling thread.
        threads: Number of threads.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[Future[_Out]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
