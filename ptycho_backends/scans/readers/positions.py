"""Positions from another file than the patterns: CSV or text, NPY, NPZ, HDF5."""

import codecs
import itertools
import re
from array import array
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import MAX_LINE, MAX_TABLE_BYTES, only
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.files.mapped_npz import mapped_npy
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source
from ptycho_backends.scans.scan_options import position_unit

MAX_HEADER_LINES = 200
TEXT_SUFFIXES = (".csv", ".txt", ".dat", ".tsv")

# Names of columns, in any case; their ends may state a unit, as in x_um or "x (nm)".
X_NAMES = ("x", "xcoords", "posx", "pos_x", "x_position", "column")
Y_NAMES = ("y", "ycoords", "posy", "pos_y", "y_position", "row")
# As programs of different ages and systems write text.
ENCODINGS = ("utf-8-sig", "cp1252")


def add_positions(raw: RawScan, source: Source) -> None:
    """Set the positions of `raw` from the file that the options name, if they name one."""
    named = source.options.positions_from
    if named is None:
        return
    path, dataset = split_dataset(named)
    raw.positions, unit, taken = positions_of_file(path, dataset)
    raw.positions_start = None
    raw.positions_unit = unit
    raw.took("positions", taken, unit or "of unknown unit")


def split_dataset(named: str) -> tuple[Path, str | None]:
    """File, and data set in it, of `FILE:DATASET`."""
    if not Path(named).exists() and ":" in named:
        file, _, dataset = named.rpartition(":")
        return Path(file), dataset
    return Path(named), None


def positions_of_file(path: Path, dataset: str | None = None) -> tuple[NDArray, str | None, str]:
    """Positions (M, 2), [x, y], their unit if the file states it, and a note of their source.

    Raises
    ------
    ScanError
    """
    kind = kind_of(path)
    if kind == "HDF5":
        if dataset is None:
            raise ScanError(f"{path}: HDF5; name the data set of the positions, as in {path.name}:/positions")
        with DatasetFile(path) as file:
            values, unit = file.array(dataset), file.attributes(dataset).get("units")
        return as_pairs(values, path), position_unit(str(unit)), f"{path.name}:{dataset}"
    if kind == "NPY":
        return as_pairs(mapped_npy(path), path), None, path.name
    if kind is not None:
        raise ScanError(f"{path}: a {kind} file, want positions in CSV, text, NPY or HDF5")
    return _of_text(path)


def as_pairs(values: NDArray, path: Path | str) -> NDArray[np.float64]:
    """Positions (M, 2) of an array (M, 2) or (2, M), or of the first two columns of (M, 3)."""
    if values.ndim == 2 and values.dtype.kind in "iuf":
        if values.shape[1] in (2, 3):
            return values[:, :2].astype(np.float64)
        if values.shape[0] in (2, 3):
            return values[:2].T.astype(np.float64)
    raise ScanError(f"{path}: got {values.dtype} of shape {values.shape}, want positions (M, 2), x and y")


def _of_text(path: Path) -> tuple[NDArray, str | None, str]:
    values, columns, unit = rows_of_text(path)
    note = f"{path.name}, columns {columns[0] + 1} (x) and {columns[1] + 1} (y)"
    return values[:, list(columns)], unit, note


def rows_of_text(
    path: Path, *, whole_lines: bool = False
) -> tuple[NDArray[np.float64], tuple[int, int], str | None]:
    """Numbers (M, columns) of a text file, the columns of x and y, and their unit by the header.

    Parameters
    ----------
    path : Path
    whole_lines : bool
        Leave out a last line without its end: it may be half-written.

    Raises
    ------
    ScanError
    """
    header, values = _table(path, whole_lines)
    columns, unit = _columns(path, header, values.shape[1])
    return values, columns, unit


