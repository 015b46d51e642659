"""Speed, memory, idle time and agreement on one GPU, within a budget of seconds.

    python benchmarks/gpu.py --out FOLDER [--budget SECONDS] [--device cuda|cpu] [--only NAME...] [--small]

For a bare machine without network: needs PyTorch, Lightning and this package's own dependencies, no TensorFlow;
packages missing there travel as wheels (pyfive and numcodecs, and for the comparison pty-chi with pydantic). Scans are
simulated. The most important measurements come first; those for which no time is left are named. FOLDER gets
`gpu.json` after each of them, `parity.txt`, and `profiles.txt` with the operations that take longest. `--small` takes
seconds on a processor.
"""

# ruff: noqa: T201 - this is a program
import argparse
import contextlib
import gc
import json
import logging
import os
import platform
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_measures as measures
import gpu_steps
import torch
from gpu_measures import SETTINGS, STEP_PATTERNS, Figures, Where

NOT_OFFERED = "not offered"
NO_TIME = "no time left"


class Run:
    """Measurements within a budget; each is kept as it comes, also one that fails or for which no time is left."""

    def __init__(self, where: Where, folder: Path, budget_s: float, only: tuple[str, ...] = ("",)) -> None:
        self.where, self.folder, self.budget_s, self.only = where, folder, budget_s, only
        self._started = time.perf_counter()
        self.rows: list[Figures] = []
        gpu = where.device == "cuda"
        self.machine = {
            "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        }

    def left(self) -> float:
        """Seconds."""
        return self.budget_s - (time.perf_counter() - self._started)

    def measure(
        self, name: str, needs_s: float, work: Callable[..., Figures], *arguments: Any, **fields: Any
    ) -> None:
        """Take down the figures of `work`, which takes about `needs_s` seconds."""
        if not name.startswith(self.only):
            return
        started = time.perf_counter()
        row: Figures = {"name": name}
        if self.left() < needs_s:
            row["status"] = NO_TIME
        else:
            try:
                row |= {"status": "measured", **work(self.where, *arguments, **fields)}
            except Exception as error:
                row |= {
                    "status": "failed",
                    "error": f"{type(error).__name__}: {str(error)[:400]}",
                    "where": traceback.format_exc()[-1500:],
                }
            row["took_s"] = time.perf_counter() - started
        self._keep(row)
        # what failed for want of memory should not keep any
        gc.collect()
        if self.where.device == "cuda":
            torch.cuda.empty_cache()

    def say_not_offered(self, name: str) -> None:
        """Take down that the library has no such setting."""
        if name.startswith(self.only):
            self._keep({"name": name, "status": NOT_OFFERED})

    def _keep(self, row: Figures) -> None:
        self.rows.append(row)
        text = json.dumps({"machine": self.machine, "rows": self.rows}, indent=1, default=str)
        (self.folder / "gpu.json").write_text(text)
        shown = (
            row.get("error")
            or row.get("patterns_per_s")
            or row.get("frame_iterations_per_s")
            or row["status"]
        )
        shown = f"{shown:,.0f}" if isinstance(shown, float) else shown
        print(f"[{self.budget_s - self.left():5.0f} s] {row['name']}: {shown}", flush=True)


def steps(run: Run, architecture: str, settings: tuple[str, ...], sides: list[tuple[int, int]]) -> None:
    """Training steps and inferences of one batch."""
    for side, count in sides:
        for setting in settings:
            for training in (True, False):
                name = f"{'train' if training else 'infer'}|{architecture}|{side}|{count}|{setting}"
                if "compiled" in setting and architecture == "unrolled":
                    run.say_not_offered(name)
                    continue
                fields = SETTINGS[setting]
                run.measure(
                    name, 45.0 if fields.get("compile_network") else 2.0, gpu_steps.step,
                    architecture, side, count, training, STEP_PATTERNS[side], **fields,
                )  # fmt: skip


def measure_small(run: Run) -> None:
    """A little of everything that differs in kind."""
    lines: list[str] = []
    run.measure("ceilings", 0.5, measures.ceilings)
    run.measure("parity, float64 and float32", 0.5, measures.parity, False, lines)
    (run.folder / "parity.txt").write_text("\n".join(lines) + "\n")
    run.measure("whole run|64|1", 0.5, measures.whole_run, 64, 1, 16)
    run.measure("convolutions, training|64|1", 0.5, gpu_steps.convolutions, 64, 1, True, 4)
    run.measure("three outputs|64|1", 0.5, measures.three_outputs, 64, 1)
    run.measure("inference, default batches|64|1", 0.5, measures.prediction, 64, 1, None, run.folder)
    run.measure("refinement|32", 0.5, measures.refinement_pass, 32, run.folder)
    run.measure("to 0.99|torch", 0.5, measures.until_good, 32, 300, "torch", run.left)
    steps(run, "unrolled", ("fp32", "compiled"), [(32, 1)])


def measure_all(run: Run) -> None:
    """The most important first."""
    lines: list[str] = []
    folder, batches = run.folder, {64: 1024, 128: 256, 256: 64}
    sides = [(side, count) for side in batches for count in (1, 4)]
    bf16 = SETTINGS["bf16"]
    run.measure("ceilings", 3.0, measures.ceilings)
    for tf32, kind in ((False, "float32"), (True, "TF32")):
        run.measure(f"parity, float64 and {kind}", 15.0, measures.parity, tf32, lines)
        (folder / "parity.txt").write_text("\n".join(lines) + "\n")
    for side, count in ((64, 1), (64, 4), (128, 1)):
        run.measure(f"whole run|{side}|{count}", 6.0, measures.whole_run, side, count, None)
    run.measure("refinement|128", 8.0, measures.refinement_pass, 128, folder)
    for batch in (32, 128, 512, 1024, None):
        name = "default batches" if batch is None else f"batches of {batch}"
        run.measure(f"inference, {name}|64|1", 4.0, measures.prediction, 64, 1, batch, folder)
    run.measure("three outputs|64|1", 3.0, measures.three_outputs, 64, 1)
    for batch in (16, 256):
        name = f"epoch, batches of {batch}|64|1"
        run.measure(name, 8.0, measures.training_epoch, 64, 1, batch, folder)
        free = {"deterministic": False}
        run.measure(f"{name}, not deterministic", 8.0, measures.training_epoch, 64, 1, batch, folder, **free)
    run.measure("other defaults of torch", 10.0, measures.other_defaults, folder)
    for side in (64, 128):
        for training in (False, True):
            name = f"convolutions, {'training' if training else 'inference'}|{side}|1"
            run.measure(name, 8.0, gpu_steps.convolutions, side, 1, training, batches[side])
    for engine in ("torch", "pty-chi", "pty-chi compact"):
        if engine != "torch" and find_spec("ptychi") is None:
            run.say_not_offered(f"to 0.99|{engine}, not installed")
            continue
        run.measure(f"to 0.99|{engine}", 8.0, measures.until_good, 128, 1024, engine, run.left)
    for architecture in ("cnn", "unrolled"):
        steps(run, architecture, ("fp32", "tf32", "bf16"), sides)
    for side, count in ((64, 1), (64, 4), (128, 1)):
        name = f"infer|cnn|{side}|{count}|graph"
        if run.where.device == "cuda":
            run.measure(name, 2.0, gpu_steps.graph, "cnn", side, count, STEP_PATTERNS[side])
        else:
            run.say_not_offered(name)
    refined = {"n_probe_modes": 2, "refine_positions": True}
    run.measure("refinement, modes, positions|128", 6.0, measures.refinement_pass, 128, folder, **refined)
    run.measure("stitching|64", 2.0, measures.stitching, 64)
    run.measure("whole run, bf16|64|1", 5.0, measures.whole_run, 64, 1, None, **bf16)
    steps(run, "cnn", ("bf16 compiled",), [(64, 1)])
    steps(run, "unrolled", ("compiled",), [(64, 1)])
    for side, count in ((128, 4), (256, 1), (256, 4)):
        run.measure(f"whole run|{side}|{count}", 8.0, measures.whole_run, side, count, None)
    run.measure("refinement|64", 6.0, measures.refinement_pass, 64, folder)
    run.measure("refinement|256", 8.0, measures.refinement_pass, 256, folder)
    steps(run, "cnn", ("compiled",), [(64, 1)])
    steps(run, "cnn", ("bf16 compiled",), [(128, 1), (64, 4)])


def table(run: Run) -> list[str]:
    """Short: a line for each row of the grid, and one for each other measurement."""
    lines = [", ".join(f"{key} {value}" for key, value in run.machine.items())]
    cells: dict[tuple[str, str, str, str], dict[str, str]] = {}
    columns = [*SETTINGS, "graph"]
    marks = {NOT_OFFERED: "none", NO_TIME: "late", "failed": "FAILED"}
    for row in run.rows:
        kind, *rest = row["name"].split("|")
        if kind in ("train", "infer"):
            architecture, side, count, setting = rest
            good = row["status"] == "measured"
            text = f"{row['patterns_per_s']:,.0f}" if good else marks[row["status"]]
            cells.setdefault((kind, architecture, side, count), {})[setting] = text
            if good and setting == "fp32" and "peak_MiB" in row:
                cells[kind, architecture, side, count]["peak"] = f"{row['peak_MiB']:,.0f}"
            continue
        shown = {
            key: f"{value:,.4g}" if isinstance(value, float) else str(value)
            for key, value in row.items()
            if key not in ("name", "status", "where", "took_s", "worst", "quantities", "groups_in_batch")
        }
        status = "" if row["status"] == "measured" else f" {row['status']}"
        lines.append(f"{row['name']}:{status} " + "  ".join(f"{key} {value}" for key, value in shown.items()))
    lines.append("patterns a second of one step on the device (late: no time left; none: not offered)")
    lines.append(f"{'':28}" + "".join(f"{name:>14}" for name in (*columns, "peak, MiB")))
    for (kind, architecture, side, count), found in cells.items():
        name = f"{kind} {architecture} N {side} C {count}"
        lines.append(f"{name:28}" + "".join(f"{found.get(column, ''):>14}" for column in (*columns, "peak")))
    left_out = [row["name"] for row in run.rows if row["status"] == NO_TIME]
    if left_out:
        lines.append(f"no time left for: {', '.join(left_out)}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--budget", type=float, default=285.0, help="seconds")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=("cpu", "cuda"))
    parser.add_argument("--small", action="store_true", help="seconds on a processor")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="measurements whose names begin so, as 'refinement'",
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        (options.out / "profiles.txt").unlink()
    run = Run(Where(options.device, options.small), options.out, options.budget, tuple(options.only))
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (measure_small if options.small else measure_all)(run)
    finally:
        logging.disable(logging.NOTSET)
    print("\n".join(table(run)))
    return int(any(row["status"] == "failed" or row.get("crashes") for row in run.rows))


if __name__ == "__main__":
    raise SystemExit(main())
