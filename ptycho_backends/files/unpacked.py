"""Compressed files (gzip, bzip2, xz) unpacked into a temporary one, up to a limit."""

import bz2
import logging
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import SPARSE
from ptycho_backends.files.file_kind import FileKind

log = logging.getLogger(__name__)

WORTH_A_WARNING_BYTES = 1 << 30
_BLOCK = 1 << 20
# bgzip writes one for every 64 kB.
MAX_STREAMS = 1_000_000

# xz -9 takes 65 MB; a file may ask for four gigabytes before its first byte.
_MAX_XZ_BYTES = 96 << 20

_UNPACKERS: dict[FileKind, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(memlimit=_MAX_XZ_BYTES),
}
SUFFIXES = (".gz", ".bz2", ".xz")
COMPRESSED = tuple(_UNPACKERS)


@contextmanager
def unpacked(path: Path, kind: FileKind) -> Iterator[Path]:
    """Path of a temporary file with the content of `path`, which exists while the block runs.

    Raises
    ------
    ScanError
        If the file is damaged, or holds far more than a scan of its size does.
    """
    name = path.stem if path.suffix.lower() in SUFFIXES else path.name
    with tempfile.TemporaryDirectory(prefix="ptycho_unpacked.") as folder:
        target = Path(folder) / name
        written, limit = 0, SPARSE.free + SPARSE.times * path.stat().st_size
        try:
            with open(path, "rb") as packed, open(target, "xb") as stream:
                for piece in _pieces(packed, kind):
                    before, written = written, written + stream.write(piece)
                    if written > limit:
                        raise ScanError(
                            f"{path}: holds more than {limit} bytes; unpack it yourself if you trust it"
                        )
                    if before <= WORTH_A_WARNING_BYTES < written:
                        log.warning("%s: holds more than %d bytes, unpacked in %s", path, written, folder)
        except ScanError:
            raise
        except Exception as error:  # damage makes the three raise almost anything
            raise ScanError(f"{path}: not readable as {kind} ({error})") from error
        yield target


def _pieces(packed: IO[bytes], kind: FileKind) -> Iterator[bytes]:
    """Content of one stream, or of several one after another, a megabyte at a time."""
    unpacker, rest, streams = _UNPACKERS[kind](), b"", 0
    while block := rest or packed.read(_BLOCK):
        rest = b""
        if unpacker.eof:
            if not (block := block.lstrip(b"\0")):  # padding
                continue
            unpacker, streams = _UNPACKERS[kind](), streams + 1
            if streams > MAX_STREAMS:
                raise ScanError(f"more than {MAX_STREAMS} streams")
        yield unpacker.decompress(block, _BLOCK)
        while not unpacker.eof and (piece := unpacker.decompress(_left(unpacker), _BLOCK)):
            yield piece
        rest = unpacker.unused_data
    if not unpacker.eof:
        raise EOFError("cut short")


def _left(unpacker: Any) -> bytes:
    # the decompressors of bzip2 and xz keep what they have not used, that of zlib hands it back
    return bytes(getattr(unpacker, "unconsumed_tail", b""))
