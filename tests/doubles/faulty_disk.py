"""A disk that fails: operations that write below a folder are counted; one of them fails, or all from it on."""

import builtins
import io
import os
from pathlib import Path
from typing import Any

WRITING = set("wax+")


class FaultyDisk:
    """As a context, stands between this process and the files below `folder`.

    Counted are files that are made, each write that reaches the disk, synchronisation, renaming, and new folders.

    Parameters
    ----------
    folder : path
    fails_at : int, optional
        Number of the operation that fails, counted from 1; None: none, to count them.
    code : int
        Of the error, as `errno.ENOSPC`.
    for_good : bool
        All later operations fail too.

    Attributes
    ----------
    operations : list of str
        What was done, in order.
    """

    def __init__(
        self, folder: Path, fails_at: int | None = None, code: int = 0, for_good: bool = False
    ) -> None:
        self._folder = os.fspath(folder)
        self._fails_at, self._code, self._for_good = fails_at, code, for_good
        self._originals: list[tuple[Any, str, Any]] = []
        self._numbers: set[int] = set()
        self.operations: list[str] = []

    def _count(self, what: str, path: Any) -> None:
        self.operations.append(f"{what} {os.path.relpath(path, self._folder)}")
        number = len(self.operations)
        if self._fails_at is not None and (
            number == self._fails_at or (self._for_good and number > self._fails_at)
        ):
            raise OSError(self._code, os.strerror(self._code), os.fspath(path))

    def _is_below(self, path: Any) -> bool:
        return isinstance(path, str | Path) and os.path.abspath(path).startswith(self._folder + os.sep)

    def __enter__(self) -> "FaultyDisk":
        disk = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                disk._count("write", self.name)
                return super().write(data)

            def close(self) -> None:
                if not self.closed:
                    disk._numbers.discard(self.fileno())
                super().close()

        def opened(path: Any, mode: str = "r", buffering: int = -1, *more: Any, **others: Any) -> Any:
            if not WRITING & set(mode) or not disk._is_below(path):
                return original_open(path, mode, buffering, *more, **others)
            disk._count("open", path)
            raw = File(os.fspath(path), mode.replace("b", "").replace("t", ""))
            disk._numbers.add(raw.fileno())
            binary = (
                raw if buffering == 0 else io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            )
            return binary if "b" in mode else io.TextIOWrapper(binary, *more, **others)  # type: ignore[arg-type]

        def fsync(number: int) -> None:
            if number in disk._numbers:
                disk._count("fsync", os.readlink(f"/proc/self/fd/{number}"))
            original_fsync(number)

        def replace(source: Any, target: Any, **others: Any) -> None:
            if disk._is_below(target):
                disk._count("replace", target)
            original_replace(source, target, **others)

        def mkdir(path: Any, *more: Any, **others: Any) -> None:
            if disk._is_below(path):
                disk._count("mkdir", path)
            original_mkdir(path, *more, **others)

        original_open, original_fsync, original_replace, original_mkdir = open, os.fsync, os.replace, os.mkdir
        for module, name, fake in (
            (builtins, "open", opened),
            (io, "open", opened),
            (os, "fsync", fsync),
            (os, "replace", replace),
            (os, "mkdir", mkdir),
        ):
            self._originals.append((module, name, getattr(module, name)))
            setattr(module, name, fake)
        return self

    def __exit__(self, *error: object) -> None:
        for module, name, original in self._originals:
            setattr(module, name, original)
        self._originals.clear()
