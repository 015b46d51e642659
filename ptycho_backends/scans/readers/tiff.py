"""A TIFF stack, with positions from another file: the one named, or one beside it."""

from ptycho_backends.files.tiff_file import tiff_patterns
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.positions import add_positions_beside
from ptycho_backends.scans.readers.source import Source


def recognises(source: Source) -> bool:
    return source.kind == "TIFF"


def read(source: Source) -> RawScan:
    patterns = tiff_patterns([source.path], source.stays)
    raw = RawScan(format="TIFF stack", name=source.name, patterns=patterns)
    raw.took("patterns", f"{len(patterns)} pages of {source.shown.name}")
    add_positions_beside(raw, source, source.shown.parent, source.name)
    return raw
