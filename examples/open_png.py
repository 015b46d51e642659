"""An image as PNG of 16 bits, opened with Pillow: python open_png.py image.png"""

import json
import sys

import numpy as np
from PIL import Image


def open_image(path):
    """Phase (or amplitude) in its own unit (H, W), `[y, x]`, pixel size in metres or None, and the metadata."""
    with Image.open(path) as picture:
        metadata = json.loads(picture.text["Description"])
        grey = np.asarray(picture).astype(np.float64) / 65535
    low, high = metadata["low"], metadata["high"]
    return low + (high - low) * grey, metadata["pixel_size_m"], metadata


if __name__ == "__main__":
    image, pixel_m, metadata = open_image(sys.argv[1])
    print(metadata["licence"], metadata["page"], image.shape, pixel_m)
