"""The tracker of a training: the place where its parameters, metrics, pictures and model go while it runs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.errors import OutputError
from ptycho_backends.training.loggers import CsvLog, logger_of
from ptycho_backends.training.mlflow_run import MlflowRun
from ptycho_backends.training.tensorboard_log import TensorBoardLog
from ptycho_backends.training.wandb_run import WandbRun
from ptycho_backends.values import EpochRecord, TrainedModel

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What a logger of `ExecutionConfig.logger_backend` does."""

    def log(self, history: Sequence[EpochRecord]) -> None:
        """Log the epochs of `history` that were not logged yet; steps are epochs, counted from 1."""

    def show(self, picture: Path, epoch: int) -> None:
        """Log a PNG file as the picture of `epoch`, which was logged before."""

    def end(self, status: str, model: TrainedModel | None) -> None:
        """Log the model, if there is one, and end the run: 'FINISHED', 'KILLED' or 'FAILED'."""


class Tracked:
    """A tracker that cannot fail a training: what it does not take is a warning, once, and then it is left alone.

    Attributes
    ----------
    model : TrainedModel or None
        To be set after training.
    tracker : Tracker
    """

    def __init__(self, tracker: Tracker, name: str) -> None:
        self.model: TrainedModel | None = None
        self.tracker = tracker
        self._name = name
        self._works = True

    def log(self, history: Sequence[EpochRecord]) -> None:
        """As `Tracker.log`."""
        self._try(lambda: self.tracker.log(history))

    def show(self, picture: Path, epoch: int) -> None:
        """As `Tracker.show`."""
        self._try(lambda: self.tracker.show(picture, epoch))

    def end(self, status: str) -> None:
        """As `Tracker.end`, with `model`."""
        self._try(lambda: self.tracker.end(status, self.model))

    def _try(self, work: Callable[[], Any]) -> None:
        if not self._works:
            return
        try:
            work()
        except Exception as error:
            self._works = False
            log.warning(
                "logger_backend=%r: %s: %s; training goes on without it",
                self._name,
                type(error).__name__,
                error,
            )


@contextmanager
def tracked(
    config: TrainingConfig, execution: ExecutionConfig, folder: Path | None
) -> Iterator[Tracked | None]:
    """The tracker that `execution` asks for; None where it asks for none, or there is no `folder`.

    Raises
    ------
    BackendUnavailableError
        If its package is not installed.
    OutputError
        If it does not begin a run: no file can be written, or its server does not answer.
    """
    kind = logger_of(execution, folder)
    if kind is None or folder is None:
        yield None
        return
    try:
        run = Tracked(_tracker(kind, config, execution, folder), kind)
    except OutputError:
        raise
    except Exception as error:
        raise OutputError(
            f"logger_backend: {kind!r} begins no run ({type(error).__name__}: {error}); "
            "want a place that takes one, or logger_backend='csv'"
        ) from error
    try:
        yield run
    except BaseException:
        run.end("FAILED")
        raise
    run.end("KILLED" if run.model is not None and run.model.interrupted else "FINISHED")


def _tracker(kind: str, config: TrainingConfig, execution: ExecutionConfig, folder: Path) -> Tracker:
    if kind == "mlflow":
        return MlflowRun(config, execution, folder)
    if kind == "wandb":
        return WandbRun(config, execution, folder)
    return TensorBoardLog(folder) if kind == "tensorboard" else CsvLog(folder)
