"""A small scan as Ptychodus holds it, and its own objects to train and reconstruct with, unmodified.

Ptychodus starts a process for every training and every reconstruction and waits for it without a limit, so
each wait here has one.
"""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptychodus.api import io
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product, ProductMetadata
from ptychodus.api.reconstruct import ReconstructInput, prepare_reconstruct_input
from ptychodus.api.settings import SettingsRegistry
from ptychodus.model.ptychopinn import PtychoPINNReconstructorLibrary
from ptychodus.model.ptychopinn_torch import PtychoPINNTorchReconstructorLibrary

from ptycho_backends.scans.simulate import focused_probe, siemens_star, simulate_scan

N = 64
EPOCHS = 2
PIXEL_M = 8e-9
CENTRE_M = (3e-6, -2e-6)
# For one process; it has to import a framework, on a machine that may be busy.
LIMIT_S = 300

LIBRARIES: dict[str, type] = {
    "door 1": PtychoPINNTorchReconstructorLibrary,
    "door 2": PtychoPINNReconstructorLibrary,
}
FRAMEWORKS = {"torch": ("torch", "lightning"), "tensorflow": ("tensorflow", "keras")}


def positions_px() -> np.ndarray:
    """(30, 2) `[x, y]` of the probe's middle, denser to the upper left, so mean and middle differ."""
    steps = np.array([0, 3, 7, 12, 18, 25], float)
    x, y = np.meshgrid(steps, steps[:5])
    jitter = np.random.default_rng(5).uniform(-0.5, 0.5, (30, 2))
    return np.stack([x.ravel(), y.ravel()], axis=-1) + jitter


def make_input(folder: Path) -> ReconstructInput:
    """The scan, written to and read from Ptychodus's own files."""
    px = positions_px()
    # as Ptychodus sizes an object: the positions' bounding box and one probe around it, the same middle
    height, width = (int(np.ceil(np.ptp(px[:, axis]))) + N for axis in (1, 0))
    px += np.array([(width - 1) / 2, (height - 1) / 2]) - (px.min(axis=0) + px.max(axis=0)) / 2
    target = siemens_star(160)[20 : 20 + height, 20 : 20 + width]
    # Ptychodus says where the middle of the N pixels lies, a Scan where pixel N/2 does
    scan = simulate_scan(target, focused_probe(N), px + 0.5, n_photons=1e5, seed=7)
    counts = scan.patterns.astype(np.float32)  # as some detectors' pipelines leave them
    bad = np.zeros((N, N), bool)
    bad[40, 20] = True
    counts[:, bad] = 65535.0
    second = np.roll(scan.probe_guess, 5, axis=-1)
    modes = np.stack([scan.probe_guess, 0.2 * second]).astype(np.complex128)

    pixel = PixelGeometry(width_m=PIXEL_M, height_m=PIXEL_M)
    centre = ObjectCenter(x_m=CENTRE_M[0], y_m=CENTRE_M[1])
    object_ = Object(target.astype(np.complex128), pixel, centre)
    places = [
        ProbePosition(
            i, CENTRE_M[0] + PIXEL_M * (x - (width - 1) / 2), CENTRE_M[1] + PIXEL_M * (y - (height - 1) / 2)
        )
        for i, (x, y) in enumerate(px)
    ]
    metadata = ProductMetadata("star", "simulated", 2.0, 8000.0, 1e5, 0.1, 0.0, 0.0)
    product = Product(
        metadata, ProbePositionSequence(places), ProbeSequence(modes, None, pixel), object_, losses=[]
    )
    io.save_product(folder / "product.h5", product)
    detector = PixelGeometry(width_m=75e-6, height_m=75e-6)
    data = AssembledDiffractionData(np.arange(len(px)), counts, detector, bad)
    io.save_diffraction_data(folder / "diffraction.h5", data)
    return prepare_reconstruct_input(
        io.load_diffraction_data(folder / "diffraction.h5"), io.load_product(folder / "product.h5")
    )


