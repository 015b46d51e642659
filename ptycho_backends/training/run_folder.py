"""The folder of a run: names of its files, its newest state, the protection of an earlier run, one writer at a time."""

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from ptycho_backends.archive import members
from ptycho_backends.archive.model_file import load_archive_history
from ptycho_backends.errors import ArchiveError, OutputError
from ptycho_backends.files.safe_zip import ARCHIVE_NAME
from ptycho_backends.training import checkpoints, loggers
from ptycho_backends.values import EpochRecord, TrainedModel

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

FILES: Mapping[str, str] = MappingProxyType(
    {
        "scan": "scan.npz",
        "archive": ARCHIVE_NAME,
        "config": "config.yaml",
        "inference_config": "inference.yaml",
        "execution": "execution.yaml",
        "history": "history.csv",
        "history_figure": "history.png",
        "live_picture": "live.png",
        "reconstruction": "reconstruction.npz",
        "reconstruction_figure": "reconstruction.png",
        "metrics": "metrics.json",
        "network_image": "network.npz",
        "refinement_config": "refinement.yaml",
        "passes_figure": "refinement.png",
        "resolution_figure": "resolution.png",
        "report": "report.html",
    }
)
"""Files of a run, by what they hold."""

LAST_CHECKPOINT = Path(checkpoints.FOLDER, checkpoints.LAST_CHECKPOINT)
"""State that makes resuming exact; the archive alone restarts the optimiser."""

REFINEMENT_CHECKPOINT = "refinement_checkpoint.npz"

IMAGE_FILES = (
    *(
        FILES[name]
        for name in (
            "inference_config", "reconstruction", "reconstruction_figure", "metrics", "network_image",
            "refinement_config", "passes_figure", "resolution_figure", "report",
        )
    ),
    REFINEMENT_CHECKPOINT,
)  # fmt: skip
"""Files of a reconstruction or a refinement."""

TRAINING_FILES = (
    *(
        FILES[name]
        for name in ("archive", "config", "execution", "history", "history_figure", "live_picture")
    ),
    str(LAST_CHECKPOINT),
    str(Path(loggers.FOLDER, loggers.METRICS_FILE)),
)
"""Files of a training; its best checkpoints have names of their own."""


def resumable_file(path: str | os.PathLike[str]) -> Path:
    """Newest state of training in the folder of an earlier run: its last checkpoint, or its archive.

    The checkpoint holds more, so it is preferred, unless the archive is newer and of another training. Another path
    is returned as it is.
    """
    path = Path(path)
    checkpoint, archive = path / LAST_CHECKPOINT, path / ARCHIVE_NAME
    if not checkpoint.is_file():
        return path
    if archive.is_file() and archive.stat().st_mtime_ns > checkpoint.stat().st_mtime_ns:
        kept, newest = _history(checkpoint), _history(archive)
        if kept is not None and newest is not None and kept != newest:
            log.warning("%s: older than %s and of another training; the latter is used", checkpoint, archive)
            return archive
    return checkpoint


def _history(path: Path) -> tuple[EpochRecord, ...] | None:
    try:
        return load_archive_history(path)
    except ArchiveError:
        return None


def continues_run(folder: Path, start: TrainedModel) -> bool:
    """True where `start` is a state of the very training whose files are in `folder`."""
    if not start.history and start.training_state is None:
        return False
    before = _recorded_history(folder)
    common = min(len(before), len(start.history))
    return tuple(before[:common]) == tuple(start.history[:common])


def _recorded_history(folder: Path) -> Sequence[EpochRecord]:
    """The longest history that the files of `folder` record."""
    found: list[Sequence[EpochRecord]] = [()]
    for name in (FILES["history"], str(Path(loggers.FOLDER, loggers.METRICS_FILE))):
        with suppress(OSError, ArchiveError):
            found.append(members.history_from_bytes((folder / name).read_bytes()))
    found += [
        _history(path) or () for path in (folder / LAST_CHECKPOINT, folder / ARCHIVE_NAME) if path.is_file()
    ]
    return max(found, key=len)


def require_free(folder: str | os.PathLike[str], names: Iterable[str], what: str) -> None:
    """Refuse a folder that holds one of the files `names`.

    Parameters
    ----------
    folder : path
    names : iterable of str
        `TRAINING_FILES`, `IMAGE_FILES`, or both.
    what : str
        What they are of, for the message.

    Raises
    ------
    OutputError
        The text names a file, the options, and a folder that is free.
    """
    folder = Path(folder)
    held = [name for name in names if (folder / name).exists()]
    if held:
        raise OutputError(
            f"{folder}: holds {what} ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}); want another folder, "
            f"as in -o {free_folder(folder)}, or --resume {folder} to go on, or --overwrite to replace it"
        )


def free_folder(folder: Path) -> Path:
    """The first of `folder_2`, `folder_3`, ... that does not exist."""
    number = 2
    while (numbered := folder.with_name(f"{folder.name}_{number}")).exists():
        number += 1
    return numbered


def remove_earlier(folder: Path, names: Iterable[str]) -> None:
    """Remove the files `names` of an earlier run, so that none is taken for one of the run that replaces it.

    With the last checkpoint the best ones go too.
    """
    doomed = [folder / name for name in names]
    if folder / LAST_CHECKPOINT in doomed:
        doomed += [folder / checkpoints.FOLDER / name for name in checkpoints.best_checkpoints(folder)]
    for path in doomed:
        with suppress(FileNotFoundError):
            try:
                path.unlink()
            except PermissionError as error:
                raise OutputError(
                    f"{path}: of an earlier run, and cannot be removed ({error.strerror})"
                ) from error


# --- one writer at a time

# folders that this process writes to: thread, number of nested calls
_held: dict[str, list[int]] = {}
_holding = threading.Lock()


@contextmanager
def one_writer(folder: Path | None) -> Iterator[None]:
    """Write into `folder` alone; calls of one thread may be nested. None holds nothing.

    A lock on the folder itself tells other processes, so that no file stays behind when one is killed. File systems
    without locks do not tell.

    Raises
    ------
    OutputError
        If another process or thread writes into it.
    """
    if folder is None:
        yield
        return
    key, thread = os.path.realpath(folder), threading.get_ident()
    with _holding:
        entry = _held.get(key)
        if entry is not None and entry[0] != thread:
            raise _taken(folder, "another thread of this program")
        if entry is None:
            descriptor = _locked(folder)
            entry = _held[key] = [thread, 0, descriptor]
        entry[1] += 1
    try:
        yield
    finally:
        with _holding:
            entry[1] -= 1
            if entry[1] == 0:
                del _held[key]
                if entry[2] >= 0:
                    os.close(entry[2])


def _locked(folder: Path) -> int:
    """A descriptor that locks `folder` until it is closed; -1 where there are no locks."""
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _taken(folder, "another process") from None
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def _taken(folder: Path, who: str) -> OutputError:
    return OutputError(
        f"{folder}: {who} writes into it; wait until it has ended, or want another folder, as in "
        f"-o {free_folder(folder)}"
    )
