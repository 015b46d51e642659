"""Measure `watch` with a simulated detector: a process that writes frames into a growing HDF5 file (SWMR).

    python benchmarks/live.py                # the highest rate without loss, and the latency at it
    python benchmarks/live.py --rate 2000    # one rate, for example on a machine with a GPU
    python benchmarks/live.py --small        # seconds, to see that it runs; its figures mean nothing

A rate is sustained if the image is never behind by more than a second of frames, and p95 is below a second. The file
is made in a temporary folder; each frame has a time stamp, taken when its block was flushed, and latency is
counted from there to the image in memory. The picture on the disk is up to --every seconds older. The model is
untrained: its speed is that of a trained one. The processor's time for a frame is
that of all threads of `watch`; it hardly depends on what else runs.
"""

# ruff: noqa: T201 - this is a program
import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# Blocks of frames that the detector flushes a second, at most, and frames in a chunk of the file.
BLOCKS, CHUNK = 50, 16
# Positions in a row of the raster, and the step in parts of a pattern's side.
ROW, STEP = 64, 1 / 9
# Different patterns, which are repeated.
PATTERNS = 256
# Parts of the rate at which frames that are all there are taken, tried one after another.
TRIED = (0.95, 0.85, 0.75, 0.6, 0.45, 0.3)
LAG_S = 1.0


def positions_of(numbers: np.ndarray, side: int) -> np.ndarray:
    """(n, 2) float64, `[x, y]`: a snake."""
    row, column = np.divmod(numbers, ROW)
    column = np.where(row % 2, ROW - 1 - column, column)
    return np.stack([column, row], axis=-1) * STEP * side + side


def detector(path: Path, bank: Path, rate: float, count: int) -> None:
    """Write `count` frames at `rate` a second; 0 writes them at once. Prints the rate it kept."""
    import h5py

    patterns = np.load(bank)
    side = patterns.shape[-1]
    block = count if rate == 0 else max(1, round(rate / BLOCKS))
    with h5py.File(path, "w", libver="latest") as file:
        frames = file.create_dataset(
            "frames", (0, side, side), patterns.dtype, maxshape=(None, side, side), chunks=(CHUNK, side, side)
        )
        xy = file.create_dataset("positions", (0, 2), "f8", maxshape=(None, 2), chunks=(1024, 2))
        xy.attrs["units"] = "px"
        stamps = file.create_dataset("timestamps", (0,), "f8", maxshape=(None,), chunks=(1024,))
        file.swmr_mode = True
        started = time.perf_counter()
        for start in range(0, count, block):
            numbers = np.arange(start, min(start + block, count))
            stop = start + len(numbers)
            if rate:
                time.sleep(max(0.0, started + stop / rate - time.perf_counter()))
            frames.resize(stop, axis=0)
            frames[start:stop] = patterns[numbers % len(patterns)]
            frames.flush()
            stamps.resize(stop, axis=0)
            stamps[start:stop] = time.time()
            stamps.flush()
            # last, because frames wait for their positions
            xy.resize(stop, axis=0)
            xy[start:stop] = positions_of(numbers, side)
            xy.flush()
        seconds = time.perf_counter() - started
    print(f"{count / seconds:.1f}", flush=True)


