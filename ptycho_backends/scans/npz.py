"""Scans in NPZ files, the schema of docs/scan.md, which PtychoPINN and Ptychodus share."""

import logging
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.mapped_npz import mapped_entry
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.scans.scan import Scan, known_object, without_negatives
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


def load_npz(
    path: Path,
    *,
    measurement: str = "auto",
    mapped: bool = False,
    clip_negative: bool = False,
    valid_pixels: ArrayLike | None = None,
) -> Scan:
    """Read a scan from an NPZ file; parameters and errors are those of `load_scan`."""
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
            probe_modes=entries.get("probeModes"),
            valid_pixels=mask_of_entries(entries, entries[patterns_key].shape[-1], valid_pixels),
        )
    except (ScanError, ShapeError) as error:
        raise type(error)(f"{path}: {error}") from error


def is_written_by_ptychodus(path: Path) -> bool:
    """Recognise an NPZ file by Ptychodus's nine entries, and the absence of `measurement`."""
    _, names = _read_npz(path, ())
    return set(names) >= PTYCHODUS_ENTRIES and "measurement" not in names


def _number_or_unknown(name: str, entries: Mapping[str, NDArray]) -> float | None:
    """The file's entry `name`, a number that is NaN where it is unknown."""
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
    """The wanted entries, and the names of all; an exotic entry is not read."""
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
