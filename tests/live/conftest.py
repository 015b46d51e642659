"""A scan, and a backend that knows its object, for live reconstructions."""

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference.physics import extract_patches
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training

SIDE, FRAMES = 16, 80


@pytest.fixture(scope="session")
def scan():
    """Whole counts, as a detector writes them."""
    return simulate_star(SIDE, FRAMES, n_photons=1e4, measurement="intensity", seed=1)


class Seer(OracleBackend):
    """An oracle that knows the object of scans that do not bring it along."""

    def __init__(self, known):
        self.known = known
        self.batches = []

    def object_patches(self, model, groups, execution):
        self.batches.append(len(groups))
        centres = groups.group_centres_px[:, 0, :, 0]
        yield (
            slice(0, len(groups)),
            extract_patches(self.known, centres, groups.N).astype(np.complex64)[..., None],
        )


@pytest.fixture
def backend(scan):
    return Seer(scan.object_guess)


@pytest.fixture(scope="session")
def model(scan):
    """An untrained model of single positions."""
    config = TrainingConfig(
        model=ModelConfig(N=SIDE, gridsize=1, architecture="unrolled", n_steps=1, n_filters_scale=1)
    )
    return plan_training(scan, config, "oracle").start


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Pictures of finished scans have tests of their own, and take most of the time."""

    def touch(_, path, *__):
        path.touch()
        return path

    monkeypatch.setattr("ptycho_backends.workflows.images.save_reconstruction_figure", touch)
    monkeypatch.setattr("ptycho_backends.workflows.images.save_passes_figure", touch)


@pytest.fixture
def counts(scan):
    """(M, N, N) uint16."""
    return np.asarray(scan.patterns).astype(np.uint16)


@pytest.fixture
def write_positions(scan):
    """Writes positions of the first frames as text, or adds those of further ones."""

    def write(path, start=0, stop=FRAMES):
        with open(path, "a") as stream:
            if start == 0:
                stream.write("x_px,y_px\n")
            for x, y in scan.scan_positions_px[start:stop]:
                stream.write(f"{float(x)!r},{float(y)!r}\n")

    return write