def _table(path: Path, whole_lines: bool) -> tuple[str | None, NDArray[np.float64]]:
    """The last line before the numbers, and the numbers (rows, columns)."""
    with only(ScanError, path, "positions in CSV, text, NPY or HDF5"):
        with open(path, "rb") as stream:
            start = stream.read(2)
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise ScanError(f"text of more than {MAX_TABLE_BYTES} bytes, want positions")
        for encoding in ("utf-16",) if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ENCODINGS:
            with suppress(UnicodeDecodeError), open(path, encoding=encoding) as lines:
                return _numbers(lines, whole_lines)
    raise ScanError(f"{path}: no text, want positions in CSV, text, NPY or HDF5")


def _numbers(lines: IO[str], whole_lines: bool) -> tuple[str | None, NDArray[np.float64]]:
    # numbers side by side, because those of Python take four times the memory
    numbers, header, width = array("d"), None, 0
    for number in itertools.count(1):
        line = lines.readline(MAX_LINE)
        if not line or (whole_lines and not line.endswith("\n")):
            break
        if len(line) == MAX_LINE:
            raise ScanError(f"line {number}: more than {MAX_LINE} characters, want x and y")
        cells = _cells(line)
        if not cells:
            continue
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            if numbers or number > MAX_HEADER_LINES:
                raise ScanError(f"line {number}: got {line[:60]!r}, want numbers") from None
            header = line.lstrip("#% ")
            continue
        width = width or len(row)
        if len(row) != width or width < 2:
            raise ScanError(
                f"line {number}: got {len(row)} numbers, want rows of as many numbers each, x and y among them"
            )
        numbers.extend(row)
    if width < 2:
        raise ScanError("want rows of as many numbers each, x and y among them")
    return header, np.frombuffer(numbers, np.float64).reshape(-1, width)


def _cells(line: str) -> list[str]:
    """Cells of a line; a comma beside semicolons or tabs is a decimal one."""
    if ";" in line or ("\t" in line and "." not in line):
        line = line.replace(",", ".")
    return line.replace(",", " ").replace(";", " ").split()


def _columns(path: Path, header: str | None, count: int) -> tuple[tuple[int, int], str | None]:
    """Numbers of the columns of x and y, and their unit, by the header; the first two without one."""
    if header is None:
        return (0, 1), None
    separator = next((mark for mark in ",;\t" if mark in header), None)
    names = [name.strip().lower() for name in header.split(separator)]
    found: dict[str, tuple[int, str | None]] = {}
    for number, name in enumerate(names[:count]):
        base, unit = _name_and_unit(name)
        words = re.split(r"[^a-z0-9]+", base)
        for axis, known in (("x", X_NAMES), ("y", Y_NAMES)):
            if (base in known or axis in words) and axis not in found:
                found[axis] = number, unit
    if len(found) < 2:
        if len(names) == count > 2:
            raise ScanError(
                f"{path}: columns {', '.join(names)}, of which none are called x and y; rename two of them"
            )
        return (0, 1), None
    return (found["x"][0], found["y"][0]), found["x"][1] if found["x"][1] == found["y"][1] else None


def _name_and_unit(name: str) -> tuple[str, str | None]:
    """Base and unit of a column's name, as x and um of "x_um", "x (um)" or "x [um]"."""
    for opening in " _([":
        base, _, unit = name.rpartition(opening)
        known = position_unit(unit.strip("()[] "))
        if base and known is not None:
            return base.strip("_([ "), known
    return name, None


def add_positions_beside(raw: RawScan, source: Source, folder: Path, name: str) -> None:
    """Set the positions of `raw` from the one file of positions in `folder`, or that called as the scan.

    Nothing is set where the options name a file, or none or several would do.
    """
    if source.options.positions_from is not None or source.is_temporary:
        return
    chosen = positions_file_beside(folder, name)
    if chosen is not None:
        raw.positions, raw.positions_unit, taken = positions_of_file(chosen)
        raw.took("positions", taken, raw.positions_unit or "of unknown unit")


def positions_file_beside(folder: Path, name: str) -> Path | None:
    """The one text file of positions in `folder`, or that called as the scan; None where none or several would do."""
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in TEXT_SUFFIXES and path.is_file()
    )
    same = [path for path in found if path.stem in (name, f"{name}_positions", "positions")]
    return same[0] if same else found[0] if len(found) == 1 else None
