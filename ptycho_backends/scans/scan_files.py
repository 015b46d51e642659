"""Scans from files and to files: NPZ, and Ptychodus's training-data HDF5."""

import logging
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import OutputError, ScanError, ShapeError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.mapped_npz import mapped_entry
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.files.stored_patterns import StoredPatterns
from ptycho_backends.scans.scan import Scan, known_object, without_negatives
from ptycho_backends.scans.training_data import load_training_hdf5, save_training_hdf5

log = logging.getLogger(__name__)

KNOWN_ENTRIES = (
    "xcoords", "ycoords", "diff3d", "diffraction", "probeGuess", "objectGuess", "scan_index",
    "xcoords_start", "ycoords_start", "objectMask", "pixel_size_m", "photon_energy_eV",
    "detector_distance_m", "measurement",
)  # fmt: skip


PTYCHODUS_ENTRIES = frozenset(
    {
        "xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "bad_pixels", "probeGuess",
        "objectGuess", "scan_index",
    }
)  # fmt: skip
"""What Ptychodus 1.7 writes into a training file, all of it and always."""


PATTERNS_ENTRIES = ("diff3d", "diffraction")


HDF5_SUFFIXES = (".h5", ".hdf5")


def load_scan(
    path: str | os.PathLike[str],
    *,
    measurement: str = "auto",
    mapped: bool = False,
    clip_negative: bool = False,
) -> Scan:
    """Read a scan from an NPZ file, or from Ptychodus's training-data HDF5.

    Parameters
    ----------
    path : path
        `.h5` or `.hdf5`: as `training_data.load_training_hdf5`. Else NPZ with the keys `xcoords`, `ycoords`,
        `diff3d` (or `diffraction`); optionally `probeGuess`, `objectGuess`, `scan_index`,
        `xcoords_start`, `ycoords_start`, `objectMask`, `pixel_size_m`, `photon_energy_eV`,
        `detector_distance_m`, `measurement`.
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

    Raises
    ------
    ScanError, ShapeError
        If the file cannot be read, lacks a key, or holds what `Scan` refuses. The text names the file.
    """
    path = Path(path)
    if path.suffix.lower() in HDF5_SUFFIXES:
        measurement = "intensity" if measurement == "auto" else measurement
        return load_training_hdf5(path, measurement=measurement, mapped=mapped)
    entries, names = _read_npz(path, mapped=mapped)
    patterns_key = "diff3d" if "diff3d" in entries or "diffraction" not in entries else "diffraction"
    missing = [key for key in ("xcoords", "ycoords", patterns_key) if key not in entries]
    if missing:
        raise ScanError(
            f"{path}: {', '.join(missing)} missing; the file holds {', '.join(names) or 'nothing'}"
        )
    if measurement == "auto" and "measurement" in entries:
        measurement = str(entries["measurement"])
    elif measurement == "auto" and set(names) >= PTYCHODUS_ENTRIES:
        measurement = "intensity"
        log.info("measurement: %s was written by Ptychodus, so its patterns are counts", path)
    clip_negative |= set(names) >= PTYCHODUS_ENTRIES and measurement == "intensity"
    if set(names) >= PTYCHODUS_ENTRIES and known_object(entries["objectGuess"]) is None:
        del entries["objectGuess"]
    try:
        return Scan(
            xcoords=entries["xcoords"],
            ycoords=entries["ycoords"],
            patterns=without_negatives(entries[patterns_key], path.stem)
            if clip_negative
            else entries[patterns_key],
            probe_guess=entries.get("probeGuess"),
            object_guess=entries.get("objectGuess"),
            measurement=measurement,
            scan_index=entries.get("scan_index"),
            xcoords_start=entries.get("xcoords_start"),
            ycoords_start=entries.get("ycoords_start"),
            object_mask=entries.get("objectMask"),
            pixel_size_m=_number_or_unknown("pixel_size_m", entries),
            photon_energy_eV=_number_or_unknown("photon_energy_eV", entries),
            detector_distance_m=_number_or_unknown("detector_distance_m", entries),
            name=path.stem,
        )
    except (ScanError, ShapeError) as error:
        raise type(error)(f"{path}: {error}") from error


def is_ptychodus_file(path: str | os.PathLike[str]) -> bool:
    """Whether Ptychodus wrote the NPZ file: its nine entries, and none that says what is measured."""
    if Path(path).suffix.lower() in HDF5_SUFFIXES:
        return False
    _, names = _read_npz(Path(path), ())
    return set(names) >= PTYCHODUS_ENTRIES and "measurement" not in names


