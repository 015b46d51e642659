"""NeXus `NXcxi_ptycho`: CXI's layout, with units as attributes."""

from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers import cxi
from ptycho_backends.scans.readers.source import Source


def _entry(source: Source) -> str | None:
    if source.kind != "HDF5":
        return None
    with source.hdf5() as file:
        for name in source.groups:
            if "ptycho" in (file.text(f"/{name}/definition") or "").lower() and cxi.recognises(source):
                return name
    return None


def recognises(source: Source) -> bool:
    return _entry(source) is not None


def read(source: Source) -> RawScan:
    entry = _entry(source)
    assert entry is not None
    return cxi.read_entry(source, entry, "NXcxi_ptycho", energy_unit="eV")
