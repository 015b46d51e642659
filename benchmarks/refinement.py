"""Refinement beside pty-chi's LSQML: quality against seconds and passes, on the same scans from the same start.

    python benchmarks/refinement.py SCAN.npz... [--modes K] [--engines torch tensorflow ptychi] [--device cpu|cuda]
        [--json FILE] [--figure FILE.png]

Every engine starts from a flat object with the scan's probe (held fixed but for modes), in this process, one after
the other. The clock stops while images are compared. pty-chi comes with `pip install --group ptychi`.
"""

# ruff: noqa: T201 - this is a program
import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ptycho_backends import ExecutionConfig, RefinementConfig, Scan, compare, load_scan
from ptycho_backends.reference.probe import probe_with_modes
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.values import Reconstruction

# What "as good" means: within this of an engine's own best phase correlation.
NEARLY = 0.002
MODULES = {"torch": "ptycho_torch.backend.refinement", "tensorflow": "ptycho_backends.tensorflow.refinement"}

Row = dict[str, float | int | str]
Stage = tuple[float, int, Reconstruction]


def ours(engine: str, scan: Scan, modes: int, device: str) -> Iterator[Stage]:
    """Seconds, passes and image after each pass of a backend's automatic schedule."""
    execution = ExecutionConfig(accelerator="cpu" if device == "cpu" else "gpu")
    refiner = import_module(MODULES[engine]).Refiner
    started = time.perf_counter()
    plan = plan_refinement(None, scan, RefinementConfig(n_probe_modes=modes))
    steps = refiner(plan.problem, plan.state.canvas, plan.state.probe, execution)
    refinement = Refinement(plan, steps, engine)
    seconds = time.perf_counter() - started
    passes = refinement.passes()
    while True:
        started = time.perf_counter()
        record = next(passes, None)
        synchronise(device)
        seconds += time.perf_counter() - started
        if record is None:
            return
        yield seconds, record.number, refinement.image()


