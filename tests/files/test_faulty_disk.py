"""Every operation of every save fails in turn: the error names the file, and the old one stays whole."""

import dataclasses
import errno
import os

import numpy as np
import pytest
from faulty_disk import FaultyDisk

from ptycho_backends.archive.model_file import save_archive
from ptycho_backends.config import ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.config_file import save_config
from ptycho_backends.errors import OutputError
from ptycho_backends.export.image_hdf5 import save_cxi_image
from ptycho_backends.images.results import save_history, save_reconstruction
from ptycho_backends.refinement.checkpoint import save_state
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.scans.product import save_product
from ptycho_backends.scans.product_scan import product_from_scan
from ptycho_backends.scans.scan_files import export_training_data, save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import EpochRecord, Reconstruction

SCAN = dataclasses.replace(
    simulate_star(16, 9, n_photons=1e5), pixel_size_m=1e-8, photon_energy_eV=8000.0, detector_distance_m=1.0
)
CONFIG = TrainingConfig(
    model=ModelConfig(N=16, architecture="unrolled", n_steps=1), nepochs=1, nphotons=1e5, n_groups=9
)
IMAGE = Reconstruction(
    np.ones((20, 20), np.complex64),
    np.ones((20, 20), np.float32),
    np.zeros(2),
    np.zeros((3, 2)),
    backend="torch",
)
METADATA = {"library": "x", "licence": "y", "config": None, "settings": {}}
# Of the operations of a save; all, where they are fewer.
MOST = 12
SAVES = {
    "a.wts.h5.zip": lambda path: save_archive(plan_training(SCAN, CONFIG, "torch").start, path),
    "image.npz": lambda path: save_reconstruction(IMAGE, path),
    "scan.npz": lambda path: save_scan(SCAN, path),
    "scan.cxi": lambda path: export_training_data(SCAN, path),
    "image.cxi": lambda path: save_cxi_image(IMAGE, path, METADATA),
    "product.h5": lambda path: save_product(product_from_scan(SCAN), path),
    "config.yaml": lambda path: save_config(CONFIG, path),
    "history.csv": lambda path: save_history([EpochRecord(1, 1.0, None, 1e-3, 1.0)], path),
    "state.npz": lambda path: save_state(plan_refinement(None, SCAN, RefinementConfig(passes=1)).state, path),
}


@pytest.mark.parametrize("name", SAVES)
def test_a_save_that_fails_anywhere_leaves_the_old_file_and_says_which(name, tmp_path):
    folder = tmp_path / "run"
    path, save = folder / name, SAVES[name]
    save(path)
    names = sorted(os.listdir(folder))
    with FaultyDisk(folder) as whole:
        save(path)
    assert {operation.partition(" ")[0] for operation in whole.operations} >= {
        "open",
        "write",
        "fsync",
        "replace",
    }
    path.write_bytes(b"the old file")
    count = len(whole.operations)
    for number in sorted({*range(1, count + 1, max(1, count // MOST)), count - 1, count}):
        code = (errno.ENOSPC, errno.EIO)[number % 2]
        with FaultyDisk(folder, number, code), pytest.raises(OutputError) as caught:
            save(path)
        assert name in str(caught.value)
        assert os.strerror(code) in str(caught.value)
        assert path.read_bytes() == b"the old file"
        assert sorted(os.listdir(folder)) == names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the limit is for a child of its own")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
@pytest.mark.parametrize("name", ["scan.cxi", "scan.nxs", "scan.ptyd", "product.h5", "image.cxi"])
def test_hdf5_survives_a_file_that_cannot_grow(name, tmp_path):
    """Without care it ends the process, because it cannot close what it cannot write."""
    import resource

    path = tmp_path / name
    save = SAVES.get(name, lambda path: export_training_data(SCAN, path))
    save(path)
    before = path.read_bytes()
    for limit in range(0, len(before), len(before) // 6):
        process = os.fork()
        if process == 0:
            code = 1
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                save(path)
            except OutputError as error:
                code = 0 if name in str(error) and os.strerror(errno.EFBIG) in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, limit
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [name]
