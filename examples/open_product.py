"""A Ptychodus product, opened with h5py alone: python open_product.py product.h5"""

import json
import sys
from pathlib import Path

import h5py


def open_image(path):
    """Object (H, W) complex, `[y, x]`, pixel size in metres, probe, and the metadata in the file beside it."""
    with h5py.File(path) as file:
        image, probe = file["object"][()], file["probe"][()]
        pixel_m = float(file["object"].attrs["pixel_width_m"])
    image = image[0] if image.ndim == 3 else image
    return image, pixel_m, probe, json.loads(Path(f"{path}.metadata.json").read_text())


if __name__ == "__main__":
    image, pixel_m, probe, metadata = open_image(sys.argv[1])
    print(metadata["licence"], image.shape, f"{pixel_m * 1e9:.3g} nm", probe.shape)
