"""Writing of HDF5 on a disk that may have no room: the library itself cannot close a file that it cannot write.

It would end the process. What it writes goes to a file that keeps the first error for later instead.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

# Parts of the structure, which HDF5 reads again; pieces of arrays are larger.
SMALL_BYTES = 64 << 10


@contextmanager
def created_hdf5(stream: IO[bytes]) -> Iterator["h5py.File"]:
    """A new HDF5 file as the content of `stream`, of `replaced_atomically`; its structure has checksums.

    It is complete when the block ends.

    Raises
    ------
    OSError
        At the end of the block, if something could not be written.
    """
    import h5py  # late: it takes a tenth of a second

    with PatientFile(stream.name) as file:
        try:
            with h5py.File(file, "w", libver=("v110", "v110"), track_order=False) as content:
                yield content
        except Exception as error:
            # what HDF5 makes of a file that is not what it wrote
            if file.error is not None and not isinstance(error, OSError):
                raise file.error from error
            raise
        if file.error is not None:
            raise file.error


class PatientFile(io.RawIOBase):
    """A file that takes everything; `error` is the first one of the disk, after which nothing more is written to it.

    Small pieces are kept after that, so that they can be read again.

    Parameters
    ----------
    path : path
        Of a file that exists.
    """

    def __init__(self, path: str) -> None:
        self.error: OSError | None = None
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed below
        self._place = 0
        self._kept: list[tuple[int, bytes]] = []

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size()}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def _size(self) -> int:
        return max(
            [os.fstat(self._file.fileno()).st_size, *(start + len(data) for start, data in self._kept)]
        )

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.error is None:
            self._attempt(lambda: self._write_whole(view))
        if self.error is not None and len(view) <= SMALL_BYTES:
            self._kept.append((self._place, bytes(view)))
        self._place += len(view)
        return len(view)

    def _write_whole(self, view: memoryview) -> None:
        self._file.seek(self._place)
        while len(view):
            view = view[self._file.write(view) :]

    def truncate(self, size: int | None = None) -> int:
        size = self._place if size is None else size
        if self.error is None:
            self._attempt(lambda: self._file.truncate(size))
        return size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._place)
        count = self._file.readinto(view) or 0
        for start, data in self._kept:
            first = max(start, self._place)
            last = min(start + len(data), self._place + len(view))
            if first < last:
                view[first - self._place : last - self._place] = data[first - start : last - start]
                count = max(count, last - self._place)
        self._place += count
        return count

    def _attempt(self, write: Any) -> None:
        try:
            write()
        except OSError as error:
            self.error = error

    def close(self) -> None:
        if not self.closed:
            self._attempt(self._file.close)
        super().close()
