"""Quality of every architecture and of refinement side by side: writes quality.md and its pictures.

    python benchmarks/quality.py [--seconds S] [--times T...] [--prior MODEL] [--gridsize G]
        [--backends torch tensorflow] [--output docs] [--quick | --text]

Every network is trained within S seconds (default 240) on one scan and reconstructs another one, group by group.
Seconds are those of the processor, so that other work on the machine does not count: give one thread to everything.
All figures are in `quality/quality.json` as well, from which `--text` writes the page anew. `--quick` measures small
parts of scans within about a minute, to test this program. The scans are those of the folder that PTYCHO_SHARED names
(default ../shared). pty-chi takes part where it is installed (`pip install --group ptychi`).
"""

# ruff: noqa: T201 - this is a program
import argparse
import contextlib
import dataclasses
import json
import logging
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from quality_page import Row, draw_curves, draw_phases, draw_rings, page

from ptycho_backends import (
    ExecutionConfig,
    ModelConfig,
    Scan,
    TrainingConfig,
    compare,
    get_backend,
    load_scan,
)
from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.images.frc import half_scans, ring_correlation_of_halves
from ptycho_backends.images.metrics import align
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import installed_backends
from ptycho_backends.scans.simulate import simulate_scan
from ptycho_backends.testing.parity import versions
from ptycho_backends.training.plan import inference_groups, plan_training
from ptycho_backends.values import Reconstruction, TrainedModel