class Bench:
    """A model and a bank of patterns, and measurements with them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        from ptycho_backends import ModelConfig, TrainingConfig, get_backend
        from ptycho_backends.config import ExecutionConfig
        from ptycho_backends.scans.simulate import simulate_star
        from ptycho_backends.training.plan import plan_training

        self.folder, self.options = folder, options
        scan = simulate_star(options.side, PATTERNS, n_photons=1e5, measurement="intensity")
        self.bank = folder / "bank.npy"
        np.save(self.bank, np.asarray(scan.patterns).astype(np.uint16))
        network = ModelConfig(
            N=options.side, architecture=options.architecture, gridsize=options.gridsize,
            **({"n_steps": 1} if options.small and options.architecture == "unrolled" else {}),
        )  # fmt: skip
        self.backend = get_backend(options.backend)
        self.execution = ExecutionConfig(accelerator=options.accelerator, enable_progress_bar=False)
        self.model = plan_training(scan, TrainingConfig(model=network), self.backend.name).start
        self._number = 0

    def measure(self, rate: float, count: int) -> dict[str, Any]:
        """Figures of `watch` beside a detector of `rate` frames a second; 0 for a file that is all there."""
        from ptycho_backends.live.watch import watch

        self._number += 1
        path = self.folder / f"scan_{self._number}.h5"
        command = [sys.executable, __file__, "--detector", str(path), str(self.bank), str(rate), str(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        writing = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        if rate == 0:
            writing.wait()
        processor_s = time.process_time()
        result = watch(
            self.model, path, self.folder / f"live_{self._number}", backend=self.backend, execution=self.execution,
            until=count, every_s=self.options.every, final=False,
        )  # fmt: skip
        processor_s = time.process_time() - processor_s
        kept = float(writing.communicate()[0])
        path.unlink()
        found = {name: result.figures[name] for name in FIGURES}
        lost = count - result.frames
        behind_s = found["most_behind"] / kept
        return {
            "asked_rate": rate, "detector_rate": kept, "lost": lost, "behind_s": behind_s,
            "processor_ms_a_frame": 1e3 * processor_s / count,
            "sustained": lost == 0 and max(behind_s, found["latency_p95_s"]) <= LAG_S, **found,
        }  # fmt: skip


FIGURES = ("frames", "mean_rate", "most_behind", "latency_p50_s", "latency_p95_s")


def measured(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One rate, or lower and lower ones until one is sustained."""
    bench = Bench(options, folder)
    # frameworks start, and compile
    bench.measure(0, 2 * CHUNK)
    if options.rate:
        return [bench.measure(options.rate, round(options.rate * options.seconds))]
    few = 64 if options.small else 1024
    first = bench.measure(0, few)
    rows = [first]
    for part in TRIED:
        rate = part * first["mean_rate"]
        rows.append(bench.measure(rate, max(few, round(rate * options.seconds))))
        print(line(rows[-1]), flush=True)
        if rows[-1]["sustained"]:
            break
    return rows


def line(row: dict[str, Any]) -> str:
    """One measurement as text."""
    wanted = f"{row['detector_rate']:.0f} frames/s" if row["asked_rate"] else "all there"
    verdict = "" if not row["asked_rate"] else ": sustained" if row["sustained"] else ": too fast"
    return ", ".join(
        (
            f"detector {wanted}: {row['frames']} frames in the image at {row['mean_rate']:.0f}/s",
            f"{row['lost']} lost",
            f"p50 {row['latency_p50_s']:.3f} s",
            f"p95 {row['latency_p95_s']:.3f} s",
            f"at most {row['behind_s']:.2f} s behind",
            f"{row['processor_ms_a_frame']:.2f} ms of a processor for a frame{verdict}",
        )
    )


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Where and how it was measured."""
    return {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "backend": options.backend,
        "accelerator": options.accelerator,
        "architecture": options.architecture,
        "gridsize": options.gridsize,
        "side": options.side,
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--detector", nargs=4, metavar=("FILE", "BANK", "RATE", "COUNT"), help=argparse.SUPPRESS
    )
    parser.add_argument("--rate", type=float, help="frames a second; default: find the highest")
    parser.add_argument("--seconds", type=float, default=10.0, help="of writing, at each rate")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--architecture", default="unrolled", choices=("unrolled", "cnn", "attention"))
    parser.add_argument("--gridsize", type=int, default=1)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two images on the disk")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the figures")
    options = parser.parse_args(arguments)
    if options.detector:
        path, bank, rate, count = options.detector
        detector(Path(path), Path(bank), float(rate), int(count))
        return
    if options.small:
        options.side, options.seconds = 16, min(options.seconds, 0.5)
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = measured(options, Path(folder))
    finally:
        logging.disable(logging.NOTSET)
    where = machine(options)
    print(f"\n{json.dumps(where)}")
    for row in rows:
        print(line(row))
    best = [row for row in rows if row["sustained"] and row["asked_rate"]]
    print(
        f"highest rate without loss: {best[-1]['detector_rate']:.0f} frames/s"
        if best
        else "no rate was sustained"
    )
    if options.output is not None:
        options.output.write_text(json.dumps({"conditions": where, "measurements": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
