"""NPZ in the schema of docs/scan.md, which this library, PtychoPINN and Ptychodus share."""

from ptycho_backends.scans.npz import PATTERNS_ENTRIES, raw_of_npz
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    return (
        source.kind == "zip"
        and {"xcoords", "ycoords"} <= source.entries
        and bool(source.entries.intersection(PATTERNS_ENTRIES))
    )


def read(source: Source) -> RawScan:
    return raw_of_npz(source.path, mapped=source.mapped and not source.is_temporary)