def _number_or_unknown(name: str, entries: Mapping[str, NDArray]) -> float | None:
    """The file's entry `name`; files say NaN where it is unknown."""
    if name not in entries:
        return None
    value = entries[name]
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ScanError(f"{name}: got {value.dtype} of shape {value.shape}, want one number")
    number = float(value.reshape(()))
    return None if math.isnan(number) else number


def _read_npz(
    path: Path, wanted: tuple[str, ...] = KNOWN_ENTRIES, *, mapped: bool = False
) -> tuple[dict[str, NDArray], list[str]]:
    """The wanted entries, and the names of all; an exotic one does not keep the scan from loading."""
    left_in_file = PATTERNS_ENTRIES if mapped else ()
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ScanError(f"{path}: not an NPZ file, or cut short")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                names = sorted(archive)
                loaded = [key for key in wanted if key in archive and key not in left_in_file]
                entries = {key: archive[key] for key in loaded}
        return entries | {key: mapped_entry(path, key) for key in left_in_file if key in names}, names
    except ScanError:
        raise
    except OSError as error:
        raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # a damaged file makes zlib, zipfile and NumPy raise almost anything
        raise ScanError(f"{path}: not a readable NPZ file ({error})") from error


def save_scan(scan: Scan, path: str | os.PathLike[str], *, compressed: bool = True) -> Path:
    """Write `scan` as the NPZ file that `load_scan` reads; atomically, so never half a file.

    Parameters
    ----------
    scan : Scan
    path : path
    compressed : bool
        False makes a larger file, which can be mapped.

    Raises
    ------
    OutputError
        If the file cannot be written; what was there before is untouched.
    """
    path = Path(path)
    entries: dict[str, Any] = {
        "xcoords": scan.xcoords,
        "ycoords": scan.ycoords,
        "xcoords_start": scan.xcoords_start,
        "ycoords_start": scan.ycoords_start,
        "diff3d": scan.patterns,
        "probeGuess": scan.probe_guess,
        "objectGuess": scan.object_guess,
        "objectMask": scan.object_mask,
        "scan_index": scan.scan_index,
        "pixel_size_m": scan.pixel_size_m,
        "photon_energy_eV": scan.photon_energy_eV,
        "detector_distance_m": scan.detector_distance_m,
        "measurement": scan.measurement,
    }
    with replaced_atomically(path) as stream:
        save = np.savez_compressed if compressed else np.savez
        save(stream, **{key: value for key, value in entries.items() if value is not None})
    return path


EXPORTERS: Mapping[str, Callable[[Scan, str | os.PathLike[str]], Path]] = MappingProxyType(
    {".npz": save_scan, ".h5": save_training_hdf5, ".hdf5": save_training_hdf5}
)
"""What writes a scan, by the suffix of the file."""


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
        For another suffix, and if the file cannot be written; what was there before is untouched.
    ScanError
        As `save_training_hdf5`.
    """
    write = EXPORTERS.get(Path(path).suffix.lower())
    if write is None:
        raise OutputError(f"{path}: got suffix {Path(path).suffix!r}, want one of {', '.join(EXPORTERS)}")
    return write(scan, path)


CXI_DATASET = "/entry_1/data_1/data"


def open_patterns(path: str | os.PathLike[str], dataset: str | None = None) -> "NDArray | StoredPatterns":
    """The patterns of a file, for `Scan`, left in it; safely, whoever wrote the file.

    Parameters
    ----------
    path : path
        `.npy`; `.npz`, uncompressed; anything else is HDF5, whose patterns may be compressed with gzip or LZF.
        It must not change as long as the patterns are used.
    dataset : str, optional
        Which array of the file. Default: `diff3d` of NPZ, `/entry_1/data_1/data` of CXI, `patterns` of HDF5.

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
    suffix = path.suffix.lower()
    if suffix == ".npy":
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except OSError as error:
            raise ScanError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:
            raise ScanError(f"{path}: not a readable NPY file ({error})") from error
    if suffix == ".npz":
        return mapped_entry(path, dataset or "diff3d")

    with DatasetFile(path) as file:
        return file.patterns(dataset or ("patterns" if suffix in (".h5", ".hdf5") else CXI_DATASET))
