"""An image as TIFF, opened with tifffile alone: python open_tiff.py image.tif"""

import json
import sys

import numpy as np
import tifffile


def open_image(path):
    """Object (H, W) complex, `[y, x]`, NaN where nothing is covered; pixel size in metres or None; the metadata."""
    with tifffile.TiffFile(path) as file:
        amplitude, phase = (page.asarray() for page in file.pages)
        first = file.pages[0]
        metadata = json.loads(first.description)
        dots, per = first.tags["XResolution"].value
    pixel_m = None if metadata["pixel_size_m"] is None else 0.01 * per / dots
    return amplitude * np.exp(1j * phase), pixel_m, metadata


if __name__ == "__main__":
    image, pixel_m, metadata = open_image(sys.argv[1])
    print(metadata["licence"], image.shape, pixel_m)
