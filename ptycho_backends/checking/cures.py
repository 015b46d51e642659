"""Cures of findings, carried out on a scan in memory."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ptycho_backends.checking.findings import Finding
from ptycho_backends.scans.geometry import with_options
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_options import ScanOptions


def cured(scan: Scan, findings: Iterable[Finding]) -> Scan:
    """`scan` with the cures of all `findings` that have one, in their order.

    An object that the file has is left out where axes or positions change: it belongs to the former ones.
    """
    for finding in findings:
        scan = changed(scan, finding.cure.changes)
    return scan


def changed(scan: Scan, changes: Mapping[str, Any]) -> Scan:
    """`scan` with `changes` by the names of `CHANGES`."""
    for name, value in changes.items():
        scan = CHANGES[name](scan, value)
    return scan


def _read_again(scan: Scan, value: Mapping[str, Any]) -> Scan:
    moves = {"swap_xy", "flip_x", "flip_y", "transpose"} & set(value)
    if moves and scan.object_guess is not None:
        scan = dataclasses.replace(scan, object_guess=None, object_mask=None)
    return with_options(scan, ScanOptions(**value))


def _measured_as(scan: Scan, value: str) -> Scan:
    return dataclasses.replace(scan, measurement=value)


def without(scan: Scan, numbers: Sequence[int]) -> Scan:
    """`scan` without the positions `numbers`, and their patterns."""
    kept = np.setdiff1d(np.arange(len(scan)), np.asarray(numbers, np.int64))
    return dataclasses.replace(scan.part(kept), name=scan.name)


def scaled(scan: Scan, factor: float) -> Scan:
    """`scan` with its positions scaled about their middle; an object in the file is left out."""
    positions = scan.scan_positions_px
    middle = (positions.min(axis=0) + positions.max(axis=0)) / 2
    x, y = ((positions - middle) * factor + middle).T
    return dataclasses.replace(
        scan, xcoords=x, ycoords=y, xcoords_start=None, ycoords_start=None, object_guess=None, object_mask=None,
        pixel_size_m=None if scan.pixel_size_m is None else scan.pixel_size_m / factor,
    )  # fmt: skip


def with_centred_probe(scan: Scan, _: bool = True) -> Scan:
    """`scan` with its probe moved by half the side, from the corner to the middle."""
    if scan.probe_modes is None:
        return scan
    return scan.with_probe(np.fft.fftshift(scan.probe_modes, axes=(-2, -1)))


def _with_mask(scan: Scan, bad: Any) -> Scan:
    valid = np.ones((scan.N, scan.N), bool) if scan.valid_pixels is None else scan.valid_pixels.copy()
    rows, columns = np.asarray(bad).T
    valid[rows, columns] = False
    return dataclasses.replace(scan, valid_pixels=valid)


def in_order(scan: Scan, order: Any) -> Scan:
    """Patterns in another order, at the positions as they are."""
    moved = scan.part(order)
    return dataclasses.replace(
        moved, xcoords=scan.xcoords, ycoords=scan.ycoords, xcoords_start=scan.xcoords_start,
        ycoords_start=scan.ycoords_start, name=scan.name,
    )  # fmt: skip


CHANGES: Mapping[str, Callable[[Scan, Any], Scan]] = MappingProxyType(
    {
        "options": _read_again,
        "measurement": _measured_as,
        "leave_out": without,
        "scale_positions": scaled,
        "centre_probe": with_centred_probe,
        "bad_pixels": _with_mask,
        "order": in_order,
    }
)
"""Changes of a scan by name; `options` are fields of `ScanOptions`."""
