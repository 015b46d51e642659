"""Scans from and to files of any supported kind: NPZ, Ptychodus's training-data HDF5, patterns alone."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import OutputError, ScanError, ShapeError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.file_kind import HDF5_SUFFIXES, kind_of
from ptycho_backends.files.mapped_npz import mapped_entry
from ptycho_backends.files.stored_patterns import StoredPatterns
from ptycho_backends.scans.npz import is_written_by_ptychodus, load_npz, save_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.training_data import load_training_hdf5, save_training_hdf5
from ptycho_backends.scans.valid_pixels import require_mask

__all__ = [
    "EXPORTERS",
    "export_training_data",
    "is_ptychodus_file",
    "load_mask",
    "load_scan",
    "open_patterns",
    "save_scan",
]

CXI_DATASET = "/entry_1/data_1/data"


def load_scan(
    path: str | os.PathLike[str],
    *,
    measurement: str = "auto",
    mapped: bool = False,
    clip_negative: bool = False,
    valid_pixels: ArrayLike | None = None,
) -> Scan:
    """Read a scan from an NPZ file, or from Ptychodus's training-data HDF5.

    Parameters
    ----------
    path : path
        Its content decides, not its suffix. HDF5 is read by `training_data.load_training_hdf5`. NPZ has the keys
        `xcoords`, `ycoords`, `diff3d` (or `diffraction`); optionally `probeGuess`, `objectGuess`, `scan_index`,
        `xcoords_start`, `ycoords_start`, `objectMask`, `pixel_size_m`, `photon_energy_eV`,
        `detector_distance_m`, `measurement`, `probeModes`, and a mask under one of `valid_pixels.MASK_NAMES`.
    measurement : {'auto', 'amplitude', 'intensity'}
        As in `Scan`; 'auto' first asks the file's own key `measurement`, and knows that files which
        Ptychodus wrote hold counts, in whatever dtype.
    mapped : bool
        Leave the patterns in the file, and read them as they are needed, so that the scan may be larger than
        the memory. NPZ must hold them uncompressed; HDF5 is quick where it does, too. The file must not
        change as long as the scan is used.
    clip_negative : bool
        Set negative counts to 0 instead of refusing them; always so for files that Ptychodus wrote, where
        filling bad pixels may leave some.
    valid_pixels : (N, N) array, [ky, kx], optional
        True, or not zero, at the pixels that take part, beside the mask that the file may have.

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, is of another kind, lacks a key, or holds values that `Scan` refuses. The text
        names the file, and its kind.
    """
    path = Path(path)
    if _is_hdf5(path):
        measurement = "intensity" if measurement == "auto" else measurement
        return load_training_hdf5(path, measurement=measurement, mapped=mapped, valid_pixels=valid_pixels)
    return load_npz(
        path,
        measurement=measurement,
        mapped=mapped,
        clip_negative=clip_negative,
        valid_pixels=valid_pixels,
    )


def load_mask(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Read a mask of a detector from an NPY file: (N, N), True or not zero at valid pixels.

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, or holds something else.
    """
    path = Path(path)
    values = np.asarray(_mapped_npy(path))
    if values.ndim != 2:
        raise ShapeError(f"{path}: got shape {values.shape}, want a mask (ky, kx)")
    try:
        return require_mask(path.stem, values, len(values))
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from error


def is_ptychodus_file(path: str | os.PathLike[str]) -> bool:
    """Recognise an NPZ file that Ptychodus wrote, in which it does not state the measurement."""
    path = Path(path)
    return not _is_hdf5(path) and is_written_by_ptychodus(path)


def _is_hdf5(path: Path) -> bool:
    """Decide by content; a file of unknown content is of the kind that its suffix claims."""
    kind = kind_of(path)
    return kind == "HDF5" or (kind is None and path.suffix.lower() in HDF5_SUFFIXES)


EXPORTERS: Mapping[str, Callable[[Scan, str | os.PathLike[str]], Path]] = MappingProxyType(
    {".npz": save_scan, ".h5": save_training_hdf5, ".hdf5": save_training_hdf5}
)
"""Writers of a scan by the suffix of the file."""


def export_training_data(scan: Scan, path: str | os.PathLike[str]) -> Path:
    """Write `scan` as a file that trainers read.

    Parameters
    ----------
    scan : Scan
    path : path
        `.npz`: the schema of docs/scan.md, which PtychoPINN and Ptychodus share. `.h5`, `.hdf5`: Ptychodus's
        training-data HDF5.

    Raises
    ------
    OutputError
        For another suffix, and if the file cannot be written; an earlier file is untouched.
    ScanError
        As `save_training_hdf5`.
    """
    write = EXPORTERS.get(Path(path).suffix.lower())
    if write is None:
        raise OutputError(f"{path}: got suffix {Path(path).suffix!r}, want one of {', '.join(EXPORTERS)}")
    return write(scan, path)


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
        return _mapped_npy(path)
    if kind == "zip" or (kind is None and path.suffix.lower() == ".npz"):
        return mapped_entry(path, dataset or "diff3d")
    with DatasetFile(path) as file:
        return file.patterns(dataset or ("patterns" if "patterns" in file.names else CXI_DATASET))


def _mapped_npy(path: Path) -> NDArray:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        raise ScanError(f"{path}: not a readable NPY file ({error})") from error
