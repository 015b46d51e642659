"""A model in memory is not lost: errors carry it, and where its file cannot be written another place gets it."""

import logging
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ptycho_backends.errors import ArchiveError, OutputError

log = logging.getLogger(__name__)

ATTRIBUTE = "trained_model"
"""Of every exception that ends a training: the last whole model."""


def carry(error: BaseException, model: Any) -> None:
    """Attach `model` to `error`, unless it has one; an error without attributes stays as it is."""
    with suppress(AttributeError, TypeError):
        if carried(error) is None:
            setattr(error, ATTRIBUTE, model)


def carried(error: BaseException) -> Any:
    """The model that `error` carries, or None."""
    return getattr(error, ATTRIBUTE, None)


def saved_somewhere(save: Callable[[Path], Path], path: Path) -> Path:
    """`save(path)`; where that cannot be written, into the working folder or the temporary one.

    Raises
    ------
    OutputError
        If `path` cannot be written; the text says where the result is instead.
    """
    try:
        return save(path)
    except OutputError as error:
        for folder in (_working_folder(), Path(tempfile.gettempdir())):
            if folder is None:
                continue
            try:
                rescued = save(_free(folder / f"rescued_{path.parent.name or 'run'}_{path.name}"))
            except OSError:
                continue
            raise OutputError(f"{error}; it is in {rescued} instead") from error
        raise OutputError(
            f"{error}; the working folder and the temporary one did not take it either"
        ) from error


def without_failure(write: Callable[[], object], what: str) -> bool:
    """`write()`, and True; an error becomes a warning, because the computation is worth more than its copy."""
    try:
        write()
    except (OutputError, ArchiveError) as error:
        log.warning(
            "no %s: %s; the computation goes on, and its result will be offered another place", what, error
        )
        return False
    return True


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:
        # it was removed
        return None


def _free(path: Path) -> Path:
    """`path`, or with the first number that makes it new."""
    stem, dot, suffix = path.name.partition(".")
    number = 2
    free = path
    while free.exists():
        free = path.with_name(f"{stem}_{number}{dot}{suffix}")
        number += 1
    return free
