"""Data sets of HDF5 files by their paths, over links and through virtual data sets; and checks before reading.

Other files are opened only below the folder of the file that was named: a path in a file that came from
elsewhere must not make this library read the rest of the disk.
"""

import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import (
    PLAIN,
    Growth,
    require_growth,
)
from ptycho_backends.files.hdf5_chunks import Chunks
from ptycho_backends.files.hdf5_heaps import require_heaps_with_ends
from ptycho_backends.files.swmr import require_whole_structure

if TYPE_CHECKING:
    import h5py

MAX_LINKS = 16
MAX_NESTED_VIRTUAL = 4

MAX_CHUNK_BYTES = 1 << 30
# Of a chunk of a small data set, which is unpacked as a whole.
SMALL_CHUNK_BYTES = 32 << 20
# Sources of virtual data sets are looked into as a whole, where that is quick.
MAX_LOOKED_AT_BYTES = 64 << 20

_HARD = ("", "")
_LOCKED = ("unable to lock file", "already open for")


def open_hdf5(path: Path, known: bool = False) -> "h5py.File":
    """Open a file for reading, also one that a detector is writing (SWMR); a `known` one was looked through before."""
    import h5py  # late: only an HDF5 file needs it

    if not known:
        require_heaps_with_ends(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        # a reader of SWMR waits for the writer where a checksum is wrong: for ever, in a file that is damaged
        if not any(words in str(error) for words in _LOCKED):
            raise
        if not known:
            require_whole_structure(path)
        with contextlib.suppress(OSError):
            return h5py.File(path, "r", libver="latest", swmr=True)
        raise ScanError(
            "another program has it open for writing, or ended without closing it; close it there, or "
            f"repair it with `h5clear -s` ({error})"
        ) from error


# A genuine file names few of its groups twice.
PATHS_PER_OBJECT = 4


class Hdf5Tree:
    """An HDF5 file and the files that its links lead to, open for reading until `close`.

    Errors are `ScanError`s without the path of the file, and those of h5py.
    """

    def __init__(self, path: Path, known: bool = False) -> None:
        path = path.resolve()
        self._folder = path.parent
        self._opened = contextlib.ExitStack()
        self.file = self._opened.enter_context(open_hdf5(path, known))

    def close(self) -> None:
        self._opened.close()

    def dataset(self, name: str, growth: Growth = PLAIN) -> "h5py.Dataset":
        """Find the data set `name`, and check that all of it can be read and unpacks to no more than `growth` allows.

        Raises
        ------
        ScanError
            If there is none, it holds no numbers, was not written in full, unpacks to far more than a genuine one
            does, or a part of it lies in a file outside the folder.
        """
        import h5py

        found = self.find(name)
        if not isinstance(found, h5py.Dataset):
            raise ScanError(f"{name}: a group, want an array")
        _require_numbers(name, found)
        _require_sane_size(name, found, self._require_stored(name, found, MAX_NESTED_VIRTUAL), growth)
        return found

    def growing_dataset(self, name: str) -> "h5py.Dataset":
        """Find the data set `name` of a file that is being written; not all of it need be there yet.

        Raises
        ------
        ScanError
            If there is none, it holds no numbers, or its parts are in other files.
        """
        import h5py

        found = self.find(name)
        if not isinstance(found, h5py.Dataset) or not found.shape or not holds_numbers(found.dtype):
            raise ScanError(f"{name}: want an array of numbers")
        if found.external or found.is_virtual:
            raise ScanError(f"{name}: its numbers are in other files, want the file that is being written")
        if math.prod(found.shape[1:]) * found.dtype.itemsize > MAX_CHUNK_BYTES:
            raise ScanError(
                f"{name}: claims rows of shape {found.shape[1:]}, more than {MAX_CHUNK_BYTES} bytes"
            )
        if found.chunks is not None:
            _require_filters(name, found)
        return found

    def find(self, name: str) -> Any:
        """The group or data set `name`, a path from the root."""
        return self._found(self.file, name, self._opened, name)

    def _found(self, file: "h5py.File", path: str, opened: contextlib.ExitStack, label: str) -> Any:
        """The object at `path`; files that links lead to are `opened`, and `label` names it in messages."""
        import h5py

        steps, links_left, here = _steps(path), MAX_LINKS, file
        while steps:
            if not isinstance(here, h5py.Group):
                raise ScanError(f"{label}: {here.name} is an array, want a group")
            step = steps.pop(0)
            link = _link(here, step)
            if link is None:
                raise ScanError(
                    f"{label} missing; the file holds {', '.join(sorted(member_names(here))) or 'nothing'}"
                )
            if link == _HARD:
                here = here[step]
                continue
            links_left -= 1
            if links_left < 0:
                raise ScanError(f"{label}: its links lead in circles")
            target, onward = link
            steps = [*_steps(onward), *steps]
            if target:
                there = self._inside(f"{label}: an external link", here.file.filename, target)
                here = opened.enter_context(open_hdf5(there))
            elif onward.startswith("/"):
                here = here.file
        return here

    def _inside(self, label: str, holder: str, target: str) -> Path:
        """Path of the file `target`, to which the file `holder` refers; it lies below the folder."""
        folder, given = Path(holder).parent, Path(target)
        place = folder / given
        if given.is_absolute() and not place.exists():
            # as the C library does, for files that were moved together
            place = folder / given.name
        place = place.resolve()
        if not place.is_relative_to(self._folder):
            raise ScanError(
                f"{label} to {target}, which lies outside the scan's folder {self._folder}; copy that file there, "
                "or write one file that holds everything"
            )
        if not place.is_file():
            raise ScanError(f"{label} to {target}, which is not there; it belongs into {folder}")
        return place

    def _require_stored(self, name: str, dataset: "h5py.Dataset", nested_left: int) -> int:
        """Check that all parts of a data set are in files that may be read; return the bytes that they take."""
        from h5py import h5d

        if dataset.external:
            raise ScanError(f"{name}: its numbers are in external files, want them in an HDF5 file")
        layout = dataset.id.get_create_plist().get_layout()
        if layout == h5d.VIRTUAL:
            if nested_left == 0:
                raise ScanError(f"{name}: virtual data sets of virtual data sets, nested too deeply")
            return self._require_sources(name, dataset, nested_left - 1)
        if layout == h5d.CHUNKED:
            _require_chunks(name, dataset)
        elif layout == h5d.CONTIGUOUS and dataset.size and not dataset.id.get_storage_size():
            raise ScanError(f"{name}: was never written")
        return min(int(dataset.id.get_storage_size()), os.path.getsize(dataset.file.filename))

    def _require_sources(self, name: str, dataset: "h5py.Dataset", nested_left: int) -> int:
        """The C library would fill in zeros for a source that is not there."""
        import h5py

        file_bytes = 0
        sources = {(source.file_name, source.dset_name) for source in dataset.virtual_sources()}
        for file_name, path in sorted(sources):
            label = f"{name}: its source {path} in {file_name}"
            for target in self._files_of_source(name, dataset.file, file_name):
                if "%b" in path:
                    # numbered data sets, which end where the first one is missing
                    file_bytes += os.path.getsize(target)
                    continue
                with contextlib.ExitStack() as opened:
                    same = file_name == "."
                    file = dataset.file if same else opened.enter_context(open_hdf5(target))
                    source = self._found(file, path, opened, label)
                    if not isinstance(source, h5py.Dataset):
                        raise ScanError(f"{label} is a group, want an array")
                    file_bytes += self._require_stored(label, source, nested_left)
                    if source.chunks is not None and not source.is_virtual and source.ndim:
                        chunks = Chunks(label, source)
                        if chunks.stored_bytes <= MAX_LOOKED_AT_BYTES:
                            chunks.require_bounded(source, 0, len(source))
        return file_bytes

    def _files_of_source(self, name: str, holder: "h5py.File", file_name: str) -> Iterable[Path]:
        label = f"{name}: a virtual data set that leads"
        if file_name == ".":
            return [Path(holder.filename)]
        if "%b" not in file_name:
            return [self._inside(label, holder.filename, file_name)]
        pattern = file_name.replace("%b", "*")
        numbered = (
            sorted(Path(holder.filename).parent.glob(pattern)) if not Path(pattern).is_absolute() else []
        )
        if not numbered:
            raise ScanError(f"{label} to {file_name}, of which there is none in {self._folder}")
        return [self._inside(label, holder.filename, str(one)) for one in numbered]


def has_circles(path: Path) -> bool:
    """True where groups of a file contain themselves, or each other so often that a walk would hardly end."""
    import h5py

    with open_hdf5(path) as file:
        objects = 0

        def count(_: str) -> None:
            nonlocal objects
            objects += 1

        # each object once
        file.visit(count)
        waiting: list[h5py.Group] = [file]
        visits_left = PATHS_PER_OBJECT * (objects + 1)
        while waiting:
            group = waiting.pop()
            visits_left -= 1
            if visits_left < 0:
                return True
            for name in group:
                if isinstance(group.get(name, getlink=True), h5py.HardLink):
                    member = group[name]
                    if isinstance(member, h5py.Group):
                        waiting.append(member)
    return False


def member_names(group: "h5py.Group") -> frozenset[str]:
    """Names of the members of a group; h5py hands out bytes where a name is no UTF-8."""
    return frozenset(name if isinstance(name, str) else name.decode("utf-8", "replace") for name in group)


def _link(group: "h5py.Group", name: str) -> tuple[str, str] | None:
    """File ('' for this one) and path that a link leads to, without following it; None if there is none."""
    from h5py import h5l

    links, key = group.id.links, name.encode()
    if not links.exists(key):
        return None
    kind = links.get_info(key).type
    if kind == h5l.TYPE_HARD:
        return _HARD
    if kind == h5l.TYPE_SOFT:
        return "", os.fsdecode(links.get_val(key))
    if kind == h5l.TYPE_EXTERNAL:
        file, path = links.get_val(key)
        return os.fsdecode(file), os.fsdecode(path)
    raise ScanError(f"{name}: a link of an unknown kind, {kind}")


def _steps(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _require_chunks(name: str, dataset: "h5py.Dataset") -> None:
    """Check that all chunks were written, are of a sane size, and can be unpacked."""
    side = dataset.chunks
    most = min(MAX_CHUNK_BYTES, max(SMALL_CHUNK_BYTES, 4 * dataset.size * dataset.dtype.itemsize))
    if math.prod(side) * dataset.dtype.itemsize > most:
        raise ScanError(
            f"{name}: chunks of {side}, each more than {most} bytes, and whole chunks must be read; "
            "write smaller ones with `h5repack -l CHUNK=...`"
        )
    if dataset.size:
        count = math.prod(-(-length // step) for length, step in zip(dataset.shape, side, strict=True))
        written = dataset.id.get_num_chunks()
        if written != count:
            raise ScanError(f"{name}: {count - written} of its {count} parts were never written, or are lost")
    _require_filters(name, dataset)


def _require_filters(name: str, dataset: "h5py.Dataset") -> None:
    from h5py import h5z

    properties = dataset.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, label = properties.get_filter(number)
        if h5z.filter_avail(code):
            continue
        import hdf5plugin  # noqa: F401 - late: it adds bitshuffle, Blosc, LZ4, Zstandard and more to the C library

        if not h5z.filter_avail(code):
            label = label.decode("utf-8", "replace") if isinstance(label, bytes) else label
            raise ScanError(
                f"{name}: compressed with filter {code} ({label or 'without a name'}), which hdf5plugin does not have; "
                "write the file anew with `h5repack -f GZIP=1` where it can be read"
            )


def holds_numbers(dtype: Any) -> bool:
    """Recognise numbers, also the complex ones of MATLAB: pairs of `real` and `imag`."""
    if dtype.names == ("real", "imag"):
        return all(dtype[name].kind == "f" for name in dtype.names)
    return dtype.kind in "biufc"


def _require_numbers(name: str, dataset: "h5py.Dataset") -> None:
    if dataset.shape is None or not holds_numbers(dataset.dtype):
        raise ScanError(f"{name}: got {dataset.dtype!s:.80}, want numbers")


def _require_sane_size(name: str, dataset: "h5py.Dataset", stored: int, growth: Growth) -> None:
    nbytes = math.prod(dataset.shape) * dataset.dtype.itemsize
    require_growth(ScanError, f"{name}, which claims shape {dataset.shape}", nbytes, stored, growth)
