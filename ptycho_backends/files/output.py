"""Writing of results, whole or not at all."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ptycho_backends.errors import OutputError
from ptycho_backends.files import leftovers


@contextmanager
def replaced_atomically(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes `path` when the block ends without an error.

    Readers see the old file or the new one, never half; a crash loses nothing that was there before.

    Raises
    ------
    OutputError
        If the folder cannot be made or the file not written; the text names the path.
    """
    path = Path(path)
    # a link stays a link: its target is replaced
    target = Path(os.path.realpath(path))
    # beside its destination, because only a rename within one file system is atomic
    temporary = target.parent / f".{secrets.token_hex(8)}{leftovers.SUFFIX}"
    try:
        # replacing a pipe or a device by a file would not be what its name was given for
        if target.exists() and not target.is_file():
            kind = "a folder" if target.is_dir() else "a pipe or a device"
            raise OutputError(f"{path}: is {kind}, want the name of a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(temporary) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _new_file(path: Path) -> IO[bytes]:
    """A stream to a new file, which is locked so that nobody takes it for a leftover."""
    while True:
        stream = open(path, "xb")  # noqa: SIM115 - the caller closes it
        if leftovers.is_locked_by_us(stream, path):
            return stream
        stream.close()


def _sync_folder(folder: Path) -> None:
    """Bring the new name of a file to the disk; file systems that cannot are left alone."""
    with suppress(OSError):
        # Windows opens no folders, and syncs them by itself
        number = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(number)
        finally:
            os.close(number)


def output_directory(path: str | os.PathLike[str]) -> Path:
    """`path` as an existing folder in which files can be made; checked before hours of training.

    Half-written files of processes that were killed are removed from it. The result is absolute, so that a change of
    the working directory meanwhile does not matter.

    Raises
    ------
    OutputError
        If the folder cannot be made, is a file, or cannot be written to.
    """
    path = Path(path)
    try:
        path = path.absolute()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable."):
            pass
        leftovers.remove_leftovers(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written to ({error.strerror or error})") from error
    return path