REPOSITORY = Path(__file__).resolve().parents[1]
PAIRS = (
    ("sim_n64_train", "sim_n64_test"),
    ("siemens_star_64", "siemens_star_64"),
    ("siemens_n64_train", "siemens_n64_test"),
    ("sim_n128_train", "sim_n128_test"),
)
"""Scan that trains, scan that is reconstructed."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "cnn": {"gridsize": 1, "n_filters_scale": 1},
    "attention": {"gridsize": 1, "n_filters_scale": 1, "cbam_encoder": True},
    "unrolled": {"n_filters_scale": 1},
}
"""Settings of each network; `--gridsize` is that of `unrolled`."""

BATCH = 16
# Part of the time that the schedule of a training is planned for; the rest is for planning and for a busy machine.
PLANNED = 0.9
# Pixels of each side of a picture, in the middle of the scan.
PICTURE_PX = 130
# Of the noise and of the positions of simulated scans.
SEED = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Effort:
    """Everything that `--quick` makes smaller."""

    pairs: tuple[tuple[str, str], ...] = PAIRS
    photons: tuple[float, ...] = (1e3, 1e4, 1e6)
    steps_px: tuple[float, ...] = (6.0, 9.0, 13.0, 18.0)
    times_s: tuple[float, ...] = (0.0, 15.0, 60.0, 240.0)
    seconds: float = 240.0
    patterns: int | None = None
    """At most so many, around the middle of each scan."""
    calls: int = 2
    """Of which the last one is timed, because the first one may compile."""


QUICK = Effort(PAIRS[:1], (1e3, 1e5), (9.0,), (0.0, 2.0), 2.0, 60, 1)


class Quality:
    """All measurements of one run.

    Parameters
    ----------
    shared : Path
        Folder whose `data/` has the scans.
    effort : Effort
    gridsize : int
        Of the network `unrolled`.
    prior : TrainedModel, optional
        Of the architecture `unrolled`; its correction is measured beside plain refinement.
    backends : tuple of str
        The first one trains all networks, the others `unrolled` alone.
    """

    def __init__(
        self,
        shared: Path,
        effort: Effort,
        gridsize: int,
        prior: TrainedModel | None,
        backends: tuple[str, ...],
    ) -> None:
        self._shared, self._effort, self._prior = shared, effort, prior
        self._networks = {name: dict(fields) for name, fields in ARCHITECTURES.items()}
        self._networks["unrolled"]["gridsize"] = gridsize
        self._backends = {name: get_backend(name) for name in backends}
        self._first = self._backends[backends[0]]

    def scan(self, name: str) -> Scan:
        """The scan `name`, or its middle."""
        scan = load_scan(self._shared / "data" / f"{name}.npz")
        count = self._effort.patterns
        if count is None or len(scan) <= count:
            return scan
        positions = scan.scan_positions_px
        distance = np.abs(positions - middle_of(positions)).max(axis=1)
        return scan.part(np.sort(np.argsort(distance, kind="stable")[:count]))

    # --- the four measurements

    def pair(self, train: str, test: str) -> tuple[list[Row], dict[str, NDArray], list[Row]]:
        """Figures of all methods, phases to draw, and ring correlations of some methods."""
        learnt_from, scan = self.scan(train), self.scan(test)
        rows, images, ways = [], {}, {}
        for name, backend in self._backends.items():
            image, seconds = self._timed(lambda backend=backend: backend.refine(None, scan, execution=CPU))
            rows.append(row("refinement alone", name, image, scan, infer_s=seconds))
            images.setdefault("refinement alone", image)
        ways["refinement alone"] = lambda part: self._first.refine(None, part, execution=CPU)
        for architecture in self._networks:
            for name, backend in self._backends.items():
                if architecture != "unrolled" and backend is not self._first:
                    continue
                model, train_s = self.trained(architecture, backend, learnt_from, self._effort.seconds)
                found = list(self._of_model(architecture, name, model, scan))
                rows += [one | {"train_s": train_s} for one, _ in found]
                images.setdefault(architecture, found[0][1])
                if architecture == "unrolled" and backend is self._first:
                    ways[architecture] = group_by_group(backend, model)
        if self._prior is not None:
            rows += [one for one, _ in self._of_prior(scan)]
            ways["refinement with the prior"] = self._with_prior
            images["refinement with the prior"] = self._with_prior(scan)
        rows += of_ptychi(scan)
        pictures = phases(images, scan)
        rings = [one for method, way in ways.items() if (one := ring(method, way, scan)) is not None]
        return [one | {"scan": test, "trained_on": train} for one in rows], pictures, [
            one | {"scan": test} for one in rings
        ]  # fmt: skip

    def dose_and_step(self, test: str) -> tuple[list[Row], dict[str, dict[str, NDArray]]]:
        """Plain refinement, and that with the prior, of simulated scans of the object and with the probe of `test`."""
        pattern = self.scan(test)
        rows: list[Row] = []
        pictures: dict[str, dict[str, NDArray]] = {}
        for photons in self._effort.photons:
            for step_px in self._effort.steps_px:
                scan = resampled(pattern, photons, step_px)
                where: Row = {"photons": photons, "step_px": step_px, "patterns": len(scan)}
                plain = self._first.refine(None, scan, execution=CPU)
                images = {"refinement alone": plain}
                if self._prior is not None:
                    images["refinement with the prior"] = self._with_prior(scan)
                rows += [row(name, self._first.name, image, scan) | where for name, image in images.items()]
                for name, phase in phases(images, scan).items():
                    pictures.setdefault(name, {})[f"{photons:g} photons, {step_px:g} px"] = phase
        return rows, pictures

    def training_time(self, train: str, test: str) -> list[Row]:
        """The network `unrolled` after trainings of several lengths, each with a whole schedule."""
        learnt_from, scan = self.scan(train), self.scan(test)
        rows = []
        for seconds in self._effort.times_s:
            model, train_s = self.trained("unrolled", self._first, learnt_from, seconds)
            image = group_by_group(self._first, model)(scan)
            found = row("unrolled", self._first.name, image, scan)
            rows.append(found | {"limit_s": seconds, "train_s": train_s, "scan": test, "trained_on": train})
        return rows

    # --- parts of them

    def _timed(self, compute: Callable[[], T]) -> tuple[T, float]:
        """The result of the last call, and its seconds."""
        for _ in range(self._effort.calls):
            started = time.process_time()
            result = compute()
        return result, time.process_time() - started

    def trained(
        self, architecture: str, backend: Backend, scan: Scan, seconds: float
    ) -> tuple[TrainedModel, float]:
        """A model that was trained for so many seconds at most, and the seconds; 0 leaves the first weights."""
        model = ModelConfig(N=0, architecture=architecture, **self._networks[architecture])
        config = TrainingConfig(
            model=model, batch_size=BATCH, resample_groups=model.gridsize > 1, backend=backend.name
        )
        if seconds == 0:
            return plan_training(scan, config, backend.name).start, 0.0
        times_s: list[float] = []
        few = min(len(scan), 4 * BATCH)
        trial = dataclasses.replace(config, nepochs=2, n_groups=few, resample_groups=False)
        backend.train(scan, trial, execution=CPU, on_epoch=lambda _: times_s.append(time.process_time()))
        groups = PLANNED * seconds / max(times_s[-1] - times_s[-2], 1e-3) * few
        in_an_epoch = int(np.clip(groups, 2, len(scan)))
        epochs = max(1, round(groups / in_an_epoch))
        config = dataclasses.replace(config, nepochs=epochs, n_groups=in_an_epoch)
        started = time.process_time()
        with ended_after(seconds):
            trained = backend.train(scan, config, execution=CPU)
        return trained, time.process_time() - started

    def _of_model(
        self, architecture: str, name: str, model: TrainedModel, scan: Scan
    ) -> Iterator[tuple[Row, Reconstruction]]:
        backend = self._backends[name]
        image, seconds = self._timed(lambda: group_by_group(backend, model)(scan))
        yield row(architecture, name, image, scan, infer_s=seconds), image
        refined, more = self._timed(lambda: backend.refine(image, scan, execution=CPU))
        yield row(f"{architecture}, refined", name, refined, scan, infer_s=seconds + more), refined
        if architecture == "unrolled":
            corrected, seconds = self._timed(lambda: backend.refine(None, scan, execution=CPU, model=model))
            yield row("refinement with its correction", name, corrected, scan, infer_s=seconds), corrected

    def _of_prior(self, scan: Scan) -> Iterator[tuple[Row, Reconstruction]]:
        assert self._prior is not None
        name = self._first.name
        image, seconds = self._timed(lambda: self._with_prior(scan))
        yield row("refinement with the prior", name, image, scan, infer_s=seconds), image
        if self._prior.config.model.N == scan.N:
            image, seconds = self._timed(lambda: group_by_group(self._first, self._prior)(scan))
            yield row("the prior, group by group", name, image, scan, infer_s=seconds), image

    def _with_prior(self, scan: Scan) -> Reconstruction:
        return self._first.refine(None, scan, execution=CPU, model=self._prior)


CPU = ExecutionConfig(
    accelerator="cpu",
    enable_progress_bar=False,
    enable_checkpointing=False,
    logger_backend=None,
    scheduler="OneCycle",
)


def group_by_group(backend: Backend, model: TrainedModel) -> Callable[[Scan], Reconstruction]:
    """The way from a scan to its image through the patches of groups."""
    return lambda scan: backend.infer(model, inference_groups(model, scan), execution=CPU)


def middle_of(positions_px: NDArray) -> NDArray[np.float64]:
    """(2,) `[x, y]`, the middle of their bounding box."""
    return (positions_px.min(axis=0) + positions_px.max(axis=0)) / 2


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """End a training as Ctrl-C does, after the current step, when the processor has spent that time on it."""
    done = threading.Event()
    end_s = time.process_time() + seconds

    def end() -> None:
        # Ctrl-C means an end after the step only while the training listens
        while not done.wait(0.02):
            if time.process_time() < end_s:
                continue
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                signal.raise_signal(signal.SIGINT)
                return

    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def row(method: str, backend: str, image: Reconstruction, scan: Scan, **seconds: float) -> Row:
    """The figures of an image, without its ramp."""
    metrics = compare(image, scan)
    return {
        "method": method,
        "backend": backend,
        # a flat phase correlates with nothing
        "phase_correlation": float(np.nan_to_num(metrics.phase_correlation_ramp_removed)),
        "phase_ssim": metrics.phase_ssim_ramp_removed,
        "amplitude_ssim": metrics.amplitude_ssim_ramp_removed,
        "amplitude_psnr_db": metrics.amplitude_psnr_db,
        "phase_contrast": metrics.phase_contrast,
        "corrected": image.corrected,
        **seconds,
    }


def of_ptychi(scan: Scan) -> list[Row]:
    """The row of pty-chi's LSQML after 60 epochs of compact batches; none where pty-chi is not installed."""
    if find_spec("ptychi") is None:
        return []
    started = time.process_time()
    *_, (_, _, image) = import_module("refinement").ptychi(scan, 1, "cpu", True)
    seconds = time.process_time() - started
    return [row("pty-chi LSQML, 60 epochs", "torch", image, scan, infer_s=seconds)]


