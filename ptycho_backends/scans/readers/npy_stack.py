"""A stack of patterns in an NPY file, with positions from another file: the one named, or one beside it."""

import numpy as np

from ptycho_backends.errors import ScanError
from ptycho_backends.files.mapped_npz import mapped_npy
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.positions import add_positions_beside
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    return source.kind == "NPY"


def read(source: Source) -> RawScan:
    patterns = mapped_npy(source.path)
    if patterns.ndim == 4:
        patterns = patterns.reshape(-1, *patterns.shape[-2:])
    if patterns.ndim != 3:
        raise ScanError(f"got shape {patterns.shape}, want patterns (M, ky, kx)")
    if not source.stays(patterns.nbytes):
        patterns = np.array(patterns)
    raw = RawScan(format="NPY stack", name=source.name, patterns=patterns)
    raw.took("patterns", source.shown.name)
    add_positions_beside(raw, source, source.shown.parent, source.name)
    return raw
