"""Compilation of the steps into TensorFlow graphs, and graphs that are used again."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import tensorflow as tf

T = TypeVar("T")


def compiled(function: Callable[..., Any], *signature: Any) -> tf.types.experimental.PolymorphicFunction:
    """`function` as a graph, traced once, for arguments of the given `tf.TensorSpec` (or dictionaries of them).

    No branch or loop of ours depends on the value of a tensor, so AutoGraph, which would translate all Python
    on the way and takes five seconds of the first training of a process, is left out.
    """
    graph = tf.function(function, input_signature=signature or None, autograph=False)
    # a process that trains one model after the other makes many graphs, each of them once; TensorFlow tells these
    # by the name of the function, and would warn of one that is made again and again
    graph._omit_frequent_tracing_warning = True
    return graph


class Kept(Generic[T]):
    """Objects with graphs of their own, kept after use for a call that would trace the same again.

    Tracing takes seconds where computing takes a fraction of one. What is kept is lent to one caller at a time, so
    that threads share no variables.

    Parameters
    ----------
    most : int
        Of them; the one that was used longest ago goes first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._objects: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> T | None:
        """The object that was kept for `key`, which is the caller's from here on; None if there is none."""
        with self._lock:
            return self._objects.pop(key, None)

    def keep(self, key: Hashable, one: T) -> None:
        """Keep `one`, whose graphs hold for `key`."""
        with self._lock:
            self._objects.pop(key, None)
            self._objects[key] = one
            while len(self._objects) > self._most:
                del self._objects[next(iter(self._objects))]

    def forget(self) -> None:
        """Keep none of those that are kept now."""
        with self._lock:
            self._objects.clear()