def ring(method: str, way: Callable[[Scan], Reconstruction], scan: Scan) -> Row | None:
    """Fourier ring correlation of the images of two half scans."""
    found = ring_correlation_of_halves(*(way(half) for half in half_scans(scan)))
    return {
        "method": method,
        "frequency": found.frequency.tolist(),
        "correlation": found.correlation.tolist(),
        "half_bit": found.half_bit.tolist(),
        "resolution_px": found.resolution_px,
    }


def resampled(pattern: Scan, photons: float, step_px: float) -> Scan:
    """A simulated scan of the same field, object and probe on a jittered raster."""
    assert pattern.object_guess is not None
    assert pattern.probe_modes is not None
    least, largest = pattern.scan_positions_px.min(axis=0), pattern.scan_positions_px.max(axis=0)
    across, down = (max(2, math.floor(side / step_px) + 1) for side in largest - least)
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(down)), axis=-1).reshape(-1, 2) * step_px
    jitter = np.random.default_rng(SEED).uniform(-0.2, 0.2, grid.shape) * step_px
    positions = np.clip(
        grid - grid.max(axis=0) / 2 + middle_of(pattern.scan_positions_px) + jitter, least, largest
    )
    return simulate_scan(
        pattern.object_guess, pattern.probe_modes, positions, photons, SEED,
        name=f"{pattern.name} at {photons:g} photons, {step_px:g} px",
    )  # fmt: skip


