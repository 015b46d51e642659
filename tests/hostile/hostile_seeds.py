"""A whole file of each kind, which loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_archives import both
from hostile_checkpoints import checkpoint, checkpoint_content
from hostile_images import matlab, tiff
from hostile_parts import Case, model, npy, npz, scan

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.config import TrainingConfig
from ptycho_backends.config_file import load_config, save_config
from ptycho_backends.images.results import load_reconstruction, save_reconstruction
from ptycho_backends.scans.product import Product, ProductMetadata, load_product, save_product
from ptycho_backends.scans.readers.positions import positions_of_file
from ptycho_backends.scans.scan_files import export_training_data, load_scan
from ptycho_backends.values import Reconstruction


def seeds(folder: Path) -> dict[str, Case]:
    """A whole file of each kind, by a short name."""
    found: dict[str, Case] = {}

    def add(form: str, file: str, read: Callable[[Path], Any]) -> None:
        found[file] = Case(form, "whole", file, (folder / file).read_bytes(), read, loads=True)

    save_archive(model(), folder / "model.zip")
    add("zip", "model.zip", both)
    (folder / "model.ckpt").write_bytes(checkpoint(checkpoint_content()))
    add("ckpt", "model.ckpt", both)
    for file in ("scan.npz", "scan.h5", "scan.cxi", "scan.nxs", "scan.ptyd"):
        export_training_data(scan(), folder / file)
        add("NPZ" if file == "scan.npz" else "HDF5", file, load_scan)
    export_training_data(scan(), folder / "plain.npz", compressed=False)
    add("NPZ", "plain.npz", lambda path: load_scan(path, mapped=True))
    product = Product(
        ProductMetadata(1.0, 8000.0, name="x"), np.zeros((4, 2)), np.ones((32, 32), np.complex64), np.zeros(2),
        np.full(2, 1e-8), np.ones((16, 16), np.complex64),
    )  # fmt: skip
    save_product(product, folder / "product.h5")
    add("product", "product.h5", load_product)
    image = Reconstruction(
        np.ones((20, 20), np.complex64), np.ones((20, 20), np.float32), np.zeros(2), np.zeros((3, 2)),
        backend="torch",
    )  # fmt: skip
    save_reconstruction(image, folder / "image.npz")
    add("NPZ", "image.npz", load_reconstruction)
    save_config(TrainingConfig(), folder / "config.yaml")
    add("YAML", "config.yaml", load_config)
    (folder / "positions.csv").write_text("x_um,y_um\n" + "".join(f"{n / 7},{n * 2}\n" for n in range(40)))
    add("CSV", "positions.csv", positions_of_file)
    (folder / "xy.npy").write_bytes(npy(np.arange(20.0).reshape(10, 2)))
    add("NPY", "xy.npy", positions_of_file)
    (folder / "frames").mkdir(exist_ok=True)
    with_positions = "frames/scan.{}"
    (folder / "frames" / "scan.csv").write_text("x,y\n" + "".join(f"{n},{n}\n" for n in range(9)))
    (folder / "frames" / "scan.tif").write_bytes(tiff([bytes(range(256)) * 2] * 9))
    from ptycho_backends.scans.scan_options import ScanOptions

    options = ScanOptions(positions_unit="px")

    def in_pixels(path: Path) -> Any:
        return load_scan(path, options=options)

    add("TIFF", with_positions.format("tif"), in_pixels)
    (folder / "scan.mat").write_bytes(matlab())
    add("MATLAB", "scan.mat", in_pixels)
    tike = {
        "data": npy(scan().patterns[None].astype(np.float32)),
        "scan": npy(np.ones((1, 9, 2), np.float32)),
    }
    (folder / "tike.npz").write_bytes(npz(tike))
    add("NPZ", "tike.npz", load_scan)
    return found
