"""Scans in NPZ files, the schema of docs/scan.md, which PtychoPINN and Ptychodus share."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.files.npz_file import NpzFile
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

# Entries of an unknown file that are looked at.
MAX_LISTED = 1000


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
    _require_equal_lengths(path)
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


def _require_equal_lengths(path: Path) -> None:
    """Refuse a file whose patterns and positions differ in number, before any pattern is unpacked."""
    shapes = entry_shapes(path)
    for name in PATTERNS_ENTRIES:
        count, wanted = shapes.get(name, ())[:1], shapes.get("xcoords", ())[:1]
        if count and wanted and count != wanted:
            raise ScanError(f"{name}: got {count[0]} patterns for {wanted[0]} positions")


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
        If the file is damaged, or a wanted entry holds objects of Python or unpacks to far more than a genuine one.
    """
    entries, mapped = {}, {}
    with NpzFile(path) as file:
        for key in (key for key in wanted if key in file):
            if file.is_none(key):
                log.info("%s: %s: None, so it is left out", path, key)
                continue
            if key in left_in_file:
                mapped[key] = file.mapped(key)
                continue
            header = file.header(key)
            if key == "objectGuess" and header is not None and file.is_swollen(key):
                log.warning(
                    "%s: %s: %s pixels without content, stored in next to nothing, so it is left out",
                    path, key, " x ".join(map(str, header.shape)),
                )  # fmt: skip
                continue
            # a stack of images; a probe of several modes is one too, and is complex
            is_stack = header is not None and len(header.shape) >= 3 and header.dtype.kind in "biuf"
            entries[key] = file.array(key, sparse=is_stack)
        return entries | mapped, list(file.names)


def entry_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of numbers in an NPZ file, by their names; only their headers are read.

    Raises
    ------
    ScanError
        If the file is damaged.
    """
    with NpzFile(path) as file:
        headers = {name: file.header(name) for name in file.names[:MAX_LISTED]}
    return {
        name: header.shape
        for name, header in headers.items()
        if header is not None and header.dtype.kind in "biufc"
    }


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
