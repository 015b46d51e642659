"""Ctrl-C during training: an end after the current optimiser step, on any backend."""

import contextlib
import dataclasses
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from ptycho_backends.values import TrainedModel

log = logging.getLogger(__name__)


class TrainingInterrupted(Exception):
    """Ends a training loop after Ctrl-C."""


class Processes(Protocol):
    """The processes that train together; a backend's `ProcessGroup`."""

    @property
    def is_first(self) -> bool: ...

    def any(self, asked: bool) -> bool: ...


class Interrupts:
    """Ctrl-C as a request to end after the current optimiser step; a second Ctrl-C ends at once.

    Processes that train together end after the same step.

    Parameters
    ----------
    processes : ProcessGroup

    Attributes
    ----------
    requested : bool
        Ctrl-C was pressed in this process.
    within_step : bool
        It was pressed twice, so that a step may be half done.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.requested = False
        self.within_step = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Interrupts"]:
        """Handle SIGINT; only in the main thread, because Python delivers signals to no other."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, previous)

    def _on_signal(self, signum: int, frame: Any) -> None:
        if self.requested:
            self.within_step = True
            raise TrainingInterrupted
        self.requested = True
        if self._processes.is_first:
            log.warning("Ctrl-C: ending after this step; press it again to end at once")

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
