"""NPZ in the schema of docs/scan.md, which this library, PtychoPINN and Ptychodus share."""

from ptycho_backends.scans.npz import PATTERNS_ENTRIES, raw_of_npz
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    if source.kind != "zip" or source.options.datasets:
        return False
    if source.options.positions_from is not None and "xcoords" not in source.entries:
        return False
    return not source.entries.isdisjoint({"xcoords", "ycoords", *PATTERNS_ENTRIES})


def read(source: Source) -> RawScan:
    return raw_of_npz(source.path, mapped=source.mapped and not source.is_temporary)
