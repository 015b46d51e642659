"""Scans from and to files of any supported format; patterns alone; masks."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import OutputError, ScanError, ShapeError
from ptycho_backends.files import digest
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.file_kind import kind_of
from ptycho_backends.files.mapped_npz import mapped_entry, mapped_npy
from ptycho_backends.files.stored_patterns import StoredPatterns
from ptycho_backends.scans.geometry import scan_from_raw
from ptycho_backends.scans.npz import is_written_by_ptychodus, save_scan
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.folder import only_scan
from ptycho_backends.scans.readers.positions import add_positions
from ptycho_backends.scans.readers.ptychodus_plugins import is_installed, raw_through_ptychodus
from ptycho_backends.scans.readers.source import Source, description, opened_source
from ptycho_backends.scans.readers.table import reader_of
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions
from ptycho_backends.scans.training_data import save_training_hdf5
from ptycho_backends.scans.valid_pixels import require_mask
from ptycho_backends.scans.writers import save_cxi, save_nxcxi_ptycho, save_ptyd

__all__ = [
    "EXPORTERS",
    "export_training_data",
    "is_ptychodus_file",
    "load_mask",
    "load_scan",
    "open_patterns",
    "save_scan",
]

log = logging.getLogger(__name__)

CXI_DATASET = "/entry_1/data_1/data"


def load_scan(
    path: str | os.PathLike[str],
    *,
    measurement: str = "auto",
    mapped: bool = False,
    clip_negative: bool = False,
    valid_pixels: ArrayLike | None = None,
    options: ScanOptions = NO_OPTIONS,
    verify: bool = False,
) -> Scan:
    """Read a scan from a file or folder of any format of docs/readers.md.

    Parameters
    ----------
    path : path
        Its content decides, not its suffix. A folder holds images, or a single scan.
    measurement : {'auto', 'amplitude', 'intensity'}
        As in `Scan`; 'auto' first asks the file, and knows that files of some formats hold counts, in whatever
        dtype.
    mapped : bool
        Leave the patterns in the file, and read them as they are needed, so that the scan may be larger than
        the memory. NPZ must hold them uncompressed; HDF5 is quick where it does, too. The file must not
        change as long as the scan is used. Patterns of more than 2 GiB are left in files that allow it.
    clip_negative : bool
        Set negative counts to 0 instead of refusing them; always so for files that Ptychodus wrote, where
        filling bad pixels may leave some.
    valid_pixels : (N, N) array, [ky, kx], optional
        True, or not zero, at the pixels that take part, beside the mask that the file may have. It belongs to the
        patterns as they become, or, of another shape, to the frames in the file.
    options : ScanOptions
        Units, axes, side and centre of the patterns, and places of parts in files.
    verify : bool
        Read the whole file first, and compare it with its digest (`.sha256` beside it; NPZ has checksums of its own).

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, is of another kind, lacks a part, or holds values that `Scan` refuses. The text
        names the file, and its kind.
    """
    if verify:
        digest.verify(only_scan(Path(path)) if Path(path).is_dir() else path)
    raw_scan = read_raw(path, mapped=mapped, options=options)
    with _named(Path(path)):
        return scan_from_raw(
            raw_scan,
            options,
            measurement=measurement,
            valid_pixels=valid_pixels,
            clip_negative=clip_negative,
        )


def is_scan(path: str | os.PathLike[str]) -> bool:
    """True where a reader recognises the file or folder."""
    try:
        with opened_source(Path(path)) as source:
            return reader_of(source) is not None
    except ScanError:
        return False


def read_raw(
    path: str | os.PathLike[str], *, mapped: bool = False, options: ScanOptions = NO_OPTIONS
) -> RawScan:
    """Read the content of a file in its own units and axes; `geometry.scan_from_raw` makes a `Scan` of it.

    Raises
    ------
    ScanError, ShapeError
    """
    path = Path(path)
    with _named(path), ExitStack() as opened:
        if path.is_dir():
            path = only_scan(path)
        source = opened.enter_context(opened_source(path, mapped=mapped, options=options))
        found = reader_of(source)
        raw = raw_through_ptychodus(source) if found is None else found[1].read(source)
        if raw is None:
            raise ScanError(description(source) + _other_readers(source))
        log.info("%s: read as %s", path, raw.format if found is None else found[0])
        add_positions(raw, source)
        return raw


def _other_readers(source: Source) -> str:
    """The possibility of Ptychodus's readers, where it is not used up."""
    is_foreign = source.kind == "HDF5" and not is_installed()
    return "; or install Ptychodus, whose readers of beamlines' files are then asked" if is_foreign else ""


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the path of the file in front of errors that lack it."""
    try:
        yield
    except (ScanError, ShapeError) as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error


def load_mask(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Read a mask of a detector from an NPY file: (N, N), True or not zero at valid pixels.

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, or holds something else.
    """
    path = Path(path)
    values = np.asarray(mapped_npy(path))
    if values.ndim != 2:
        raise ShapeError(f"{path}: got shape {values.shape}, want a mask (ky, kx)")
    try:
        return require_mask(path.stem, values, len(values))
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from error


