"""Compressed chunks of HDF5 data sets, looked at before the C library unpacks them.

Its filters make as much as the compressed bytes ask for, whatever the size of the chunk is: a data set of 96 kB may
have a chunk that becomes a gigabyte. So a chunk that could do so is unpacked here first, up to its size, or its own
header is read.
"""

import bz2
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ptycho_backends.errors import ScanError
from ptycho_backends.files.budget import FREE_BYTES

if TYPE_CHECKING:
    import h5py

DEFLATE, SHUFFLE, FLETCHER32, SZIP, N_BIT, SCALE_OFFSET = 1, 2, 3, 4, 5, 6
BZIP2, LZF, BLOSC, LZ4, BITSHUFFLE, ZSTANDARD = 307, 32000, 32001, 32004, 32008, 32015
_KEEP_SIZE = (SHUFFLE, FLETCHER32, N_BIT, SCALE_OFFSET)
# What a byte may become; less than this cannot make more than FREE_BYTES.
_MOST = {DEFLATE: 1032, BZIP2: 50_000}
_CHECKSUM_BYTES = 4


class _Chunk(NamedTuple):
    offset: tuple[int, ...]
    size: int


class Chunks:
    """The chunks of a data set; `require_bounded` looks at those to be read next.

    Parameters
    ----------
    name : str
        For messages.
    dataset : h5py.Dataset
        Chunked, with filters that can be read.

    Raises
    ------
    ScanError
        If it is compressed twice, or a chunk takes more bytes than its numbers do.
    """

    def __init__(self, name: str, dataset: "h5py.Dataset") -> None:
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(number) for number in range(properties.get_nfilters())]
        self._codes = [one[0] for one in filters]
        self._values = {one[0]: one[2] for one in filters}
        self._packed = [code for code in self._codes if code not in _KEEP_SIZE]
        if len(self._packed) > 1 or len(self._codes) != len(set(self._codes)):
            raise ScanError(f"{name}: compressed more than once, with filters {self._codes}, want one")
        self._name = name
        side = dataset.chunks
        self._nbytes = dataset.dtype.itemsize
        for length in side:
            self._nbytes *= length
        self._infos: list[_Chunk] = []
        if self._packed and dataset.size:
            dataset.id.chunk_iter(lambda info: self._infos.append(_Chunk(info.chunk_offset, info.size)))
            if LZF in self._values and any(value > self._most for value in self._values[LZF][2:3]):
                raise ScanError(f"{name}: a filter that wants {self._values[LZF][2]} bytes for a chunk")
        for info in self._infos:
            if info.size > self._most:
                raise ScanError(f"{name}: a chunk of {info.size} bytes for {self._nbytes}; it is damaged")

    @property
    def _most(self) -> int:
        # packing makes random numbers a little longer
        return self._nbytes + self._nbytes // 8 + 4096

    @property
    def stored_bytes(self) -> int:
        """Of all chunks that `require_bounded` would look into."""
        return sum(info.size for info in self._infos if self._is_suspect(info))

    def require_bounded(self, dataset: "h5py.Dataset", first: int, last: int) -> None:
        """Look at the chunks with numbers `first` to `last` of the first axis.

        Raises
        ------
        ScanError
            If one would unpack to more than its size.
        """
        from h5py._objects import phil  # its lock, which this one call does not take by itself

        depth = dataset.chunks[0]
        for info in self._infos:
            start = info.offset[0]
            if start <= last and start + depth > first and self._is_suspect(info):
                with phil:
                    mask, data = dataset.id.read_direct_chunk(info.offset)
                self._require_bounded(mask, bytes(data))

    def _is_suspect(self, info: _Chunk) -> bool:
        code = self._packed[0]
        return code in _HEADERS or info.size * _MOST.get(code, 0) > FREE_BYTES

    def _require_bounded(self, skipped: int, data: bytes) -> None:
        for number in range(len(self._codes) - 1, -1, -1):
            code = self._codes[number]
            if skipped & (1 << number):
                continue
            if code == FLETCHER32:
                data = data[:-_CHECKSUM_BYTES]
            elif code == DEFLATE:
                made = len(zlib.decompressobj().decompress(data, self._most + 1))
                self._require(made)
            elif code == BZIP2:
                self._require(len(bz2.BZ2Decompressor().decompress(data, self._most + 1)))
            elif code in _HEADERS:
                self._require(_HEADERS[code](data, self._values[code]))
            if code in self._packed:
                return

    def _require(self, claimed: int) -> None:
        if claimed > self._most:
            raise ScanError(
                f"{self._name}: a chunk of {self._nbytes} bytes unpacks to more; the file is damaged, or made to harm"
            )


def _at(form: str, place: int) -> Callable[[bytes, Any], int]:
    """Reader of a size in the header of a chunk."""

    def read(data: bytes, values: Any) -> int:
        known = len(data) >= place + struct.calcsize(form)
        return int(struct.unpack_from(form, data, place)[0]) if known else 0

    return read


def _of_bitshuffle(data: bytes, values: Any) -> int:
    # there is a header only where it compresses too
    compresses = len(values) > 4 and values[4]
    return _at(">Q", 0)(data, values) if compresses else 0


def _of_zstandard(data: bytes, values: Any) -> int:
    """Size in the header of a frame (RFC 8878, section 3.1.1.1)."""
    if not data.startswith(b"\x28\xb5\x2f\xfd") or len(data) < 5:
        return 0
    flags = data[4]
    single, width = flags >> 5 & 1, (0, 2, 4, 8)[flags >> 6]
    width = width or single
    place = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[place : place + width], "little")
    return size + 256 if width == 2 else size


_HEADERS: dict[int, Callable[[bytes, Any], int]] = {
    SZIP: _at("<L", 0),
    BLOSC: _at("<L", 4),
    LZ4: _at(">Q", 0),
    BITSHUFFLE: _of_bitshuffle,
    ZSTANDARD: _of_zstandard,
}
