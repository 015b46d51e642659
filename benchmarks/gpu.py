"""Refinement, inference and training steps on one GPU, beside pty-chi and beside the processor; agreement in float64.

    python benchmarks/gpu.py SCAN.npz... [--device cuda|cpu] [--json FILE]

For a bare machine without network: needs PyTorch, Lightning and this package's own dependencies, no TensorFlow.
On a machine without a GPU it runs small on the processor. Prints one table; times are medians after a warm-up.
"""

# ruff: noqa: T201 - this is a program
import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from refinement import measured, ours, ptychi, summary

from ptycho_backends import (
    ExecutionConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
    get_backend,
    load_scan,
)
from ptycho_backends.reference import refinement as reference
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import new_model

REPEATS = 5


def seconds_of(work: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Median seconds of `work`, the device's own work included."""
    found = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if number:
            found.append(time.perf_counter() - started)
    return float(np.median(found))


def ceilings(device: str) -> dict[str, float]:
    """Copy bandwidth in GB/s and matrix rate in TFLOP/s, float32 and bfloat16."""
    side, size = (8192, 1 << 28) if device == "cuda" else (1024, 1 << 24)
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    copied = seconds_of(lambda: target.copy_(source), device)
    found = {"copy_GB_per_s": 8 * size / copied / 1e9}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(side, side, device=device, dtype=dtype)
        found[f"matrix_{str(dtype)[6:]}_TFLOP_per_s"] = (
            2 * side**3 / seconds_of(lambda a=a: a @ a, device) / 1e12
        )
    return found


def agreement(device: str) -> dict[str, float]:
    """Relative difference of a refined image from the NumPy reference, in float64 and float32."""
    scan = simulate_star(32, 40, n_photons=1e5)
    config = RefinementConfig(passes=6, n_probe_modes=2, refine_positions=True)
    plan = plan_refinement(None, scan, config)
    steps = reference.Refiner(plan.problem, plan.state.canvas, plan.state.probe)
    want = Refinement(plan, steps, "reference").run()
    found = {}
    for precision in ("64-true", "32-true"):
        execution = ExecutionConfig(accelerator="gpu" if device == "cuda" else "cpu", precision=precision)
        got = get_backend("torch").refine(None, scan, config, execution=execution)
        error = np.linalg.norm(got.object - want.object) / np.linalg.norm(want.object)
        found[f"refined_{precision}"] = float(error)
    return found


def network_rates(device: str) -> dict[str, float]:
    """Patterns a second of inference and of training steps, by size and precision."""
    sizes = ((64, 1), (64, 2), (128, 1)) if device == "cuda" else ((64, 1),)
    found: dict[str, float] = {}
    for side, gridsize in sizes:
        for precision in ("32-true", "bf16-mixed"):
            found |= rates_of(side, gridsize, precision, device)
    return found


def rates_of(side: int, gridsize: int, precision: str, device: str) -> dict[str, float]:
    backend = get_backend("torch")
    scan = simulate_star(side, 512 if device == "cuda" else 64, n_photons=1e6)
    config = TrainingConfig(model=ModelConfig(N=side, gridsize=gridsize, n_filters_scale=2), nphotons=1e9)
    groups = group_scan(scan, gridsize=gridsize)
    model = new_model(scan, config, "torch")
    execution = ExecutionConfig(
        accelerator="gpu" if device == "cuda" else "cpu", precision=precision, enable_progress_bar=False,
        inference_batch_size=256,
    )  # fmt: skip
    batches = [groups.batch(np.arange(16 * k, 16 * k + 16) % len(groups)) for k in range(8)]
    name = f"N{side} C{gridsize**2} {precision}"
    infer = seconds_of(lambda: backend.infer(model, groups, execution=execution), device, 3)
    step = seconds_of(
        lambda: backend.train_step(config, model.weights, batches, execution=execution), device, 3
    )
    return {
        f"infer and stitch, {name}": len(groups) * gridsize**2 / infer,
        f"train step, {name}": len(batches) * 16 * gridsize**2 / step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--without-ptychi", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    device = options.device
    found: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "processor",
        "torch": torch.__version__,
        "ceilings": ceilings(device),
        "agreement with the reference": agreement(device),
    }
    print(json.dumps(found, indent=1), flush=True)
    rows = []
    for path in options.scans:
        scan = load_scan(path)
        for _ in range(2):
            own = measured(path.stem, scan, lambda scan=scan: ours("torch", scan, 1, device), "torch")
        rows.append(
            summary(own) | {"patterns_passes_per_s": len(scan) * own[-1]["passes"] / own[-1]["seconds"]}
        )
        if not options.without_ptychi:
            for compact in (False, True):
                label = "ptychi compact" if compact else "ptychi"
                for repeat in range(2):
                    stages = lambda scan=scan, compact=compact, repeat=repeat: ptychi(  # noqa: E731
                        scan, 1, device, compact, 3 if repeat == 0 else 60
                    )
                    own = measured(path.stem, scan, stages, label)
                rows.append(
                    summary(own)
                    | {"patterns_passes_per_s": len(scan) * own[-1]["passes"] / own[-1]["seconds"]}
                )
        for row in rows[-3:]:
            print(
                "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()),
                flush=True,
            )
    found["refinement"] = rows
    found["patterns per second"] = network_rates(device)
    print(json.dumps(found["patterns per second"], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
