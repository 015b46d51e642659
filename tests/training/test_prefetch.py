"""Items made ahead by a thread: the same ones in the same order, errors and early ends included."""

import threading
import time

import pytest

from ptycho_backends.training.prefetch import ahead


@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_order_is_kept(length: int, count: int) -> None:
    assert list(ahead(range(length), count)) == list(range(length))


def test_items_are_made_meanwhile_and_no_more_than_asked_for() -> None:
    made: list[int] = []
    items = ahead((made.append(i) or i for i in range(10)), 2)
    assert next(items) == 0
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2]
    items.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_an_error_comes_where_its_item_would_have() -> None:
    def failing():
        yield 1
        raise ValueError("no more")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)
