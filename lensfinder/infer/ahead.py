"""Read ahead: what is needed next is fetched while the network computes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")
_END: Any = object()


def ahead(items: Iterator[_T], depth: int = 2) -> Generator[_T, None, None]:
    """Yield `items` in their order, fetched by one thread that is at most `depth` of them ahead.

    Parameters
    ----------
    items : iterator
        Used by that thread alone; what it raises is raised here, in its place.
    depth : int
        Bounds the memory: no more than this many wait, beside the one in use.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="reader")
    waiting: deque[Future[_T]] = deque(pool.submit(next, items, _END) for _ in range(depth))
    try:
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, items, _END))
            yield item
            del item  # or it would live on while the next one is waited for
    finally:
        pool.shutdown(cancel_futures=True)
        # Files that a generator holds open are closed even where nobody asks for the rest.
        if isinstance(items, Generator):
            items.close()
