"""Progress of trainings and refinements on standard error, the same for every backend."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ptycho_backends.values import PassCallback, RefinementRecord

SECONDS_BETWEEN = 0.2
"""Least time between two looks at the loss of a step: each waits until the device has finished that step."""

SECONDS_BETWEEN_LINES = 1.0
"""Least time between two lines where no terminal is; the first epoch and the last have theirs in any case."""

Seconds = Callable[[], float]


class Throttle:
    """Lets something happen every so many seconds at most; the first time at once."""

    def __init__(self, seconds: float = SECONDS_BETWEEN, clock: Seconds = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last = -math.inf

    def is_due(self) -> bool:
        """True if it is time; then the time until the next starts anew."""
        now = self._clock()
        due = now - self._last > self._seconds
        if due:
            self._last = now
        return due


class Progress:
    """One line that is rewritten on a terminal; elsewhere one line for each epoch, or pass, at most every second.

    It tells the epoch, counted from 1, of all; the loss and in brackets how far it has moved since the first epoch;
    groups a second; and the time left, if all epochs are made and take as long as the last one.

    Parameters
    ----------
    total : int
        Epochs when all is done, earlier ones that are resumed included.
    done : int
        Of those, epochs that are done before the display begins.
    groups : int
        Groups, or positions, of an epoch.
    first_loss : float, optional
        Loss of the first epoch of all, where it was before the display.
    unit, rate, loss, digits
        Names of an epoch, of its groups and of the loss, and significant digits of the loss.
    clock : callable
        Seconds since any moment.
    """

    def __init__(
        self,
        total: int,
        done: int,
        groups: int,
        first_loss: float | None = None,
        *,
        unit: str = "epoch",
        rate: str = "groups",
        loss: str = "train_loss",
        digits: int = 6,
        clock: Seconds = time.monotonic,
    ) -> None:
        self._total, self._done, self._groups = total, done, groups
        self._unit, self._rate, self._name, self._digits = unit, rate, loss, digits
        self._first_loss = first_loss
        self._clock = clock
        self._started = clock()
        self._epoch_seconds: float | None = None
        self._steps, self._lines = Throttle(SECONDS_BETWEEN, clock), Throttle(SECONDS_BETWEEN_LINES, clock)
        self._waiting = ""

    def step(self, batch: int, batches: int, loss: Callable[[], float]) -> None:
        """Show a step of the epoch that runs, on a terminal.

        Parameters
        ----------
        batch, batches : int
            Batches done, and those of an epoch.
        loss : callable
            Only called if the line is written.
        """
        if not sys.stderr.isatty() or not self._steps.is_due():
            return
        seconds, fraction = self._clock() - self._started, batch / max(batches, 1)
        epoch = seconds / fraction if self._epoch_seconds is None else self._epoch_seconds
        _line.rewrite(
            f"{self._unit} {self._done + 1}/{self._total}, batch {batch}/{batches}: "
            + self._told(
                loss(),
                None,
                self._groups * fraction / max(seconds, 1e-9),
                epoch * (self._total - self._done - fraction),
            )
        )

    def finish(
        self, number: int, loss: float, val_loss: float | None = None, seconds: float | None = None
    ) -> None:
        """Show an epoch that is done.

        Parameters
        ----------
        number : int
            Counted from 1.
        loss, val_loss : float
        seconds : float, optional
            That it took by itself; the time left counts all that is done between two epochs, too.
        """
        now = self._clock()
        self._epoch_seconds, self._started, self._done = now - self._started, now, number
        took = self._epoch_seconds if seconds is None else seconds
        left = self._epoch_seconds * (self._total - number)
        text = f"{self._unit} {number}/{self._total}: " + self._told(
            loss, val_loss, self._groups / max(took, 1e-9), left
        )
        if self._first_loss is None:
            self._first_loss = loss
        if sys.stderr.isatty():
            _line.rewrite(text)
        elif self._lines.is_due() or number >= self._total:
            self._write_line(text)
        else:
            self._waiting = text

    def close(self) -> None:
        """Show the last epoch, if its line was left out, and leave the line on a terminal."""
        if self._waiting:
            self._write_line(self._waiting)
        leave_line()

    def _told(self, loss: float, val_loss: float | None, rate: float, left: float) -> str:
        told = f"{self._name} {loss:.{self._digits}g}"
        if self._first_loss is not None:
            told += f" ({loss - self._first_loss:+.3g})"
        if val_loss is not None:
            told += f", val_loss {val_loss:.{self._digits}g}"
        speed = f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"
        return f"{told}, {speed} {self._rate}/s, {as_time(left)} left"

    def _write_line(self, text: str) -> None:
        self._waiting = ""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _TerminalLine:
    """The line on the terminal that is rewritten; `columns` of it are written."""

    columns = 0

    def rewrite(self, text: str) -> None:
        # a longer one would begin a second line, which could not be rewritten
        text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r{text:<{self.columns}}")
        sys.stderr.flush()
        self.columns = len(text)

    def leave(self) -> None:
        if self.columns:
            self.columns = 0
            sys.stderr.write("\n")
            sys.stderr.flush()


_line = _TerminalLine()


def leave_line() -> None:
    """Go to the next line, where the display stands on one; for whoever writes messages on the same terminal."""
    _line.leave()


def as_time(seconds: float) -> str:
    """A duration as 'm:ss', or 'h:mm:ss'."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def passes_shown(
    total: int, done: int, positions: int, on_pass: PassCallback | None, *, shown: bool
) -> Iterator[PassCallback | None]:
    """`on_pass` of a refinement with a display, if `shown`.

    Parameters
    ----------
    total, done : int
        Passes when all is done, and those that are done already.
    positions : int
    on_pass : callable, optional
    shown : bool
    """
    if not shown:
        yield on_pass
        return
    progress = Progress(total, done, positions, unit="pass", rate="positions", loss="R-factor", digits=4)

    def told(record: RefinementRecord) -> None:
        progress.finish(record.number, record.r_factor, seconds=record.seconds)
        if on_pass is not None:
            on_pass(record)

    try:
        yield told
    finally:
        progress.close()
