"""NPZ of tike: `data`, `scan` as the row and column of a patch's corner, zero frequency in the corner.

Arrays have a leading axis for the angle of rotation, of length 1.
"""

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.scans.npz import read_entries
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source

WANTED = ("data", "scan", "probe", "psi", "object")


def recognises(source: Source) -> bool:
    return source.kind == "zip" and {"data", "scan"} <= source.entries and "xcoords" not in source.entries


def read(source: Source) -> RawScan:
    entries, _ = read_entries(source.path, WANTED)
    if missing := [name for name in ("data", "scan") if name not in entries]:
        raise ScanError(f"{' and '.join(missing)}: None, want arrays")
    data, scan = _one_angle("data", entries["data"], 3), _one_angle("scan", entries["scan"], 2)
    if scan.shape[-1] != 2:
        raise ScanError(f"scan: got shape {scan.shape}, want (M, 2), row and column")
    raw = RawScan(
        format="NPZ of tike",
        name=source.name,
        patterns=data,
        # tike's patch starts at pixel (row, column) + 1 of psi, and a corner is a pixel here
        positions=scan[:, ::-1].astype(np.float64),
        positions_unit="px",
        anchor="corner",
        measurement="intensity",
        corner=True,
    )
    raw.took("patterns", "data", "counts, zero frequency in the corner")
    raw.took("positions", "scan", "object pixels (row, column) of a patch's corner")
    if "probe" in entries:
        raw.probe = _modes(entries["probe"])
        raw.took("probe", "probe")
    image = entries.get("psi", entries.get("object"))
    if image is not None and image.dtype.kind == "c" and np.ndim(np.squeeze(image)) == 2:
        raw.object = np.squeeze(image)
        raw.took("object", "psi" if "psi" in entries else "object")
    return raw


def _one_angle(name: str, values: NDArray, rank: int) -> NDArray:
    while values.ndim > rank and len(values) == 1:
        values = values[0]
    if values.ndim != rank:
        raise ScanError(f"{name}: got shape {values.shape}, want {rank} axes after those of length 1")
    return values


def _modes(probe: NDArray) -> NDArray:
    """(modes, N, N) of tike's (angles, positions, coherent, modes, N, N)."""
    probe = np.asarray(probe)
    while probe.ndim > 3:
        probe = probe[0]
    return probe
