"""Half-written files of processes that were killed: recognised by the lock that a living writer holds, and removed."""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".part"
"""Of a file that is being written, whose name begins with a dot and 16 hexadecimal digits."""

_NAME = "." + "[0-9a-f]" * 16 + SUFFIX


def is_locked_by_us(stream: IO[bytes], path: Path) -> bool:
    """Lock the file of `stream` for as long as it is open; False if it was taken for a leftover before that."""
    if fcntl is not None:
        # a file system without locks has no leftovers removed
        with suppress(OSError):
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path.exists()


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files in `folder` whose writers are no more."""
    if fcntl is None:
        return
    with suppress(OSError):
        for path in folder.glob(_NAME):
            with suppress(OSError), path.open("rb") as stream:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
