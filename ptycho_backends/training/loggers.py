"""Packages and files of the loggers that `ExecutionConfig.logger_backend` names."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ptycho_backends.archive.members import history_to_bytes
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import BackendUnavailableError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.values import EpochRecord

FOLDER = "logs"
METRICS_FILE = "metrics.csv"


def logger_of(execution: ExecutionConfig, folder: Path | None) -> str | None:
    """Name of the logger, whose package is installed; None for no logger, or nowhere to write to.

    Raises
    ------
    BackendUnavailableError
        If its package is missing.
    """
    kind = execution.logger_backend
    if kind in (None, "none") or folder is None:
        return None
    if kind != "csv" and find_spec(kind) is None:
        raise BackendUnavailableError(
            f"logger_backend: got {kind!r}, but {kind!r} is not installed; run: pip install {kind}, "
            "or use logger_backend='csv'"
        )
    return kind


def write_history(history: Sequence[EpochRecord], folder: Path) -> None:
    """Write the whole history, epochs before a resume included, as the archive's `history.csv`."""
    with replaced_atomically(folder / FOLDER / METRICS_FILE) as stream:
        stream.write(history_to_bytes(history))
