"""Digests of files whose format has none: a line of SHA-256 beside each, in the form of the program `sha256sum`.

Patterns that are mapped are read without any check; their file is compared with its digest when that is asked for.
"""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import bounded_bytes
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.files.npz_file import NpzFile
from ptycho_backends.files.output import replaced_atomically

SUFFIX = ".sha256"
_LINE = re.compile(rb"\\?([0-9a-fA-F]{64}) [ *].*")
_MAX_BYTES = 8192


def digest_path(path: str | os.PathLike[str]) -> Path:
    """Path of the digest of a file: its name with `.sha256` behind it."""
    path = Path(path)
    return path.with_name(path.name + SUFFIX)


def write_digest(path: str | os.PathLike[str]) -> Path:
    """Write the digest of a file beside it; `sha256sum -c` reads it too.

    Raises
    ------
    OutputError
    """
    path = Path(path)
    with replaced_atomically(digest_path(path)) as stream:
        stream.write(f"{_sha256(path)}  {path.name}\n".encode())
    return digest_path(path)


def remove_digest(path: str | os.PathLike[str]) -> None:
    """Remove the digest beside a file, which belonged to an earlier content."""
    with suppress(OSError):
        digest_path(path).unlink()


def verify(path: str | os.PathLike[str]) -> None:
    """Read the whole file, and compare it with its digest; NPZ without one is compared with its own checksums.

    Raises
    ------
    ScanError
        If they differ, or there is nothing to compare with.
    """
    path = Path(path)
    kept = digest_path(path)
    if kept.is_file():
        match = _LINE.fullmatch(bounded_bytes(kept, _MAX_BYTES, ScanError).rstrip(b"\r\n"))
        if match is None:
            raise ScanError(f"{kept}: want one line as `sha256sum {path.name}` prints it")
        if _sha256(path) != match[1].decode().lower():
            raise ScanError(
                f"{path}: differs from its digest in {kept.name}; it is damaged, or was changed since"
            )
    elif kind_of(path) == "zip":
        with NpzFile(path) as file:
            file.verify()
    else:
        raise ScanError(
            f"{path}: has no digest beside it to compare with; make one from a copy that is known to be whole: "
            f"sha256sum {path.name} > {kept.name}"
        )


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
