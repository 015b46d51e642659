"""Unmodified Ptychodus drives its PtychoPINN-Torch library, which finds our `ptycho_torch`."""

import numpy as np
import pytest
from ptychodus.api.io import load_product, save_product

from ptycho_backends.registry import get_backend


@pytest.mark.parametrize("mode", ["Unsupervised", "Supervised"])
def test_train_save_open_reconstruct(given, trained, tmp_path, mode):
    record = trained("door 1", mode)
    for losses in (record.output.training_loss, record.output.validation_loss):
        assert [loss.epoch for loss in losses] == [0, 1]
        assert np.isfinite([loss.value for loss in losses]).all()
    assert record.output.progress == 2
    assert record.saved.is_file()
    assert list(record.folder.rglob("*.ckpt"))
    assert not list(record.folder.rglob("*.npz"))
    # both modes that Ptychodus hands over
    assert get_backend("torch").load(next(record.folder.rglob("*.ckpt"))).probe_modes.shape[0] == 2

    # the copy alone, as on another machine
    door = type(record.door).open("door 1", mode)
    door.reconstructor.load_model_from_file(record.saved)
    product, _ = door.reconstruct(given)
    image = record.image = product.object_.get_array()
    assert type(image) is np.ndarray
    assert image.dtype.kind == "c"
    assert np.isfinite(image).all()
    assert len(image) == 1
    assert np.ptp(np.abs(image)) > 0
    source = given.product.object_
    assert product.object_.get_center() == source.get_center()
    # no smaller than what the positions span, 25 x 18 pixels
    assert image.shape[1] >= 18
    assert image.shape[2] >= 25

    path = tmp_path / "result.h5"
    save_product(path, product)
    again = load_product(path)
    np.testing.assert_array_equal(again.object_.get_array(), image)
    np.testing.assert_array_equal(again.probes.get_array(), given.product.probes.get_array())


def test_the_variable_refines_what_ptychodus_gets(trained, refines):
    refines(trained("door 1", "Unsupervised"), "door 1", "Unsupervised")
