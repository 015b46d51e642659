"""Progress of training on standard error."""

import sys
import time
from collections.abc import Callable

from ptycho_backends.values import EpochRecord

SECONDS_BETWEEN = 0.2
"""Least time between two looks at the loss of a step: each waits until the device has finished that step."""


class Throttle:
    """Lets something happen every `SECONDS_BETWEEN` seconds at most."""

    def __init__(self) -> None:
        self._last = 0.0

    def is_due(self) -> bool:
        """True if it is time; then the time until the next starts anew."""
        now = time.monotonic()
        due = now - self._last > SECONDS_BETWEEN
        if due:
            self._last = now
        return due


class ProgressLine:
    """A line on standard error: rewritten during an epoch on a terminal, one per epoch elsewhere."""

    def __init__(self, nepochs: int) -> None:
        self._nepochs = nepochs
        self._throttle = Throttle()

    def show(self, epoch: int, batch: int, batches: int, loss: Callable[[], float]) -> None:
        """Show a step; `loss` is only called if the line is written."""
        if sys.stderr.isatty() and self._throttle.is_due():
            text = f"epoch {epoch}/{self._nepochs}  batch {batch}/{batches}  loss {loss():.6g}"
            sys.stderr.write(f"\r{text:<78}")
            sys.stderr.flush()

    def finish(self, record: EpochRecord) -> None:
        """Show an epoch that is done."""
        losses = f"train_loss {record.train_loss:.6g}"
        if record.val_loss is not None:
            losses += f"  val_loss {record.val_loss:.6g}"
        text = f"epoch {record.epoch}/{self._nepochs}  {losses}  {record.seconds:.1f} s"
        sys.stderr.write(f"\r{text:<78}\n" if sys.stderr.isatty() else f"{text}\n")
        sys.stderr.flush()
