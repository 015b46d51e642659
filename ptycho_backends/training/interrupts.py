"""Ctrl-C and SIGTERM during training: an end after the current optimiser step, on any backend."""

import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what a scheduler sends before it kills."""


class TrainingInterrupted(Exception):
    """Ends a training loop after Ctrl-C or SIGTERM."""


class Processes(Protocol):
    """The processes that train together; a backend's `ProcessGroup`."""

    @property
    def is_first(self) -> bool: ...

    def any(self, asked: bool) -> bool: ...


class Interrupts:
    """Ctrl-C or SIGTERM as a request to end after the current optimiser step; a second one ends at once.

    Processes that train together end after the same step.

    Parameters
    ----------
    processes : ProcessGroup

    Attributes
    ----------
    requested : bool
        A signal came to this process.
    within_step : bool
        It came twice, so that a step may be half done.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.requested = False
        self.within_step = False
        self._is_listening = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Interrupts"]:
        """Handle `SIGNALS`; only in the main thread, because Python delivers signals to no other."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        self._is_listening = True
        self.take_signals()
        try:
            yield self
        finally:
            self._is_listening = False
            for number, handler in previous.items():
                # None: of a program that embeds Python, which cannot be set from here
                if handler is not None:
                    signal.signal(number, handler)

    def take_signals(self) -> None:
        """Handle the signals again, where a framework has put its own handlers in place."""
        if self._is_listening:
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self.requested:
            self.within_step = True
            raise TrainingInterrupted
        self.requested = True
        if self._processes.is_first:
            what = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
            log.warning("%s: ending after this step; once more, and it ends at once", what)

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
