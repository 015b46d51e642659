"""Batches that are ready before they are needed."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

# Batches gathered while the current one is computed, unless the configuration gives the number.
DEFAULT_PREFETCH = 2

_END = object()


def ahead(items: Iterable[Item], count: int = DEFAULT_PREFETCH) -> Iterator[Item]:
    """`items` in their order, the next `count` of which a thread makes while the caller is busy.

    An error while an item is made is raised in that item's place.
    """
    source = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        waiting = deque(pool.submit(next, source, _END) for _ in range(count))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item  # type: ignore[misc]
