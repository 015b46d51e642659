"""From a file to its reader: the built-in ones, and those that third parties register.

A reader is a module, or an object, with two functions:

    recognises(source: Source) -> bool
    read(source: Source) -> RawScan

`recognises` looks at the content, never at the suffix alone, and raises nothing.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

from ptycho_backends.errors import ScanError
from ptycho_backends.plugins import registered
from ptycho_backends.scans.raw_scan import RawScan
from ptycho_backends.scans.readers.source import Source

ENTRY_POINT_GROUP = "ptycho_backends.readers"

_HERE = "ptycho_backends.scans.readers"

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "NPZ of tike": f"{_HERE}.tike",
        "NPZ of ptycho-backends or PtychoPINN": f"{_HERE}.npz",
        "NPY stack": f"{_HERE}.npy_stack",
        "MATLAB": f"{_HERE}.matlab",
        "TIFF": f"{_HERE}.tiff",
        "folder": f"{_HERE}.folder",
        "training data of Ptychodus": f"{_HERE}.ptychodus_training",
        "product of Ptychodus": f"{_HERE}.ptychodus_product",
        "PtyPy .ptyd": f"{_HERE}.ptyd",
        "PtyPy .ptyr": f"{_HERE}.ptyr",
        "PtyLab HDF5": f"{_HERE}.ptylab",
        "NXcxi_ptycho": f"{_HERE}.nxcxi_ptycho",
        "CXI": f"{_HERE}.cxi",
        "area detector": f"{_HERE}.area_detector",
        "plain arrays": f"{_HERE}.plain",
    }
)
"""Names of formats, and the modules that read them. The first that recognises a file reads it."""


class Reader(Protocol):
    """Interface of a reader."""

    def recognises(self, source: Source) -> bool: ...

    def read(self, source: Source) -> RawScan: ...


def readers() -> dict[str, Reader]:
    """All readers by the names of their formats; those of third parties come first.

    Raises
    ------
    ScanError
        If one of a third party cannot be imported.
    """
    found: dict[str, Reader] = {}
    for point in sorted(registered(ENTRY_POINT_GROUP), key=lambda point: point.name):
        try:
            found[point.name] = point.load()
        except ImportError as error:
            raise ScanError(f"reader {point.name!r}: {point.value} cannot be imported: {error}") from error
    return found | {name: import_module(module) for name, module in BUILT_IN.items()}


def reader_of(source: Source) -> tuple[str, Reader] | None:
    """Name of the format of `source`, and its reader; None where none recognises it."""
    for name, reader in readers().items():
        if reader.recognises(source):
            return name, reader
    return None
