"""An image as CXI or NXcxi_ptycho, opened with h5py alone: python open_cxi.py image.cxi"""

import json
import sys

import h5py


def open_image(path):
    """Object (H, W) complex, `[y, x]`, covered pixels, pixel size in metres or None, and the metadata."""
    with h5py.File(path) as file:
        image = file["entry_1/image_1/data"][()]
        covered = file["entry_1/image_1/mask"][()] == 0
        size = file["entry_1/object"].get("x_pixel_size")
        pixel_m = None if size is None else float(size[()])
        metadata = json.loads(file["entry_1/image_1/process_1/note"].asstr()[()])
    return image, covered, pixel_m, metadata


if __name__ == "__main__":
    image, covered, pixel_m, metadata = open_image(sys.argv[1])
    print(metadata["licence"], image.shape, covered.mean(), pixel_m)