def ptychi(scan: Scan, modes: int, device: str, compact: bool, epochs: int = 60) -> Iterator[Stage]:
    """The same of pty-chi's LSQML: plain with batches of 96, or compact with a quarter of the scan and momentum."""
    api = import_module("ptychi.api")
    task_module = import_module("ptychi.api.task")
    started = time.perf_counter()
    # positions count from the middle of the object there
    positions, side = scan.scan_positions_px, scan.N
    middle = np.rint((positions.min(axis=0) + positions.max(axis=0)) / 2)
    width, height = (2 * (np.ceil(np.ptp(positions, axis=0) / 2).astype(int) + side // 2 + 15)).tolist()
    probe = probe_with_modes(scan.probe_modes, modes)
    energy = float(scan.pattern_energies.mean())
    probe = probe * np.sqrt(energy / np.sum(np.abs(probe) ** 2))
    options = api.LSQMLOptions()
    options.data_options.data = scan.diffraction_amplitude() ** 2
    options.data_options.fft_shift = True
    objects, probes = options.object_options, options.probe_options
    objects.initial_guess = torch.ones(1, height, width, dtype=torch.complex64)
    objects.pixel_size_m, objects.optimizable, objects.step_size = 1e-8, True, 1.0
    objects.optimizer = probes.optimizer = api.Optimizers.SGD
    probes.initial_guess = torch.as_tensor(probe[None].astype(np.complex64))
    probes.optimizable, probes.step_size = modes > 1, 1.0
    places = options.probe_position_options
    places.position_x_px = torch.as_tensor(positions[:, 0] - middle[0])
    places.position_y_px = torch.as_tensor(positions[:, 1] - middle[1])
    places.optimizable = False
    run = options.reconstructor_options
    run.num_epochs, run.batch_size = epochs, len(scan) // 4 if compact else min(96, len(scan))
    run.default_device = api.Devices.CPU if device == "cpu" else api.Devices.GPU
    run.noise_model = api.NoiseModels.GAUSSIAN
    if compact:
        run.momentum_acceleration_gain, run.batching_mode = 0.9, api.BatchingModes.COMPACT
    task = task_module.PtychographyTask(options)
    synchronise(device)
    seconds = time.perf_counter() - started
    coverage = None
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        task.run(1)
        synchronise(device)
        seconds += time.perf_counter() - started
        image = task.get_data_to_cpu("object", as_numpy=True)[0]
        if coverage is None:
            coverage = covered(scan, image.shape, middle)
        origin = middle - np.array([width // 2, height // 2])
        yield (
            seconds,
            epoch,
            Reconstruction(
                np.where(coverage > 0, image, 0).astype(np.complex64),
                coverage,
                origin.astype(float),
                positions,
            ),
        )


def covered(scan: Scan, shape: tuple[int, ...], middle: np.ndarray) -> np.ndarray:
    """Where a plan of ours would show the image, on another canvas."""
    plan = plan_refinement(None, scan)
    from ptycho_backends.reference.refinement import illumination

    corners, fractions = plan.geometry(plan.state)
    light = illumination(corners, fractions, plan.state.probe, plan.problem.shape)
    dose = (light**2).sum() / light.sum()
    x, y = (plan.origin_px - (middle - np.array([shape[1] // 2, shape[0] // 2]))).astype(int)
    coverage = np.zeros(shape, np.float32)
    rows = slice(max(y, 0), min(y + light.shape[0], shape[0]))
    columns = slice(max(x, 0), min(x + light.shape[1], shape[1]))
    window = light[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
    coverage[rows, columns] = np.where(window > 0.05 * dose, window / dose, 0)
    return coverage


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measured(name: str, scan: Scan, stages: Callable[[], Iterator[Stage]], engine: str) -> list[Row]:
    rows = []
    for seconds, passes, image in stages():
        metrics = compare(image, scan)
        rows.append(
            {
                "scan": name,
                "engine": engine,
                "seconds": seconds,
                "passes": passes,
                # a flat image correlates with nothing
                "phase_correlation": float(np.nan_to_num(metrics.phase_correlation_ramp_removed)),
                "amplitude_ssim": metrics.amplitude_ssim_ramp_removed,
            }
        )
    return rows


def summary(rows: list[Row]) -> Row:
    """An engine's best and last, and the seconds until it was within `NEARLY` of its best."""
    best = max(float(row["phase_correlation"]) for row in rows)
    near = next(row for row in rows if float(row["phase_correlation"]) >= best - NEARLY)
    return {
        "scan": rows[0]["scan"],
        "engine": rows[0]["engine"],
        "best": best,
        "seconds_to_near_best": near["seconds"],
        "passes_to_near_best": near["passes"],
        "best_ssim": max(float(row["amplitude_ssim"]) for row in rows),
        "last": rows[-1]["phase_correlation"],
        "last_ssim": rows[-1]["amplitude_ssim"],
        "seconds": rows[-1]["seconds"],
    }


def draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    scans = list(dict.fromkeys(str(row["scan"]) for row in rows))
    figure = Figure(figsize=(4.2 * len(scans), 6.4), layout="constrained")
    panels = figure.subplots(2, len(scans), squeeze=False)
    for column, scan in enumerate(scans):
        for axes, quantity in zip(panels[:, column], ("phase_correlation", "amplitude_ssim"), strict=True):
            for engine in dict.fromkeys(str(row["engine"]) for row in rows):
                own = [row for row in rows if (row["scan"], row["engine"]) == (scan, engine)]
                if own:
                    axes.plot(
                        [row["seconds"] for row in own],
                        [row[quantity] for row in own],
                        marker=".",
                        label=engine,
                    )
            axes.set_xscale("log")
            axes.set_xlabel("seconds")
            axes.set_ylabel(f"{quantity.replace('_', ' ')}, ramp removed")
            axes.grid(alpha=0.3)
        panels[0, column].set_title(scan)
        panels[0, column].set_ylim(0.9, 1.0)
    panels[0, 0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--modes", type=int, default=1)
    parser.add_argument("--engines", nargs="+", default=["torch", "tensorflow", "ptychi"])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    for path in options.scans:
        scan = load_scan(path)
        for engine in options.engines:
            if engine in MODULES:
                # the first run compiles and warms up
                for _ in range(2):
                    found = measured(
                        path.stem, scan, partial(ours, engine, scan, options.modes, options.device), engine
                    )
                rows += found
            elif find_spec("ptychi") is None:
                print("ptychi: not installed; pip install --group ptychi")
            else:
                for compact in (False, True):
                    label = "ptychi compact" if compact else "ptychi"
                    rows += measured(
                        path.stem, scan, partial(ptychi, scan, options.modes, options.device, compact), label
                    )
            for name in dict.fromkeys(str(row["engine"]) for row in rows):
                own = [row for row in rows if (row["scan"], row["engine"]) == (path.stem, name)]
                if own and name.startswith(engine):
                    print(
                        "  ".join(
                            f"{key} {value:.4g}" if isinstance(value, float) else f"{value}"
                            for key, value in summary(own).items()
                        ),
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps(rows))
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
