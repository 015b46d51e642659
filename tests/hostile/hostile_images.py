"""TIFF, MATLAB and compressed files, byte by byte, and some made to harm."""

import gzip
import lzma
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from hostile_parts import MB, scan, zeros_deflated


def tiff(
    pages: list[bytes], *, compression: int = 1, side: int = 16, count: int | None = None, ring: bool = False
) -> bytes:
    """Grey pages of uint16, one strip each."""
    data, place = b"II*\0" + struct.pack("<L", 8), 8
    for number, pixels in enumerate(pages):
        tags = [(256, side), (257, side), (258, 16), (259, compression), (262, 1), (273, place + 2 + 9 * 12 + 4),
                (277, 1), (278, side), (279, len(pixels) if count is None else count)]  # fmt: skip
        following = place + 2 + 9 * 12 + 4 + len(pixels)
        last = number == len(pages) - 1
        data += struct.pack("<H", 9) + b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
        data += struct.pack("<L", (8 if ring else 0) if last else following) + pixels
        place = following
    return data


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<LL", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def matrix(name: str, values: np.ndarray, *, dims: tuple[int, ...] | None = None, kind: int = 6) -> bytes:
    shape = values.shape if dims is None else dims
    return element(
        14,
        element(6, struct.pack("<LL", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
        + element(1, name.encode()) + element(9, np.asfortranarray(values, "<f8").tobytes(order="F")),
    )  # fmt: skip


def matlab(*parts: bytes) -> bytes:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    if not parts:
        counts = np.moveaxis(scan().patterns.astype(float), 0, -1)
        parts = (
            matrix("dp", counts),
            matrix("x", np.arange(9.0)[:, None]),
            matrix("y", np.arange(9.0)[:, None]),
        )
    return header + b"".join(parts)


def hostile_tiffs() -> Iterator[tuple[str, bytes]]:
    page = bytes(512)
    bomb = b"\x78\x9c" + zeros_deflated(1000) + bytes(4)
    yield "a strip of a gigabyte", tiff([bomb] * 2, compression=8)
    yield (
        "a strip of a gigabyte, LZMA",
        tiff([lzma.compress(bytes(90 * MB), preset=0)] * 2, compression=34925),
    )
    yield "pages in a circle", tiff([page] * 300, ring=True)
    yield "a side of any size", tiff([page] * 9, side=0x7FFFFFFF)
    yield "a side of 65535", tiff([page] * 9, side=65535)
    yield "a strip that lies", tiff([page] * 9, count=0x7FFFFFFF)
    yield "unknown compression", tiff([page] * 9, compression=54321)
    yield "no pages", b"II*\0\0\0\0\0"
    yield "a page behind the end", b"II*\0\xff\xff\xff\x7f"
    yield "BigTIFF without pages", b"II+\0\x08\0\0\0" + struct.pack("<Q", 0)
    yield "BigTIFF of many tags", b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1 << 60)
    yield "many tags", b"II*\0\x08\0\0\0\xff\xff" + bytes(100)
    yield "tags of unknown types", b"II*\0\x08\0\0\0" + struct.pack("<H", 3000) + bytes(3000 * 12 + 4)


def hostile_matlab() -> Iterator[tuple[str, bytes]]:
    good = np.ones((2, 2))
    inner = element(14, element(6, struct.pack("<LL", 6, 0)), 1000 * MB)[:16]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(inner) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = b"\x78\x9c" + start + zeros_deflated(1000) + bytes(4)
    yield "a matrix of a gigabyte", matlab(element(15, bomb))
    small = zlib.compress(matrix("a", good)[:8] + bytes(10))
    yield "a matrix that is cut short", matlab(element(15, small))
    yield "compressed twice", matlab(element(15, zlib.compress(element(15, zlib.compress(bytes(1000))))))
    yield "dimensions that lie", matlab(matrix("dp", good, dims=(10**6, 10**6)))
    yield "negative dimensions", matlab(matrix("dp", good, dims=(-1, -4)))
    yield "a cell of any size", matlab(matrix("dp", good, dims=(2**31 - 1,), kind=1))
    yield "a struct of any size", matlab(matrix("dp", good, dims=(2**31 - 1,), kind=2))
    yield "a struct without names", matlab(matrix("dp", good, dims=(1, 1), kind=2))
    yield "a text", matlab(matrix("dp", good, kind=4))
    yield "sparse", matlab(matrix("dp", good, kind=5))
    yield "an element behind the end", matlab(element(14, b"x" * 8, 1 << 31))
    yield "no elements", matlab(b"\0")
    yield "other byte order", b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0XX" + matrix("a", good)
    yield "many elements", matlab(element(1, b"") * 400_000)


def hostile_compressed() -> Iterator[tuple[str, str, bytes]]:
    yield (
        "gzip of a gigabyte",
        "scan.npz.gz",
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + zeros_deflated(300) + bytes(8),
    )
    yield "xz without a stream", "scan.npz.xz", b"\xfd7zXZ\0\0\4" + bytes(40)
    yield "gzip in gzip", "scan.npz.gz", gzip.compress(gzip.compress(b"x"))
    yield "gzip cut short", "scan.npz.gz", gzip.compress(bytes(1000))[:-9]
    yield "many streams", "scan.npz.gz", gzip.compress(b"", 1) * 20_000
