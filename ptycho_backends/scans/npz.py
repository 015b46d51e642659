"""Scans in NPZ files, the schema of docs/scan.md, which PtychoPINN and Ptychodus share."""

import logging
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.data_pickle import holds_none
from ptycho_backends.files.mapped_npz import mapped_entry
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.scans.raw_scan import RawScan, known_length
from ptycho_backends.scans.scan import Scan, known_object
from ptycho_backends.scans.valid_pixels import MASK_NAMES, mask_of_entries

log = logging.getLogger(__name__)

KNOWN_ENTRIES = (
    "xcoords", "ycoords", "diff3d", "diffraction", "probeGuess", "objectGuess", "scan_index",
    "xcoords_start", "ycoords_start", "objectMask", "pixel_size_m", "photon_energy_eV",
    "detector_distance_m", "measurement", "probeModes", *MASK_NAMES,
)  # fmt: skip

PTYCHODUS_ENTRIES = frozenset(
    {
        "xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "bad_pixels", "probeGuess",
        "objectGuess", "scan_index",
    }
)  # fmt: skip
"""Entries that Ptychodus 1.7 writes into a training file, all of them and always."""

PATTERNS_ENTRIES = ("diff3d", "diffraction")

# A pickle of None takes less.
MAX_NONE_BYTES = 4096


def raw_of_npz(path: Path, *, mapped: bool = False) -> RawScan:
    """Content of an NPZ file of this schema.

    Parameters
    ----------
    path : Path
    mapped : bool
        Leave the patterns in the file.

    Raises
    ------
    ScanError
    """
    entries, names = read_entries(path, left_in_file=PATTERNS_ENTRIES if mapped else ())
    patterns_key = "diff3d" if "diff3d" in entries or "diffraction" not in entries else "diffraction"
    missing = [key for key in ("xcoords", "ycoords", patterns_key) if key not in entries]
    if missing:
        raise ScanError(f"{', '.join(missing)} missing; the file holds {', '.join(names) or 'nothing'}")
    by_ptychodus = set(names) >= PTYCHODUS_ENTRIES
    measurement = str(entries["measurement"]) if "measurement" in entries else "auto"
    if measurement == "auto" and by_ptychodus:
        measurement = "intensity"
        log.info("measurement: %s was written by Ptychodus, so its patterns are counts", path)
    if by_ptychodus and known_object(entries.get("objectGuess")) is None:
        entries.pop("objectGuess", None)
    patterns = entries[patterns_key]
    raw = RawScan(
        format="NPZ of ptycho-backends or PtychoPINN",
        name=path.stem,
        patterns=patterns,
        positions=_pair(entries),
        positions_unit="px",
        positions_start=_pair(entries, "_start"),
        measurement=measurement,
        energy_eV=_number_or_unknown("photon_energy_eV", entries),
        distance_m=_number_or_unknown("detector_distance_m", entries),
        pixel_size_m=_number_or_unknown("pixel_size_m", entries),
        probe=entries.get("probeGuess"),
        probe_modes=entries.get("probeModes"),
        object=entries.get("objectGuess"),
        valid_pixels=mask_of_entries(entries, patterns.shape[-2:]) if patterns.ndim == 3 else None,
        object_mask=entries.get("objectMask"),
        scan_index=entries.get("scan_index"),
        clip_negative=by_ptychodus and measurement == "intensity",
    )
    raw.took("patterns", patterns_key)
    raw.took("positions", "xcoords, ycoords", "object pixels")
    for part, key in (("probe", "probeGuess"), ("probe modes", "probeModes"), ("object", "objectGuess")):
        if key in entries:
            raw.took(part, key)
    return raw


def _pair(entries: Mapping[str, NDArray], suffix: str = "") -> tuple[NDArray, NDArray] | None:
    """Columns and rows; None where the file has none with this suffix."""
    names = [f"{axis}coords{suffix}" for axis in "xy"]
    if not entries.keys() & set(names):
        return None
    x, y = (entries.get(name, entries[name.removesuffix("_start")]) for name in names)
    return x, y


def is_written_by_ptychodus(path: Path) -> bool:
    """Recognise an NPZ file by Ptychodus's nine entries, and the absence of `measurement`."""
    _, names = read_entries(path, ())
    return set(names) >= PTYCHODUS_ENTRIES and "measurement" not in names


def _number_or_unknown(name: str, entries: Mapping[str, NDArray]) -> float | None:
    """The file's entry `name`, a number that is NaN, or 0, where it is unknown."""
    if name not in entries:
        return None
    value = entries[name]
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ScanError(f"{name}: got {value.dtype} of shape {value.shape}, want one number")
    return known_length(float(value.reshape(())))


def read_entries(
    path: Path, wanted: Sequence[str] = KNOWN_ENTRIES, *, left_in_file: Sequence[str] = ()
) -> tuple[dict[str, NDArray], list[str]]:
    """The wanted entries of an NPZ file, and the names of all; an exotic entry is not read.

    An entry that is None, as `numpy.savez` writes absent arrays, is left out. Those `left_in_file` are mapped.

    Raises
    ------
    ScanError
        Without the path, if the file is damaged or a wanted entry holds objects of Python.
    """
    entries, mapped = {}, {}
    try:
        with open(path, "rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise ScanError("not an NPZ file, or cut short")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                names = sorted(archive)
                for key in wanted:
                    if key not in archive:
                        continue
                    if _is_none(archive.zip, key):
                        log.info("%s: %s: None, so it is left out", path, key)
                    elif key in left_in_file:
                        mapped[key] = mapped_entry(path, key)
                    else:
                        entries[key] = archive[key]
        return entries | mapped, names
    except ScanError:
        raise
    except OSError as error:
        raise ScanError(f"cannot be read ({error.strerror or error})") from error
    except Exception as error:
        # a damaged file makes zlib, zipfile and NumPy raise almost anything
        raise ScanError(f"not a readable NPZ file ({error})") from error


def entry_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of numbers in an NPZ file, by their names; only their headers are read.

    Raises
    ------
    ScanError
        If the file is damaged.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    header = _header(stream) if member.endswith(".npy") else None
                if header is not None and header[1].kind in "biufc":
                    found[member.removesuffix(".npy")] = header[0]
    except Exception as error:
        # a damaged file makes zlib, zipfile and NumPy raise almost anything
        raise ScanError(f"not a readable NPZ file ({error})") from error
    return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and dtype of an NPY stream; None for a version that no scan has."""
    versions = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    read = versions.get(npy.read_magic(stream))
    if read is None:
        return None
    shape, _, dtype = read(stream)
    return shape, dtype


def _is_none(archive: zipfile.ZipFile, key: str) -> bool:
    """Recognise an entry that is None: one object of Python, whose pickle is looked at and never run."""
    member = f"{key}.npy" if f"{key}.npy" in archive.namelist() else key
    with archive.open(member) as stream:
        header = _header(stream)
        if header is None or not header[1].hasobject:
            return False
        if header[0] == () and holds_none(stream.read(MAX_NONE_BYTES)):
            return True
    raise ScanError(f"{key}: holds objects of Python, want an array of numbers")


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
        If the file cannot be written; an earlier file is untouched.
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
        "probeModes": scan.probe_modes
        if scan.probe_modes is not None and len(scan.probe_modes) > 1
        else None,
        "valid_pixels": scan.valid_pixels,
    }
    with replaced_atomically(path) as stream:
        save = np.savez_compressed if compressed else np.savez
        save(stream, **{key: value for key, value in entries.items() if value is not None})
    return path
