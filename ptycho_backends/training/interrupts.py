"""Ctrl-C, and the signals that schedulers send, during long work: an end after the current step, on any backend.

Work ends in good order: what was computed is kept and its checkpoint written. A signal other than Ctrl-C then takes the
effect that it would have had: the program ends with exit code 128 + n, or the handler that it has installed is called.
"""

import contextlib
import dataclasses
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)


SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
"""Ctrl-C, and what schedulers and terminals send before they kill."""

SECONDS_OF_ONE_REQUEST = 5.0
"""The same signal may reach a process twice, from a launcher and from a scheduler."""


class TrainingInterrupted(Exception):
    """Ends a training loop after Ctrl-C or a signal of a scheduler."""


class CallbackInterrupted(Exception):
    """A KeyboardInterrupt that a callback raised, past a framework that would end the program.

    Attributes
    ----------
    original : KeyboardInterrupt
    """

    def __init__(self, original: KeyboardInterrupt) -> None:
        super().__init__()
        self.original = original


class Terminated(SystemExit):
    """Ends the program with 128 + n after signal n, once what was computed is kept.

    Attributes
    ----------
    signal : signal.Signals
    trained_model : TrainedModel or Reconstruction, optional
        Result of the work that was ended.
    result : RunResult, optional
        Of a verb, which has written its files.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)
        self.signal = number
        self.trained_model: Any = None
        self.result: Any = None


class Processes(Protocol):
    """The processes that train together; a backend's `ProcessGroup`."""

    @property
    def is_first(self) -> bool: ...

    def any(self, asked: bool) -> bool: ...


class Interrupts:
    """A signal of `SIGNALS` as a request to end after the current optimiser step; a second Ctrl-C ends at once.

    Processes that train together end after the same step.

    Parameters
    ----------
    processes : ProcessGroup

    Attributes
    ----------
    requested : bool
        A signal came to this process, or its caller asked for the end.
    within_step : bool
        It came twice, so that a step may be half done.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.requested = False
        self.within_step = False
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    @contextlib.contextmanager
    def listening(self) -> Iterator["Interrupts"]:
        """Handle `SIGNALS`; only in the main thread, because Python delivers signals to no other.

        Left alone are SIGHUP and SIGUSR1 where they are ignored, as under nohup, or the program handles them itself.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        always = (signal.SIGINT, signal.SIGTERM)
        self._previous = {
            number: handler
            for number, handler in previous.items()
            if number in always or handler is signal.SIG_DFL
        }
        self.take_signals()
        try:
            yield self
        finally:
            for number, handler in self._previous.items():
                # None: of a program that embeds Python, which cannot be set from here
                if handler is not None:
                    signal.signal(number, handler)
            self._previous = {}

    def take_signals(self) -> None:
        """Handle the signals again, where a framework has put its own handlers in place."""
        for number in self._previous:
            signal.signal(number, self._on_signal)

    def _on_signal(self, signum: int, frame: Any) -> None:
        number = signal.Signals(signum)
        what = "Ctrl-C" if number == signal.SIGINT else number.name
        if number != signal.SIGINT and _deferred:
            _deferred[-1].defer(number, self._previous.get(number))
        now = time.monotonic()
        if self.requested:
            if number == signal.SIGINT or now - self._first > SECONDS_OF_ONE_REQUEST:
                self.within_step = True
                raise TrainingInterrupted
            return
        self.requested, self._first = True, now
        if self._processes.is_first:
            log.warning("%s: ending after this step; once more, and it ends at once", what)

    def request(self) -> None:
        """Ask for the end of training after the current step, as a first signal does."""
        self.requested, self._first = True, time.monotonic()

    def raise_if_requested(self) -> None:
        """End training here if any process asks for it; a collective operation of all processes.

        Raises
        ------
        TrainingInterrupted
        """
        if self._processes.any(self.requested):
            raise TrainingInterrupted

    def report(self, epochs_done: int) -> None:
        """Log the end of training, in the first process."""
        if self._processes.is_first:
            log.warning("interrupted after %d epochs; what was learned is kept", epochs_done)

    def resumable(self, model: TrainedModel) -> TrainedModel:
        """`model` without its resume state if a step was cut short."""
        return dataclasses.replace(model, training_state=None) if self.within_step else model


class _Deferred:
    """Signals whose effect waits until work has ended in good order."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._handler: Any = None

    def defer(self, number: signal.Signals, handler: Any) -> None:
        self.number, self._handler = number, handler

    def take_effect(self, result: Any) -> None:
        """Call the program's handler, or raise `Terminated` where it has none."""
        if self.number is None or self._handler in (signal.SIG_IGN, None):
            return
        if callable(self._handler):
            self._handler(self.number, None)
            return
        ended = Terminated(self.number)
        ended.trained_model = result
        raise ended


_deferred: list[_Deferred] = []


def ending_in_order(work: Callable[[], Any]) -> Any:
    """The result of `work`, during which the effect of SIGTERM, SIGHUP and SIGUSR1 is deferred.

    Raises
    ------
    Terminated
        If one came and the program has no handler of its own; with the result.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    deferred = _Deferred()
    _deferred.append(deferred)
    try:
        result = work()
    finally:
        _deferred.remove(deferred)
    deferred.take_effect(result)
    return result
