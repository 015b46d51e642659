"""`ptycho_backends.scans.scan` and `ptycho_backends.scans.scan_files`, under their former common name."""

from ptycho_backends.scans.npz import KNOWN_ENTRIES, PTYCHODUS_ENTRIES
from ptycho_backends.scans.scan import CHUNK, MEASUREMENTS, PTYCHODUS_ANCHOR_PX, Scan
from ptycho_backends.scans.scan_files import is_ptychodus_file, load_scan, save_scan

__all__ = [
    "CHUNK",
    "KNOWN_ENTRIES",
    "MEASUREMENTS",
    "PTYCHODUS_ANCHOR_PX",
    "PTYCHODUS_ENTRIES",
    "Scan",
    "is_ptychodus_file",
    "load_scan",
    "save_scan",
]
