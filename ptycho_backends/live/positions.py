"""Positions that are being written, in a file of their own: text, NPY, or a data set of an HDF5 file."""

import time
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.scans.readers.positions import (
    as_pairs,
    positions_file_beside,
    positions_of_file,
    rows_of_text,
)
from ptycho_backends.scans.scan_options import position_unit

# A file is read again only after so many times the duration of reading it.
READING_PAUSE = 4.0


class PositionSource(Protocol):
    """Positions of a scan that is being written."""

    @property
    def known(self) -> NDArray[np.float64] | None:
        """(M, 2) so far, `[x, y]` in the unit of the file; None where there are none."""
        ...

    @property
    def unit(self) -> str | None:
        """'m', 'um', 'nm' or 'px', where the file states it."""
        ...

    def poll(self, ended: bool = False) -> None:
        """Look for new positions; `ended` where none will follow."""
        ...


class PositionsFile:
    """Positions of a file that may come late, and grow.

    A last line without its end, and whatever cannot be read, waits; `trouble` has the reason.

    Parameters
    ----------
    path : Path, optional
        None looks for a text file in `beside`.
    dataset : str, optional
        In an HDF5 file.
    beside : Path, optional
        Folder of the frames.
    """

    def __init__(self, path: Path | None, dataset: str | None = None, beside: Path | None = None) -> None:
        self._path, self._dataset, self._beside = path, dataset, beside
        self._known: NDArray[np.float64] | None = None
        self._unit: str | None = None
        self._state: tuple[int, int] | None = None
        self._read_s = self._reading_s = -1e9
        self.trouble = "no file of positions yet"

    @property
    def known(self) -> NDArray[np.float64] | None:
        return self._known

    @property
    def unit(self) -> str | None:
        return self._unit

    def poll(self, ended: bool = False) -> None:
        started = time.perf_counter()
        if not ended and started - self._read_s < READING_PAUSE * self._reading_s:
            return
        try:
            path = self._path
            if path is None and self._beside is not None and self._beside.is_dir():
                path = positions_file_beside(self._beside, self._beside.resolve().name)
            if path is None:
                return
            found = path.stat()
            state = found.st_size, found.st_mtime_ns
            if (state == self._state and not ended) or found.st_size == 0:
                return
            values, unit = self._values(path, ended)
        except (ScanError, OSError) as error:
            self.trouble = str(error)
            return
        missing = np.flatnonzero(~np.isfinite(values).all(axis=1))
        self._known, self._unit = values[: missing[0]] if len(missing) else values, unit
        self._state, self.trouble = state, ""
        self._read_s, self._reading_s = started, time.perf_counter() - started

    def _values(self, path: Path, ended: bool) -> tuple[NDArray[np.float64], str | None]:
        kind = kind_of(path)
        if kind is None:
            rows, columns, unit = rows_of_text(path, whole_lines=not ended)
            return rows[:, list(columns)], unit
        if kind == "HDF5" and self._dataset is not None:
            with DatasetFile(path) as file:
                length = (file.shape(self._dataset) or (0,))[0]
                values = as_pairs(file.rows(self._dataset, 0, length), path)
                stated = file.attributes(self._dataset).get("units")
            return values, position_unit(str(stated))
        values, unit, _ = positions_of_file(path, self._dataset)
        return values, unit
