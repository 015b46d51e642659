"""Patterns that stay on disk give the numbers that patterns in memory give."""

import dataclasses
import zipfile

import numpy as np
import pytest
from torch.utils.data import DataLoader

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import ScanError
from ptycho_backends.files.mapped_npz import mapped_entry
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.memmap_bridge import MemmapDatasetBridge

QUIET = ExecutionConfig(accelerator="cpu", enable_progress_bar=False)


def config(**changes):
    model = ModelConfig(N=64, gridsize=2, n_filters_scale=1)
    return TrainingConfig(model=model, n_groups=10, nepochs=1, batch_size=4, **changes)


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    scan = simulate_star(64, 12, measurement="intensity")
    return save_scan(scan, tmp_path_factory.mktemp("scan") / "scan.npz", compressed=False)


@pytest.mark.parametrize("supervised", [False, True])
def test_batches_are_those_of_memory(path, supervised):
    settings = config()
    settings.model.model_type = "supervised" if supervised else "pinn"
    bridge = MemmapDatasetBridge(path, settings)
    assert is_mapped(bridge.scan.patterns)
    plan = plan_training(load_scan(path), settings, "torch")
    assert len(bridge) == len(plan.groups) == 10
    np.testing.assert_array_equal(bridge.groups.nn_indices, plan.groups.nn_indices)
    want = plan.gather(np.arange(4, 8))
    (_, got, _) = DataLoader(bridge, batch_size=4)
    np.testing.assert_array_equal(got["diffraction"].numpy(), np.moveaxis(want.diffraction_amplitude, -1, 1))
    np.testing.assert_array_equal(got["offsets"].numpy(), np.moveaxis(want.relative_offsets_px[:, 0], -1, 1))
    assert ("patches_truth" in got) == supervised
    assert got["diffraction"].shape == (4, 4, 64, 64)
    np.testing.assert_array_equal(
        bridge.batch(slice(4, 8))["diffraction"].numpy(), got["diffraction"].numpy()
    )
    np.testing.assert_array_equal(bridge.raw_data.diff3d, load_scan(path).patterns)
    with pytest.raises(IndexError, match="group 10 of 10"):
        bridge[10]


def test_training_from_disk_is_training_from_memory(path):
    backend = TorchBackend()
    mapped = backend.train(MemmapDatasetBridge(path, config()).groups, config(), execution=QUIET)
    loaded = backend.train(load_scan(path), config(), execution=QUIET)
    for name, value in loaded.weights.items():
        np.testing.assert_array_equal(mapped.weights[name], value)
    assert mapped.history[0].train_loss == loaded.history[0].train_loss


def test_the_data_module_gathers_from_disk(path):
    module = MemmapDatasetBridge(path, config()).data_module(QUIET)
    batches = list(module.train_dataloader())
    want = plan_training(load_scan(path), config(), "torch")
    first = want.gather(want.epoch_batches(1)[0]).diffraction_amplitude
    np.testing.assert_array_equal(batches[0]["diffraction"].numpy(), np.moveaxis(first, -1, 1))


def test_a_real_scan_in_its_compressed_file(shared, tmp_path):
    star = shared / "data" / "siemens_star_64.npz"
    with pytest.raises(ScanError, match="diff3d is compressed, so it cannot be mapped"):
        MemmapDatasetBridge(star, config())
    bridge = MemmapDatasetBridge(star, config(), tmp_path / "memmap")
    assert is_mapped(bridge.scan.patterns)
    assert bridge.scan.patterns.dtype == np.uint16
    assert bridge.scan.measurement == "intensity"
    (copy,) = (tmp_path / "memmap").iterdir()
    written = copy.stat().st_mtime_ns
    again = MemmapDatasetBridge(star, config(), tmp_path / "memmap")
    assert copy.stat().st_mtime_ns == written
    want = plan_training(load_scan(star), config(), "torch").gather(np.arange(3))
    np.testing.assert_array_equal(
        again.batch(np.arange(3))["diffraction"].numpy(), np.moveaxis(want.diffraction_amplitude, -1, 1)
    )


def test_what_cannot_be_mapped_is_told(path, tmp_path):
    with pytest.raises(ScanError, match="nothing missing"):
        mapped_entry(path, "nothing")
    with pytest.raises(ScanError, match="cannot be read"):
        load_scan(tmp_path / "train.h5", mapped=True)
    np.savez(tmp_path / "objects.npz", diff3d=np.array([{}], dtype=object))
    with pytest.raises(ScanError, match="holds objects"):
        mapped_entry(tmp_path / "objects.npz", "diff3d")
    short = tmp_path / "short.npz"
    with zipfile.ZipFile(short, "w") as archive:
        archive.writestr("diff3d.npy", b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, "
                         b"'shape': (1000000, 64, 64), }".ljust(117) + b"\n")  # fmt: skip
    with pytest.raises(ScanError, match="claims float64 of shape"):
        mapped_entry(short, "diff3d")
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ScanError, match=r"damaged\.npz"):
        load_scan(damaged, mapped=True)


def test_every_order_and_dtype_is_mapped(tmp_path):
    for array in (
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.arange(6, dtype=">u2"),
        np.empty((0, 3)),
    ):
        np.savez(tmp_path / "x.npz", data=array)
        got = mapped_entry(tmp_path / "x.npz", "data")
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype
        assert is_mapped(got) or got.size == 0
    assert not dataclasses.is_dataclass(got)
