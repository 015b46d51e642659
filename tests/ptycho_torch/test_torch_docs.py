"""The examples of the pages on PtychoPINN and Ptychodus work as described."""

import dataclasses
import re
from importlib import import_module
from pathlib import Path

import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.files.datasets_hdf5 import write_datasets
from ptycho_backends.scans.product import load_product, save_product
from ptycho_backends.scans.product_scan import product_from_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import new_model
from ptycho_torch.backend.backend import TorchBackend

DOCS = Path(__file__).resolve().parents[2] / "docs"


def python_of(page):
    (example,) = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return example


def old_names():
    table = (DOCS / "coming-from-ptychopinn.md").read_text().partition("Where the old names live")[2]
    return re.findall(r"^\|.*\| `((?:ptycho_backends|ptycho_torch)[\w.]+)`", table, re.MULTILINE)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """An archive of an untrained model in the current folder, and the scan it is for."""
    monkeypatch.chdir(tmp_path)
    scan = dataclasses.replace(
        simulate_star(64, 6), pixel_size_m=2e-8, photon_energy_eV=8000.0, detector_distance_m=1.5
    )
    config = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), nphotons=1e5)
    new = new_model(scan, TorchBackend().complete_config(config, scan), "torch")
    for place in ("theirs/wts.h5.zip", "run"):
        TorchBackend().save(new, place)
    return scan


def test_the_old_names_are_listed():
    assert len(old_names()) > 8


@pytest.mark.parametrize("name", old_names())
def test_an_old_name_lives_where_the_page_says(name):
    try:
        import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute)


def test_models_go_in_and_out_as_the_page_shows(model):
    exec(python_of("moving-a-model.md"), {})
    for written in ("mine/wts.h5.zip", "back/wts.h5.zip"):
        again = TorchBackend().load(written)
        assert again.config.model.N == 64


def test_products_go_in_and_out_as_the_page_shows(model):
    save_product(product_from_scan(model), "product.h5")
    write_datasets(
        "diffraction.h5",
        {"patterns": model.patterns, "indexes": model.scan_index, "bad_pixels": model.patterns[0] < 0},
        {"patterns": {"detector_pixel_width_m": 75e-6, "detector_pixel_height_m": 75e-6}},
        compression="lzf",
    )
    namespace = {}
    exec(python_of("product.md"), namespace)
    written = load_product("reconstructed.h5")
    assert written.object.shape[1:] == namespace["image"].object.shape
    assert (written.scan_positions_m == namespace["given"].scan_positions_m).all()
