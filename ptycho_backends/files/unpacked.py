"""Compressed files (gzip, bzip2, xz) unpacked into a temporary one, up to a limit."""

import bz2
import gzip
import logging
import lzma
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptycho_backends.errors import ScanError
from ptycho_backends.files.file_kind import FileKind

log = logging.getLogger(__name__)

MAX_UNPACKED_BYTES = 16 << 30
WORTH_A_WARNING_BYTES = 1 << 30
_BLOCK = 1 << 20

_OPEN: dict[FileKind, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
SUFFIXES = (".gz", ".bz2", ".xz")
COMPRESSED = tuple(_OPEN)


@contextmanager
def unpacked(path: Path, kind: FileKind, limit: int = MAX_UNPACKED_BYTES) -> Iterator[Path]:
    """Path of a temporary file with the content of `path`, which exists while the block runs.

    Raises
    ------
    ScanError
        If the file is damaged, or holds more than `limit` bytes.
    """
    name = path.stem if path.suffix.lower() in SUFFIXES else path.name
    with tempfile.TemporaryDirectory(prefix="ptycho_unpacked.") as folder:
        target = Path(folder) / name
        written, warned = 0, False
        try:
            with _OPEN[kind](path, "rb") as packed, open(target, "xb") as stream:
                while block := packed.read(_BLOCK):
                    written += stream.write(block)
                    if written > limit:
                        raise ScanError(f"{path}: holds more than {limit} bytes; unpack it yourself")
                    if written > WORTH_A_WARNING_BYTES and not warned:
                        warned = True
                        log.warning("%s: holds more than %d bytes, unpacked in %s", path, written, folder)
        except ScanError:
            raise
        except Exception as error:  # damage makes the three raise almost anything
            raise ScanError(f"{path}: not readable as {kind} ({error})") from error
        yield target