def phases(images: dict[str, Reconstruction], scan: Scan) -> dict[str, NDArray]:
    """Phases without ramps in the middle of the scan, the known one first; NaN where nothing is compared."""
    shown: dict[str, NDArray] = {}
    for name, image in images.items():
        level = align(image, scan).ramp_removed
        assert level is not None
        corner = np.array([level.box[1].start, level.box[0].start]) + image.origin_px
        x, y = np.rint(middle_of(scan.scan_positions_px) - corner).astype(int) - PICTURE_PX // 2
        shown.setdefault("reference", window(np.where(level.region, np.angle(level.truth), np.nan), x, y))
        shown[name] = window(np.where(level.region, np.angle(level.reconstruction), np.nan), x, y)
    return shown


def window(image: NDArray, x: int, y: int) -> NDArray:
    """(PICTURE_PX, PICTURE_PX) pixels from `[x, y]` on, NaN beyond the image."""
    framed = np.pad(image, PICTURE_PX, constant_values=np.nan)
    x, y = (
        int(np.clip(first + PICTURE_PX, 0, side - PICTURE_PX))
        for first, side in zip((x, y), framed.shape[::-1], strict=True)
    )
    return framed[y : y + PICTURE_PX, x : x + PICTURE_PX]


def measure(quality: Quality, effort: Effort, folder: Path) -> dict[str, Any]:
    """Make all measurements and draw them; after each, the figures so far are written."""
    results: dict[str, Any] = {"pairs": [], "dose_and_step": [], "training_time": [], "rings": []}
    for train, test in effort.pairs:
        rows, pictures, rings = quality.pair(train, test)
        results["pairs"] += rows
        results["rings"] += rings
        draw_phases({test: pictures}, folder / f"{test}.png")
        print(f"{train} -> {test}: {len(rows)} images", flush=True)
        write(results, folder)
    results["dose_and_step"], drawn = quality.dose_and_step(effort.pairs[0][1])
    # the reference is the same everywhere, and its limits are those of all panels
    first = next(iter(drawn["reference"]))
    drawn["reference"] = {"known object": drawn["reference"][first]}
    draw_phases(drawn, folder / "dose_and_step.png", len(effort.steps_px))
    write(results, folder)
    results["training_time"] = quality.training_time(*effort.pairs[0])
    draw_curves(results["training_time"], folder / "training_time.png")
    draw_rings(results["rings"], folder / "rings.png")
    write(results, folder)
    return results


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the figures as JSON, None for those that are not finite."""
    (folder / "quality.json").write_text(json.dumps(finite(results), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """`value` with None in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def conditions(effort: Effort, gridsize: int, prior: Path | None, backends: list[str]) -> dict[str, Any]:
    """The circumstances of the measurement, for the page."""
    return {
        "seconds": effort.seconds,
        "gridsize": gridsize,
        "prior": None if prior is None else prior.name,
        "backends": backends,
        "ptychi": find_spec("ptychi") is not None,
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": versions(),
        "patterns": effort.patterns,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="limit of each training (240)")
    parser.add_argument("--times", type=float, nargs="+", help="limits of the trainings of several lengths")
    parser.add_argument("--prior", type=Path, help="model of the architecture unrolled")
    parser.add_argument("--gridsize", type=int, default=2, help="of the network unrolled (2)")
    parser.add_argument("--backends", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--output", type=Path, help="folder of quality.md (docs)")
    parser.add_argument("--quick", action="store_true", help="small parts; needs --output")
    parser.add_argument("--text", action="store_true", help="write the page anew from quality.json")
    options = parser.parse_args(arguments)
    if options.quick and options.output is None:
        parser.error("--quick needs --output, so that it does not replace the figures of a whole run")
    output = REPOSITORY / "docs" if options.output is None else options.output
    folder = output / "quality"
    if options.text:
        results = json.loads((folder / "quality.json").read_text())
    else:
        backends = [name for name in options.backends if name in installed_backends()]
        if not backends:
            parser.error(f"none of the backends {', '.join(options.backends)} is installed")
        effort = QUICK if options.quick else Effort()
        if options.seconds is not None:
            effort = dataclasses.replace(effort, seconds=options.seconds)
        if options.times is not None:
            effort = dataclasses.replace(effort, times_s=tuple(options.times))
        shared = Path(os.environ.get("PTYCHO_SHARED", REPOSITORY.parent / "shared"))
        folder.mkdir(parents=True, exist_ok=True)
        prior = None if options.prior is None else load_archive(options.prior)
        logging.disable(logging.WARNING)
        quality = Quality(shared, effort, options.gridsize, prior, tuple(backends))
        results = measure(quality, effort, folder)
        results["conditions"] = conditions(effort, options.gridsize, options.prior, backends)
        write(results, folder)
    (output / "quality.md").write_text(page(finite(results)))
    print(output / "quality.md")


if __name__ == "__main__":
    sys.exit(main())
