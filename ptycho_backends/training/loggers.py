"""The loggers that `ExecutionConfig.logger_backend` names: their packages, and the one that writes CSV."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptycho_backends.archive.members import history_to_bytes
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import BackendUnavailableError
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.training.rescue import without_failure
from ptycho_backends.values import EpochRecord, TrainedModel

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
FOLDER = "logs"
METRICS_FILE = "metrics.csv"

EXPERIMENT = "ptycho-backends"
"""Of the runs in MLflow; project of those in W&B."""


def logger_of(execution: ExecutionConfig, folder: Path | None) -> str | None:
    """Name of the logger, whose package is installed; None for no logger, or nowhere to write to.

    Raises
    ------
    BackendUnavailableError
        If its package is missing; the text names the extra that brings it.
    """
    kind = execution.logger_backend
    if kind in (None, "none") or folder is None:
        return None
    if kind != "csv" and not _is_installed(kind):
        raise BackendUnavailableError(
            f"logger_backend: got {kind!r}, but {kind!r} is not installed; run: pip install 'ptycho-backends[{kind}]' "
            f"(or pip install {kind}), or use logger_backend='csv'"
        )
    return kind


def _is_installed(package: str) -> bool:
    """True for a package; a mere folder of its name, as W&B leaves in the working folder, is none."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def has_mlflow_store(environment: Mapping[str, str] = os.environ) -> bool:
    """True where MLflow is installed and has a place to log to; mlflow-skinny, of Ptychodus, has servers alone."""
    return _is_installed("mlflow") and (STORE_VARIABLE in environment or _is_installed("sqlalchemy"))


def write_history(history: Sequence[EpochRecord], folder: Path) -> None:
    """Write the whole history, epochs before a resume included, as the archive's `history.csv`."""
    with replaced_atomically(folder / FOLDER / METRICS_FILE) as stream:
        stream.write(history_to_bytes(history))


class CsvLog:
    """`logs/metrics.csv`, written anew after every epoch: a `tracking.Tracker`."""

    def __init__(self, folder: Path) -> None:
        output_directory(folder / FOLDER)
        self._folder = folder

    def log(self, history: Sequence[EpochRecord]) -> None:
        """As `Tracker.log`; a file that cannot be written is a warning."""
        without_failure(lambda: write_history(history, self._folder), "log of the epochs")

    def show(self, picture: Path, epoch: int) -> None:
        """As `Tracker.show`: a picture has no place in a table."""

    def end(self, status: str, model: TrainedModel | None) -> None:
        """As `Tracker.end`."""


def flattened(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings as one: 'TrainingConfig.model.N', ... to values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flattened(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
        )
    return flat
