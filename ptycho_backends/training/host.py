"""The program around the library: settings of the whole process are borrowed and given back, threads included.

Also forks: a child has none of the threads of its parent, and a framework waits for them for ever.
"""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager

from ptycho_backends.errors import BackendUnavailableError


class HeldTogether:
    """A context of the whole process: the first of several threads enters it, the last one leaves it.

    With plain contexts, a thread that begins later would take the settings of an earlier one for the program's, and
    leave them behind. Threads with other arguments wait until the context is free, so that none decides the result of
    another; within one thread, contexts with other arguments are nested.

    Parameters
    ----------
    context : callable
        Makes the context manager; its arguments are compared.
    """

    def __init__(self, context: Callable[..., AbstractContextManager[object]]) -> None:
        self._context = context
        self._changed = threading.Condition()
        self._holders: list[int] = []
        self._arguments: tuple[Hashable, ...] = ()
        self._entered: AbstractContextManager[object] | None = None

    @contextmanager
    def __call__(self, *arguments: Hashable) -> Iterator[None]:
        thread = threading.get_ident()
        with self._changed:
            while self._holders and self._arguments != arguments and thread not in self._holders:
                self._changed.wait()
            nested = bool(self._holders) and self._arguments != arguments
            if not nested:
                if not self._holders:
                    self._entered = self._context(*arguments)
                    self._entered.__enter__()
                    self._arguments = arguments
                self._holders.append(thread)
        if nested:
            with self._context(*arguments):
                yield
            return
        try:
            yield
        finally:
            with self._changed:
                self._holders.remove(thread)
                if not self._holders:
                    entered, self._entered = self._entered, None
                    assert entered is not None
                    entered.__exit__(None, None, None)
                    self._changed.notify_all()


# backends that have computed, and the process in which they did
_computed_in: dict[str, int] = {}


def require_unforked(backend: str, survives: Callable[[], bool]) -> None:
    """Refuse to compute in a forked child whose parent has computed with `backend` already.

    Parameters
    ----------
    backend : str
    survives : callable
        True where the framework works in such a child all the same.

    Raises
    ------
    BackendUnavailableError
    """
    process = os.getpid()
    if _computed_in.setdefault(backend, process) == process or survives():
        return
    raise BackendUnavailableError(
        f"{backend}: this process was forked from one that had computed with {backend}, and lacks its threads, for "
        "which it would wait for ever; start processes with multiprocessing.get_context('spawn'), or fork before "
        "anything is computed"
    )