@contextlib.contextmanager
def limited(seconds: float = LIMIT_S) -> Iterator[None]:
    """Raise `TimeoutError` here after that long; leaving Ptychodus's loop ends its process."""

    def ring(signum: int, frame: types.FrameType | None) -> None:
        raise TimeoutError(f"Ptychodus still waits for its process after {seconds} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def computing_with(framework: str | None) -> Iterator[None]:
    """`PTYCHO_BACKEND` as the children see it."""
    before = os.environ.pop("PTYCHO_BACKEND", None)
    if framework is not None:
        if any(find_spec(module) is None for module in FRAMEWORKS[framework]):
            pytest.skip(f"{framework} is not installed")
        os.environ["PTYCHO_BACKEND"] = framework
    try:
        yield
    finally:
        os.environ.pop("PTYCHO_BACKEND", None)
        if before is not None:
            os.environ["PTYCHO_BACKEND"] = before


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def log_kept() -> Iterator[list[str]]:
    """What the children say at INFO, which is the level of Ptychodus's batch mode."""
    root, handler = logging.getLogger(), _Kept()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@contextlib.contextmanager
def child_of(framework: str | None) -> Iterator[list[str]]:
    """What a process that Ptychodus starts may do: so long, with this framework, leaving nothing here."""
    with tempfile.TemporaryDirectory() as here, contextlib.chdir(here), computing_with(framework):
        with limited(), log_kept() as lines:
            yield lines
        assert os.listdir(here) == [], "written where Ptychodus was started"


@dataclass
class Door:
    """One of Ptychodus's libraries with its stock settings, but for the size and the epochs."""

    library: Any
    reconstructor: Any
    framework: str | None = None

    @classmethod
    def open(cls, name: str, mode: str, framework: str | None = None) -> "Door":
        library = LIBRARIES[name](SettingsRegistry(), False)
        if name == "door 1":
            library.data_settings.model_size.set_value(N)
            library.training_settings.epochs.set_value(EPOCHS)
        else:
            library.training_settings.nepochs.set_value(EPOCHS)
        return cls(library, next(each for each in library if each.name == mode), framework)

    def reconstruct(self, given: ReconstructInput) -> tuple[Product, list[str]]:
        with child_of(self.framework) as lines:
            (output,) = self.reconstructor.reconstruct(given)
        return output.product, lines


@dataclass
class Trained:
    """What Ptychodus has after training: the reconstructor, its losses, its log, the saved model."""

    door: Door
    output: Any
    lines: list[str]
    folder: Path
    saved: Path
    image: Any = None
    """Of the model saved and opened again."""


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> ReconstructInput:
    return make_input(tmp_path_factory.mktemp("scan"))


@pytest.fixture(scope="session")
def trained(
    given: ReconstructInput, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str | None], Trained]:
    """`trained(door, mode, framework)`: export, train, save; each combination once."""
    done: dict[tuple[str, str, str | None], Trained] = {}

    def train(name: str, mode: str, framework: str | None = None) -> Trained:
        key = (name, mode, framework)
        if key not in done:
            folder = tmp_path_factory.mktemp("training")
            door = Door.open(name, mode, framework)
            source, target = folder / "input", folder / "output"
            source.mkdir()
            target.mkdir()
            door.reconstructor.export_training_data(source / "train_data.npz", given)
            if name == "door 2":
                shutil.copyfile(source / "train_data.npz", source / "test_data.npz")
            with child_of(framework) as lines:
                (output,) = door.reconstructor.train(source, target)
            saved = folder / f"saved{door.reconstructor.get_model_file_extension()}"
            door.reconstructor.save_model(saved)
            done[key] = Trained(door, output, lines, target, saved)
        return done[key]

    return train


@pytest.fixture
def refines(given: ReconstructInput, monkeypatch: pytest.MonkeyPatch) -> Callable[[Trained, str, str], None]:
    """`refines(record, name, mode)`: with `PTYCHO_REFINE=3` the image is another one, and the log says so."""

    def both(record: Trained, name: str, mode: str) -> None:
        def image() -> tuple[np.ndarray, list[str]]:
            opened = type(record.door).open(name, mode, record.door.framework)
            opened.reconstructor.load_model_from_file(record.saved)
            product, lines = opened.reconstruct(given)
            return product.object_.get_array(), lines

        if record.image is None:  # where a test runs alone
            record.image, _ = image()
        monkeypatch.setenv("PTYCHO_REFINE", "3")
        refined, lines = image()
        plain = record.image
        assert refined.shape == plain.shape
        assert np.isfinite(refined).all()
        known = np.abs(plain) > 0
        # after two epochs the network knows next to nothing; three passes change the image throughout
        assert np.linalg.norm((refined - plain)[known]) > 0.05 * np.linalg.norm(plain[known])
        assert any("refined with 3 passes, as PTYCHO_REFINE asks for" in line for line in lines), lines

    return both


FIRST_MODES = {"test_door1": "Unsupervised", "test_door2": "PINN"}
"""What a test trains that does not choose."""


def training_of(nodeid: str) -> str:
    """The training run that a test shares with others; its own name where it shares none."""
    door = Path(nodeid.partition("::")[0]).stem
    if door not in FIRST_MODES:
        return nodeid
    _, _, chosen = nodeid.partition("[")
    mode = "Supervised" if chosen.startswith("Supervised") else FIRST_MODES[door]
    return f"{door} {mode} {'tensorflow' if 'tensorflow' in chosen else 'torch'}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share a training run in one process (`--dist loadgroup` has no effect with pytest 9.2)."""
    from xdist.scheduler import LoadScopeScheduling

    class ByTraining(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return training_of(nodeid)

    return ByTraining(config, log)
