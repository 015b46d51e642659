"""Frames of TIFF files, by tifffile."""

import logging
import lzma
import math
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import BY_FRAME, FREE_BYTES, SPARSE, require_growth
from ptycho_backends.files.stored_patterns import JoinedPatterns, StoredPatterns

MAX_PAGES = 1_000_000
MAX_TAGS = 4096

# Compression of pages: deflate under its two numbers, and LZMA, which make anything of a few bytes.
_DEFLATE, _LZMA = (8, 32946), 34925
_MAX_LZMA_BYTES = 96 << 20


def tiff_patterns(paths: Sequence[Path], stays: Callable[[int], bool]) -> Any:
    """(M, H, W) frames of several files, one after another.

    Parameters
    ----------
    paths : sequence of Path
    stays : callable
        From the number of bytes to True where the frames stay in the files.

    Raises
    ------
    ScanError
        If a file is damaged, in colour, compressed by a method that needs `imagecodecs`, or of another size.
    """
    parts: list[Any] = [TiffPatterns(path) for path in paths]
    joined = parts[0] if len(parts) == 1 else JoinedPatterns(parts)
    nbytes = int(np.prod(joined.shape, dtype=object)) * joined.dtype.itemsize
    stored = sum(os.path.getsize(path) for path in paths)
    what = f"{paths[0]}: frames of shape {joined.shape}"
    require_growth(ScanError, what, nbytes, stored, BY_FRAME if stays(nbytes) else SPARSE)
    return joined if stays(nbytes) else np.asarray(joined)


class TiffPatterns(StoredPatterns):
    """Pages of a TIFF file as patterns, read when they are indexed."""

    def __init__(self, path: Path) -> None:
        # absolute: the working directory may be another one when they are read
        self._path = path.absolute()
        with _opened(path) as file:
            _require_straight(path)
            page = file.pages[0]
            if len(page.shape) != 2 or page.dtype is None:
                raise ScanError(f"{path}: got pages of shape {page.shape}, want grey images (ky, kx)")
            _require_whole(path, file.pages[-1])
            # ImageJ and OME keep many frames behind one page
            series = file.series[0]
            self._by_pages = len(file.pages) == int(np.prod(series.shape[:-2], dtype=np.int64))
            count = len(file.pages) if self._by_pages else int(np.prod(series.shape[:-2], dtype=np.int64))
            self.shape, self.dtype = (count, *page.shape), np.dtype(page.dtype).newbyteorder("=")

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        with _opened(self._path) as file:
            whole = None if self._by_pages else file.series[0].asarray().reshape(self.shape)
            for place, number in enumerate(indices):
                frame = _frame(self._path, file.pages[int(number)]) if whole is None else whole[number]
                if frame.shape != self.shape[1:]:
                    raise ScanError(
                        f"{self._path}: page {number} has shape {frame.shape}, want {self.shape[1:]}"
                    )
                found[place] = frame
        return found


def _require_whole(path: Path, page: Any) -> None:
    """Refuse a file whose last page reaches beyond its end; missing parts would be read as zeros."""
    ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > os.path.getsize(path):
        raise ScanError(f"{path}: cut short, or not written in full yet")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import tifffile

    try:
        with _without_log(), tifffile.TiffFile(path, _multifile=False) as file:
            yield file
    except ScanError:
        raise
    except Exception as error:  # damage makes it raise almost anything
        cure = "; run: pip install 'ptycho-backends[readers]'" if "imagecodecs" in str(error) else ""
        raise ScanError(f"{path}: not a readable TIFF file ({error}){cure}") from error


@contextmanager
def _without_log() -> Iterator[None]:
    """Drop what tifffile logs in this thread: a line for each odd tag, of which a damaged file has thousands."""
    thread, logger = threading.get_ident(), logging.getLogger("tifffile")

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)


def _frame(path: Path, page: Any) -> NDArray:
    """The pixels of a page whose compressed parts become no more than these."""
    compression = int(page.compression)
    if compression in _DEFLATE or compression == _LZMA:
        most = math.prod(page.shape) * page.dtype.itemsize
        file = page.parent.filehandle
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            # deflate makes at most 1032 bytes of one
            if compression in _DEFLATE and count * 1032 <= max(most, FREE_BYTES):
                continue
            file.seek(offset)
            if _inflated_size(file.read(min(count, most + FREE_BYTES)), compression, most + 1) > most:
                raise ScanError(
                    f"{path}: a part of a page unpacks to more than the page; the file is made to harm"
                )
    return np.asarray(page.asarray())


def _inflated_size(data: bytes, compression: int, limit: int) -> int:
    if compression == _LZMA:
        return len(lzma.LZMADecompressor(memlimit=_MAX_LZMA_BYTES).decompress(data, limit))
    return len(zlib.decompressobj().decompress(data, limit))


def _require_straight(path: Path) -> None:
    """Refuse a file whose pages lead in circles, or are too many: tifffile would follow them for hours."""
    with open(path, "rb") as stream:
        start = stream.read(16)
        order = "<" if start.startswith(b"II") else ">"
        big = start[2:4] in (b"+\0", b"\0+")
        count, tag, link = (f"{order}Q", 20, f"{order}Q") if big else (f"{order}H", 12, f"{order}L")
        (place,) = struct.unpack_from(link, start, 8 if big else 4)
        seen: set[int] = set()
        while place:
            stream.seek(place)
            number = stream.read(struct.calcsize(count))
            if place in seen or len(seen) >= MAX_PAGES:
                raise ScanError(f"{path}: its pages lead in circles, or are more than {MAX_PAGES}")
            seen.add(place)
            if len(number) < struct.calcsize(count):
                return
            (tags,) = struct.unpack(count, number)
            if tags > MAX_TAGS:
                raise ScanError(f"{path}: a page of {tags} tags, want at most {MAX_TAGS}")
            stream.seek(tags * tag, os.SEEK_CUR)
            following = stream.read(struct.calcsize(link))
            if len(following) < struct.calcsize(link):
                return
            (place,) = struct.unpack(link, following)
