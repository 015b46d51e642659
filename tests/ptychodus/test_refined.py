"""`PTYCHO_REFINE` refines the images that unmodified Ptychodus gets, through either door."""

import numpy as np
import pytest

DOORS = [("door 1", "Unsupervised", None), ("door 2", "PINN", "torch"), ("door 2", "PINN", "tensorflow")]


@pytest.mark.parametrize(
    ("door", "mode", "framework"), DOORS, ids=["door 1", "door 2, torch", "door 2, tensorflow"]
)
def test_the_variable_refines_what_ptychodus_gets(given, trained, monkeypatch, door, mode, framework):
    record = trained(door, mode, framework)

    def image():
        opened = type(record.door).open(door, mode, framework)
        opened.reconstructor.load_model_from_file(record.saved)
        product, lines = opened.reconstruct(given)
        return product.object_.get_array()[0], lines

    plain, _ = image()
    monkeypatch.setenv("PTYCHO_REFINE", "3")
    refined, lines = image()
    assert refined.shape == plain.shape
    assert np.isfinite(refined).all()
    known = np.abs(plain) > 0
    # after two epochs the network knows next to nothing; three passes change the image throughout
    assert np.linalg.norm((refined - plain)[known]) > 0.05 * np.linalg.norm(plain[known])
    assert any("refined with 3 passes, as PTYCHO_REFINE asks for" in line for line in lines), lines
