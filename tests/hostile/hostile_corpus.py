"""Hostile and damaged files, generated: for each a name, the file's name, its bytes, and the function that reads it.

`python hostile_corpus.py FOLDER` reads all of them with an audit hook, and writes what happened as JSON.
"""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hdf5plugin  # noqa: F401 - so that it is there before the hook
from hostile_archives import HARMLESS, both, hostile_json, hostile_zips, pickles
from hostile_checkpoints import hostile_checkpoints
from hostile_hdf5 import hostile_hdf5, hostile_products
from hostile_images import hostile_compressed, hostile_matlab, hostile_tiffs
from hostile_numpy import hostile_npy, hostile_scans_npz
from hostile_parts import Case, Entry, zipped
from hostile_seeds import seeds
from hostile_text import hostile_tables, hostile_yaml

from ptycho_backends.config_file import load_config
from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.scans.product import load_product
from ptycho_backends.scans.readers.positions import positions_of_file
from ptycho_backends.scans.scan_files import load_scan


def damaged(seed: Case, count: int) -> Iterator[Case]:
    """Single bits flipped, bytes replaced, parts cut out or doubled."""
    draw = random.Random(f"{seed.file} 1")
    size = len(seed.data)
    for number in range(count):
        data, place = bytearray(seed.data), draw.randrange(size)
        kind = ("bit", "bytes", "cut", "without", "twice")[number % 5]
        if kind == "bit":
            data[place] ^= 1 << draw.randrange(8)
        elif kind == "bytes":
            data[place : place + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
        elif kind == "cut":
            del data[place:]
        elif kind == "without":
            del data[place : place + draw.randrange(1, 200)]
        else:
            data[place:place] = data[place : place + 200]
        yield replace(seed, name=f"{kind} {number}", data=bytes(data[: 2 * size]), loads=None)


def corpus(folder: Path) -> Iterator[Case]:
    """All cases; `folder` takes the seeds."""
    whole = seeds(folder)
    archive, in_pixels = whole["model.zip"], whole["scan.mat"].read
    yield from whole.values()
    for seed in whole.values():
        # a single bit in the structure of an HDF5 file without checksums may crash the C library (1.14.6) itself
        if seed.form != "HDF5":
            yield from damaged(seed, 15)
    for name, data in hostile_zips(archive):
        yield Case("zip", name, "hostile.zip", data, both, loads=False)
    for name, data in hostile_json(archive):
        yield Case("JSON", name, "hostile.zip", data, both, loads=name in HARMLESS)
    files = ("model.keras", "params.dill", "custom_objects.dill", "model.h5")
    others = [Entry(f"autoencoder/{file}", b"x") for file in files]
    for name, data in pickles():
        yield Case(
            "pickle", name, "hostile.zip", zipped(Entry("manifest.dill", data), *others), both, loads=False
        )
    for name, data in hostile_checkpoints():
        loads = None if name == "version" else False
        yield Case("ckpt", name, "hostile.ckpt", data, both, loads=loads)
    for name, data, loads in hostile_scans_npz():
        yield Case("NPZ", name, "hostile.npz", data, load_scan, loads)
    for name, data in hostile_npy():
        yield Case("NPY", name, "hostile.npy", data, positions_of_file, loads=False)
    for name, data, loads in hostile_hdf5():
        yield Case("HDF5", name, "hostile.h5", data, load_scan, loads)
    for name, data in hostile_products():
        yield Case("product", name, "hostile_product.h5", data, load_product, loads=False)
    for name, data in hostile_yaml():
        yield Case("YAML", name, "hostile.yaml", data, load_config)
    for name, data in hostile_tables():
        yield Case("CSV", name, "hostile.csv", data, positions_of_file)
    for name, data in hostile_tiffs():
        yield Case("TIFF", name, "hostile.tif", data, in_pixels, loads=False)
    for name, data in hostile_matlab():
        yield Case("MATLAB", name, "hostile.mat", data, in_pixels, loads=False)
    for name, file, data in hostile_compressed():
        yield Case("compressed", name, file, data, load_scan, loads=False)


if __name__ == "__main__":
    # beside this file, which is run as a program so that the hook sees nothing of the tests
    from hostile_run import run

    from ptycho_backends.scans.readers import ptychodus_plugins

    # where it is installed, its readers try what ours refuse: others' code
    ptychodus_plugins.is_installed = lambda: False
    sys.stdout.write(json.dumps(run(corpus, Path(sys.argv[1]), PtychoBackendsError)) + "\n")
