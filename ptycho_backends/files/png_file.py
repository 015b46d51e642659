"""PNG files of arrays, with texts and a pixel size; no library of pictures is needed."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# Pixels on a metre in a PNG file are 32 bits.
LARGEST_DENSITY = 2**32 - 1
GREY, COLOUR = 0, 2


def png_bytes(
    pixels: NDArray, texts: Mapping[str, str] | None = None, pixel_size_m: float | None = None
) -> bytes:
    """A PNG file.

    Parameters
    ----------
    pixels : (H, W) uint8 or uint16, or (H, W, 3) uint8 array, [y, x]
        Grey, or red, green and blue.
    texts : mapping of str to str, optional
        Text entries; Latin-1.
    pixel_size_m : float, optional
        Written where it is not too small for the format (0.2 nm).
    """
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2") if pixels.dtype.itemsize == 2 else pixels

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    kind = GREY if pixels.ndim == 2 else COLOUR
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, kind, 0, 0, 0))]
    if pixel_size_m is not None and 1 / pixel_size_m <= LARGEST_DENSITY:
        density = round(1 / pixel_size_m)
        parts.append(chunk(b"pHYs", struct.pack(">IIB", density, density, 1)))
    for key, text in (texts or {}).items():
        parts.append(chunk(b"tEXt", key.encode() + b"\0" + text.encode("latin-1", "replace")))
    lines = np.frombuffer(np.ascontiguousarray(rows).tobytes(), np.uint8).reshape(height, -1)
    # each line with its filter: none
    lines = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1)
    parts += [chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
