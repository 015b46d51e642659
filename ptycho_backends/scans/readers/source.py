"""A file or folder that a reader looks at: its kind, its name, and the options of reading."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ptycho_backends.errors import ScanError
from ptycho_backends.files.datasets_hdf5 import DatasetFile
from ptycho_backends.files.file_kind import FileKind, kind_of
from ptycho_backends.files.npz_file import NpzFile
from ptycho_backends.files.unpacked import COMPRESSED, unpacked
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions

# Patterns of more bytes stay in their file without being asked to.
LARGE_BYTES = 2 << 30


@dataclass(eq=False)
class Source:
    """A file or folder, and how to read it.

    Parameters
    ----------
    path : Path
        The file, unpacked if it was compressed.
    shown : Path
        The file that the user named, for messages.
    kind : str, optional
        As `file_kind.kind_of`, or 'folder'; None for unknown content.
    options : ScanOptions
    mapped : bool
        Leave the patterns in the file.
    is_temporary : bool
        The file is gone after reading.
    """

    path: Path
    shown: Path
    kind: FileKind | str | None
    options: ScanOptions = NO_OPTIONS
    mapped: bool = False
    is_temporary: bool = False

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self.path.stem

    def stays(self, nbytes: int) -> bool:
        """True where patterns of `nbytes` are left in the file."""
        return not self.is_temporary and (self.mapped or nbytes > LARGE_BYTES)

    @cached_property
    def entries(self) -> frozenset[str]:
        """Names at the root of an HDF5 file, or in an NPZ file without '.npy'; none of other kinds."""
        if self.kind == "HDF5":
            with self.hdf5() as file:
                return file.names
        if self.kind == "zip":
            with suppress(ScanError), NpzFile(self.path) as archive:
                return frozenset(archive.names)
        return frozenset()

    @cached_property
    def groups(self) -> list[str]:
        """Entries of CXI and NeXus: names at the root of an HDF5 file that begin so, or are marked so; sorted."""
        named = sorted(name for name in self.entries if name.startswith("entry"))
        if named or self.kind != "HDF5":
            return named
        with self.hdf5() as file:
            return [name for name in sorted(self.entries) if file.is_entry(name)]

    @contextmanager
    def hdf5(self) -> Iterator[DatasetFile]:
        with DatasetFile(self.path) as file:
            yield file

    def dataset(self, part: str) -> str | None:
        """Path that the options name for a part of the scan."""
        return self.options.datasets.get(part)

    def beside(self, name: str) -> Path | None:
        """The file called `name` in the folder of this one, if there is one."""
        folder = self.shown.parent
        place = (folder / Path(name).name).resolve()
        return place if place.is_file() and place.parent == folder.resolve() else None


@contextmanager
def opened_source(path: Path, *, mapped: bool = False, options: ScanOptions = NO_OPTIONS) -> Iterator[Source]:
    """The source at `path`, unpacked if it is compressed, while the block runs."""
    if path.is_dir():
        yield Source(path, path, "folder", options, mapped)
        return
    kind = kind_of(path)
    if kind is None or kind not in COMPRESSED:
        yield Source(path, path, kind, options, mapped)
        return
    if mapped:
        raise ScanError(f"compressed with {kind}, so it cannot be mapped; unpack it first")
    with unpacked(path, kind) as inner:
        try:
            inner_kind = kind_of(inner)
        except ScanError as error:
            raise ScanError(f"compressed with {kind}, and inside {str(error).partition(': ')[2]}") from error
        if inner_kind in COMPRESSED:
            raise ScanError(f"compressed twice, with {kind} and {inner_kind}; unpack it first")
        yield Source(inner, path, inner_kind, options, False, is_temporary=True)


def description(source: Source) -> str:
    """One sentence for a file that no reader recognises: its kind, its content, and a cure."""
    if source.kind == "folder":
        return "a folder without images and without scans"
    if source.is_temporary and source.kind is None:
        return f"{source.shown.suffix.lstrip('.')}: compressed, and inside a file of no known kind"
    if source.kind == "zip" and not source.entries:
        return "not an NPZ file, or cut short: a zip file without arrays"
    if source.kind == "zip":
        held = ", ".join(sorted(source.entries))
        return (
            f"xcoords, ycoords, diff3d missing; the file holds {held}; name the parts with "
            "--dataset patterns=NAME --dataset positions=NAME"
        )
    if {"patterns", "indexes"} <= source.entries:
        return "Ptychodus's patterns without positions; name the product beside them, which is read with them"
    if source.kind == "HDF5":
        held = ", ".join(sorted(source.entries)) or "nothing"
        return (
            f"HDF5 of another layout, which holds {held}; name the parts with --dataset patterns=PATH --dataset "
            "positions=PATH, or take the patterns with `open_patterns(path, dataset)` and make a `Scan` of them"
        )
    claimed = {".npz": "an NPZ file", ".h5": "a readable HDF5 file", ".hdf5": "a readable HDF5 file"}
    if source.kind is None and source.path.suffix.lower() in claimed:
        return f"not {claimed[source.path.suffix.lower()]} as its name claims, and of no known kind"
    if source.kind is None:
        return "a file of no known kind; see docs/readers.md for those that can be read"
    return f"a {source.kind} file without patterns"