def is_ptychodus_file(path: str | os.PathLike[str]) -> bool:
    """Recognise an NPZ file that Ptychodus wrote, in which it does not state the measurement."""
    path = Path(path)
    with _named(path):
        return kind_of(path) != "HDF5" and is_written_by_ptychodus(path)


EXPORTERS: Mapping[str, Callable[..., Path]] = MappingProxyType(
    {
        ".npz": save_scan,
        ".h5": save_training_hdf5,
        ".hdf5": save_training_hdf5,
        ".cxi": save_cxi,
        ".nxs": save_nxcxi_ptycho,
        ".ptyd": save_ptyd,
    }
)
"""Writers of a scan by the suffix of the file."""


def export_training_data(scan: Scan, path: str | os.PathLike[str], *, compressed: bool = True) -> Path:
    """Write `scan` as a file of the format that its suffix names.

    Parameters
    ----------
    scan : Scan
    path : path
        `.npz`: the schema of docs/scan.md, which PtychoPINN and Ptychodus share. `.h5`, `.hdf5`: Ptychodus's
        training-data HDF5. `.cxi`, `.nxs` (NXcxi_ptycho), `.ptyd` (PtyPy): see `writers`.
    compressed : bool
        False makes a larger file, whose patterns can be mapped, and a digest beside it (`.sha256`), because mapped
        patterns are read without a check.

    Raises
    ------
    OutputError
        For another suffix, and if the file cannot be written; an earlier file is untouched.
    ScanError
        If the format holds lengths, and the scan does not know its pixel size, energy and distance.
    """
    write = EXPORTERS.get(Path(path).suffix.lower())
    if write is None:
        raise OutputError(f"{path}: got suffix {Path(path).suffix!r}, want one of {', '.join(EXPORTERS)}")
    written = write(scan, path, compressed=compressed)
    if compressed:
        digest.remove_digest(written)
    else:
        digest.write_digest(written)
    return written


def open_patterns(path: str | os.PathLike[str], dataset: str | None = None) -> "NDArray | StoredPatterns":
    """The patterns of a file, for `Scan`, left in it.

    Parameters
    ----------
    path : path
        NPY; NPZ, uncompressed; HDF5, whose patterns may be compressed, virtual, or linked from a file below
        the same folder. It must not change as long as the patterns are used.
    dataset : str, optional
        Name of the array in the file. Default: `diff3d` of NPZ; of HDF5 `patterns` if there is one, else
        `/entry_1/data_1/data`, the place in CXI.

    Returns
    -------
    (M, N, N) array or `StoredPatterns`
        As it is stored: nothing is checked yet, which `Scan` does.

    Raises
    ------
    ScanError
        If the file cannot be read, lacks the array or is damaged.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "NPY" or (kind is None and path.suffix.lower() == ".npy"):
        return mapped_npy(path)
    if kind == "zip" or (kind is None and path.suffix.lower() == ".npz"):
        return mapped_entry(path, dataset or "diff3d")
    with DatasetFile(path) as file:
        return file.patterns(dataset or ("patterns" if "patterns" in file.names else CXI_DATASET))
