"""Frames of TIFF files, by tifffile."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.stored_patterns import JoinedPatterns, StoredPatterns

MAX_PAGES = 10_000_000


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
    if nbytes > MAX_GROWTH * sum(os.path.getsize(path) for path in paths):
        raise ScanError(f"{paths[0]}: claims {joined.shape}, more than the file can hold")
    return joined if stays(nbytes) else np.asarray(joined)


# Compression of TIFF makes no more of a byte.
MAX_GROWTH = 1100


class TiffPatterns(StoredPatterns):
    """Pages of a TIFF file as patterns, read when they are indexed."""

    def __init__(self, path: Path) -> None:
        # absolute: the working directory may be another one when they are read
        self._path = path.absolute()
        with _opened(path) as file:
            page = file.pages[0]
            if len(page.shape) != 2 or page.dtype is None:
                raise ScanError(f"{path}: got pages of shape {page.shape}, want grey images (ky, kx)")
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
                frame = file.pages[int(number)].asarray() if whole is None else whole[number]
                if frame.shape != self.shape[1:]:
                    raise ScanError(
                        f"{self._path}: page {number} has shape {frame.shape}, want {self.shape[1:]}"
                    )
                found[place] = frame
        return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except ScanError:
        raise
    except Exception as error:  # damage makes it raise almost anything
        cure = "; run: pip install 'ptycho-backends[readers]'" if "imagecodecs" in str(error) else ""
        raise ScanError(f"{path}: not a readable TIFF file ({error}){cure}") from error
