"""Unmodified Ptychodus drives its PtychoPINN library, which finds our `ptycho`, on either framework."""

import re
from pathlib import Path

import numpy as np
import pytest
from ptychodus.api.io import load_product, save_product
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.processing._subprocess_protocol import ChildError
from ptychodus.model.ptychopinn import PtychoPINNReconstructorLibrary

from ptycho_backends.archive.model_file import inspect_archive

MODES = ["PINN", "Supervised"]
FRAMEWORKS = ["torch", "tensorflow"]
ALL = 30


def opened(record, framework, *, samples=ALL, mode="PINN"):
    """Another Ptychodus that opens what was saved."""
    door = type(record.door).open("door 2", mode, framework)
    door.library.inference_settings.n_samples.set_value(samples)
    door.reconstructor.load_model_from_file(record.saved)
    return door


def middle_of_lit(image):
    lit = np.abs(image) > 0
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("mode", MODES)
def test_train_save_open_reconstruct(given, trained, tmp_path, mode, framework):
    record = trained("door 2", mode, framework)
    assert any(f"with {framework}" in line for line in record.lines)
    assert any("written by Ptychodus, so its patterns are counts" in line for line in record.lines)
    assert sum(line.startswith("epoch ") for line in record.lines) == 2
    written = {path.name for path in record.folder.iterdir()}
    assert {"wts.h5.zip", "reconstruction.npy", "reconstruction.png", "history.csv"} <= written
    # Ptychodus takes every NPZ file in a folder for a scan to train on
    assert not list(record.folder.rglob("*.npz"))
    summary = inspect_archive(record.saved)
    assert (summary.whole, summary.backend, summary.epochs) == (True, framework, 2)
    assert summary.config.model.model_type == mode.lower()
    # both modes that Ptychodus hands over
    assert summary.config.model.n_probe_modes == 2
    # both are stock settings of Ptychodus; n_groups is not among them, and no position is left out
    assert (summary.config.nphotons, summary.config.n_groups) == (1e6, ALL)

    product, lines = opened(record, framework, mode=mode).reconstruct(given)
    image = record.image = product.object_.get_array()
    assert image.dtype.kind == "c"
    assert type(image) is np.ndarray
    assert np.isfinite(image).all()
    assert (len(image), np.ptp(np.abs(image)) > 0) == (1, True)
    # it is shown where the input's object is: the same centre, and that in the middle of the scan
    source = given.product.object_
    assert (product.object_.get_center(), product.object_.get_pixel_geometry()) == (
        source.get_center(),
        source.get_pixel_geometry(),
    )
    _, height, width = image.shape
    np.testing.assert_allclose(middle_of_lit(image[0]), ((height - 1) / 2, (width - 1) / 2), atol=1)
    assert image.shape == source.get_array().shape
    assert any("stack of probe modes are taken for counts" in line for line in lines)
    assert len(lines) < 10, "chatter of others hides what the user should read"

    path = tmp_path / "result.h5"
    save_product(path, product)
    again = load_product(path)
    np.testing.assert_array_equal(again.object_.get_array(), image)
    np.testing.assert_array_equal(again.probes.get_array(), given.product.probes.get_array())
    assert again.metadata == given.product.metadata


def test_the_page_names_every_setting():
    registry = SettingsRegistry()
    PtychoPINNReconstructorLibrary(registry, False)
    ours = [name for name in registry if name.startswith("PtychoPINN")]
    offered = {(name, key) for name in ours for key in registry[name].parameters()}
    page = (Path(__file__).resolve().parents[2] / "docs" / "ptychodus.md").read_text()
    assert set(re.findall(r"^\| `(PtychoPINN\w+)` \| `(\w+)` \|", page, re.MULTILINE)) == offered


def test_a_model_from_torch_reconstructs_on_tensorflow(given, trained):
    record = trained("door 2", "PINN", "torch")
    if record.image is None:  # where this test runs alone
        record.image = opened(record, "torch").reconstruct(given)[0].object_.get_array()
    product, _ = opened(record, "tensorflow").reconstruct(given)
    other = product.object_.get_array()
    assert np.abs(record.image - other).max() <= 1e-4 * np.abs(record.image).max()


def test_without_saving_and_with_the_stock_number_of_samples(given, trained):
    record = trained("door 2", "PINN", "torch")
    product, _ = record.door.reconstruct(given)
    image = product.object_.get_array()
    assert np.isfinite(image).all()
    # one patch of 20 pixels, spread over one more by its fraction of a pixel
    lit = np.abs(image[0]) > 0
    assert 20 <= lit.any(axis=0).sum() <= 21
    assert product.object_.get_center() == given.product.object_.get_center()


def test_errors_reach_ptychodus_as_one_message(given, trained):
    record = trained("door 2", "PINN", "torch")
    door = opened(record, "torch")
    door.library.model_settings.gridsize.set_value(2)
    door.library.inference_settings.n_samples.set_value(5)
    with pytest.raises(ChildError, match="set GridSize to 1"):
        door.reconstruct(given)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_variable_refines_what_ptychodus_gets(trained, refines, framework):
    refines(trained("door 2", "PINN", framework), "door 2", "PINN")
