"""What `gpu.py` measures, each measurement by itself: a function that returns its figures.

Seconds are medians after a warm-up, of work that the device has finished. Rates count diffraction patterns.
"""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from refinement import ours, ptychi

from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.images.metrics import compare
from ptycho_backends.images.reconstruct import default_stitching_size
from ptycho_backends.images.stitching import Stitcher, square_around
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.registry import get_backend
from ptycho_backends.scans.grouping import GroupedData, group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing import measurements, refinement_measurements
from ptycho_backends.testing.agreement import ALLOWANCES
from ptycho_backends.testing.cases import Case
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import TrainedModel
from ptycho_torch.backend.arrays import TensorBatch, tensors_from_batch
from ptycho_torch.backend.device import autocast, compute_dtype, computing
from ptycho_torch.backend.model import PtychoModel, adam
from ptycho_torch.backend.refinement import Refiner

Figures = dict[str, Any]

SETTINGS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "tf32": {"allow_tf32": True},
    "bf16": {"precision": "bf16-mixed"},
    "compiled": {"compile_network": True},
    "bf16 compiled": {"precision": "bf16-mixed", "compile_network": True},
}
"""Columns of the table: fields of an `ExecutionConfig`."""

# Patterns of a step that fills the device, and of a scan, by the side of a pattern.
STEP_PATTERNS = {32: 32, 64: 1024, 128: 256, 256: 64}
SCAN_PATTERNS = {32: 64, 64: 16384, 128: 8192, 256: 2048}
# Patterns of 64 x 64 that are simulated, fewer larger ones; a larger scan shows them again further along.
SIMULATED = 1024
GOOD = 0.99
# Until the image is as good, the clock's stops included.
LONGEST_S = 12.0
# Batches that are profiled; the profiler's own tables take long.
PROFILED = 32

CASES = (
    Case(gridsize=2, loss="nll+mae", n_probe_modes=3, masked=True, gaussian_smoothing_sigma=0.5, seed=9),
    Case(architecture="unrolled", N=32, gridsize=2, n_steps=3, n_rounds=2, loss="all", seed=12),
    Case(architecture="attention", gridsize=2, cbam_encoder=True, batch_norm=True, loss="mae", seed=6),
)
"""Of the parity kit: together they use every part of the model that has kernels of its own."""


@dataclass(frozen=True)
class Where:
    """Device, and extent: `small` is for a processor and for tests."""

    device: str
    small: bool

    def execution(self, **fields: Any) -> ExecutionConfig:
        return ExecutionConfig(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            logger_backend=None,
            **fields,
        )

    def scan_patterns(self, side: int) -> int:
        """Patterns of a scan."""
        return 64 if self.small else SCAN_PATTERNS[side]

    def synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], least: int = 5, budget_s: float = 0.5) -> float:
        """Median of `least` repeats, fewer where they take longer than `budget_s` together."""
        work()
        self.synchronise()
        found: list[float] = []
        while not found or (len(found) < least and sum(found) < budget_s):
            started = time.perf_counter()
            work()
            self.synchronise()
            found.append(time.perf_counter() - started)
        return float(np.median(found))

    @contextlib.contextmanager
    def peak(self, figures: Figures) -> Iterator[None]:
        """Puts the most memory of the device that was in use meanwhile into `figures`, MiB."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.device == "cuda":
            figures["peak_MiB"] = torch.cuda.max_memory_allocated() / 2**20


@cache
def star(side: int, count: int) -> Scan:
    """A simulated scan of `count` patterns; beyond those that are simulated the same ones again, further along."""
    once = simulate_star(side, min(count, SIMULATED * 64 // side), n_photons=1e6)
    tiles = -(-count // len(once))
    columns = int(np.ceil(np.sqrt(tiles)))
    number = np.repeat(np.arange(tiles), len(once))[:count]
    extent = np.ptp(once.scan_positions_px, axis=0) + 3 * side / 32
    positions = np.tile(once.scan_positions_px, (tiles, 1))[:count]
    positions = positions + np.stack([number % columns, number // columns], axis=-1) * extent
    patterns = np.tile(once.patterns, (tiles, 1, 1))[:count]
    return Scan(*positions.T, patterns=patterns, probe_guess=once.probe_guess, measurement=once.measurement)


def config_of(architecture: str, side: int, channels: int, **fields: Any) -> TrainingConfig:
    gridsize = round(channels**0.5)
    model = ModelConfig(N=side, gridsize=gridsize, architecture=architecture)
    return TrainingConfig(model=model, validation_share=0.0, **fields)


def model_and_groups(
    architecture: str, side: int, channels: int, patterns: int
) -> tuple[TrainedModel, GroupedData]:
    """An untrained model and its groups: as many patterns, whatever the size of a group."""
    scan = star(side, max(patterns, 4 * channels))
    groups = group_scan(scan, gridsize=round(channels**0.5), n_groups=max(1, patterns // channels), seed=0)
    plan = plan_training(groups, config_of(architecture, side, channels, batch_size=1), "torch")
    return plan.start, groups


def ceilings(where: Where) -> Figures:
    """Copy bandwidth counts bytes read and written; matrix products of random numbers."""
    side, size = (1024, 1 << 22) if where.small else (8192, 1 << 29)
    source = torch.rand(size, device=where.device)
    target = torch.empty_like(source)
    found: Figures = {"copy_GB_per_s": 8 * size / where.seconds(partial(target.copy_, source)) / 1e9}
    for name, dtype, tf32 in (
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        a = torch.randn(side, side, device=where.device).to(dtype)
        before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, tf32
        seconds = where.seconds(partial(torch.matmul, a, a))
        torch.backends.cuda.matmul.allow_tf32 = before
        found[f"matrix_{name}_TFLOP_per_s"] = 2 * side**3 / seconds / 1e12
    return found


@contextlib.contextmanager
def kit_on(where: Where, *, tf32: bool) -> Iterator[None]:
    """Let the parity kit compute on the device, in float64 and float32 or TF32."""
    runs = (measurements.DOUBLE, measurements.SINGLE)
    accelerator = where.execution().accelerator
    for run in runs:
        run.accelerator, run.allow_tf32 = accelerator, tf32
    try:
        yield
    finally:
        for run in runs:
            run.accelerator, run.allow_tf32 = "cpu", False


def parity(where: Where, tf32: bool, lines: list[str]) -> Figures:
    """Worst deviation from the NumPy reference of each quantity; `lines` receives them in words."""
    backend = get_backend("torch")
    worst: dict[str, tuple[float, float]] = {}
    crashes = []
    with kit_on(where, tf32=tf32):
        found: list[Callable[[], Iterator[measurements.Measurement]]] = [
            partial(measurements.measure, case, {"torch": backend}, measurements.PROFILES["fast"])
            for case in (CASES[1:2] if where.small else CASES)
        ]
        found += [
            partial(refinement_measurements.measure_refinement, case, {"torch": backend}, run)
            for case in refinement_measurements.REFINEMENTS[: 1 if where.small else None]
            for run in (measurements.DOUBLE, measurements.SINGLE)
        ]
        for measure in found:
            try:
                for one in measure():
                    value = np.inf if one.value is None or np.isnan(one.value) else one.value
                    # of refinement the allowance tells the precision
                    name = one.quantity if "float" in one.quantity else f"{one.quantity} [{one.allowance}]"
                    if one.value is not None and value >= worst.get(name, (-1.0, 0.0))[0]:
                        worst[name] = value, ALLOWANCES[one.allowance].bound
            except Exception as error:
                crashes.append(f"{type(error).__name__}: {error}")
    lines += [f"parity, {'TF32' if tf32 else 'no TF32'}: deviation, allowance"]
    lines += [
        f"  {name:60} {value:9.2e} {bound:9.2e}{'  <-- beyond' if value > bound else ''}"
        for name, (value, bound) in worst.items()
    ]
    lines += [f"  crashed: {crash}" for crash in crashes]
    beyond = [name for name, (value, bound) in worst.items() if value > bound]
    name, (value, bound) = max(worst.items(), key=lambda item: item[1][0] / item[1][1])
    return {
        "quantities": len(worst),
        "beyond": beyond,
        "crashes": crashes,
        "nearest_to_allowance": f"{name}: {value:.1e} of {bound:.0e}",
        "worst": {name: {"deviation": value, "allowance": bound} for name, (value, bound) in worst.items()},
    }


class OneBatch:
    """A model and a batch that are on the device already: what a step costs there."""

    def __init__(
        self, where: Where, architecture: str, side: int, channels: int, patterns: int, **fields: Any
    ) -> None:
        self.where, self.execution = where, where.execution(**fields)
        start, groups = model_and_groups(architecture, side, channels, patterns)
        self.config, self.scale, self.patterns = (
            start.config,
            start.intensity_scale,
            len(groups) * channels,
        )
        model = PtychoModel(
            self.config.model,
            start.weights,
            compute_dtype(self.execution),
            compiled=self.execution.compile_network,
        )
        self.model = model.to(where.device)
        self.model.freeze(self.config)
        self.optimizer = adam(self.model, 1e-4)
        batch = groups.batch(np.arange(len(groups)))
        self.tensors: TensorBatch = {
            name: tensor.to(where.device) for name, tensor in tensors_from_batch(batch).items()
        }

    def train(self) -> None:
        with autocast(self.execution, torch.device(self.where.device)):
            total = self.model.loss_terms(self.config, self.tensors, self.scale, {})["total"]
        total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def infer(self) -> torch.Tensor:
        with (
            torch.inference_mode(),
            autocast(self.execution, torch.device(self.where.device)),
        ):
            return self.model.object(self.scale * self.tensors["diffraction"], self.tensors["offsets"])


def step(
    where: Where, architecture: str, side: int, channels: int, training: bool, patterns: int, **fields: Any
) -> Figures:
    """A training step, or an inference, of one batch that is on the device."""
    found: Figures = {"patterns_in_batch": patterns}
    with where.peak(found):
        one = OneBatch(where, architecture, side, channels, patterns, **fields)
        with computing(one.execution):
            started = time.perf_counter()
            work = one.train if training else one.infer
            work()
            where.synchronise()
            found["first_s"] = time.perf_counter() - started
            found["seconds"] = where.seconds(work)
    found["patterns_per_s"] = one.patterns / found["seconds"]
    return found


def graph(where: Where, architecture: str, side: int, channels: int, patterns: int) -> Figures:
    """What a CUDA graph of the inference would take: the library does not offer it."""
    one = OneBatch(where, architecture, side, channels, patterns)
    captured = torch.cuda.CUDAGraph()
    with computing(one.execution):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                one.infer()
        torch.cuda.current_stream().wait_stream(beside)
        with torch.cuda.graph(captured):
            one.infer()
        seconds = where.seconds(captured.replay)
    return {"seconds": seconds, "patterns_per_s": one.patterns / seconds}


def busy_seconds(profiler: Any) -> float | None:
    """Time during which the device computes or copies anything; None without one."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    if not spans:
        return None
    busy, until = 0.0, -np.inf
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy / 1e6


def profiled(where: Where, name: str, work: Callable[[], object], wall_s: float, folder: Path) -> Figures:
    """Share of `wall_s`, the time without a profiler, in which the device idles; tables go to a file."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if where.device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        work()
        where.synchronise()
    busy = busy_seconds(profiler)
    averages = profiler.key_averages()
    text = [f"{name}: {1e3 * wall_s:.2f} ms without a profiler"]
    if busy is not None:
        text[0] += f", the device computes {1e3 * busy:.2f} ms"
    orders = ["self_cpu_time_total"] + (["self_device_time_total"] if where.device == "cuda" else [])
    text += [averages.table(sort_by=order, row_limit=10, max_name_column_width=60) for order in orders]
    with (folder / "profiles.txt").open("a") as stream:
        stream.write("\n".join(text) + "\n\n")
    launches = sum(event.count for event in averages if event.key in ("cudaLaunchKernel", "cuLaunchKernel"))
    waits = sum(event.count for event in averages if "Synchronize" in event.key)
    found: Figures = {"wall_s": wall_s, "launches": launches, "waits": waits}
    if busy is not None:
        found |= {"busy_s": busy, "idle_share": max(0.0, 1.0 - busy / wall_s)}
    return found


def training_epoch(
    where: Where, side: int, channels: int, batch: int, folder: Path, **fields: Any
) -> Figures:
    """An epoch of `train` on a scan in memory, gathering included."""
    backend, execution = get_backend("torch"), where.execution(**fields)
    patterns = min(where.scan_patterns(side), 4096)
    groups = group_scan(
        star(side, patterns), gridsize=round(channels**0.5), n_groups=patterns // channels, seed=0
    )
    config = config_of("cnn", side, channels, batch_size=batch, nepochs=3)
    found: Figures = {"groups_in_batch": batch}
    with where.peak(found):
        history = backend.train(groups, config, execution=execution).history
    seconds = min(record.seconds for record in history[1:])
    found |= {"seconds": seconds, "patterns_per_s": len(groups) * channels / seconds}
    few = dataclasses.replace(config, nepochs=1, n_groups=min(len(groups), PROFILED * batch))
    name = f"training epoch, N {side}, C {channels}, batches of {batch}"
    part_s = seconds * few.n_groups / len(groups)
    part = group_scan(groups.scan, gridsize=groups.gridsize, n_groups=few.n_groups, seed=0)
    return found | profiled(
        where, name, lambda: backend.train(part, few, execution=execution), part_s, folder
    )


def prediction(where: Where, side: int, channels: int, batch: int, folder: Path, **fields: Any) -> Figures:
    """From the patterns of a scan in memory to patches in memory, by `object_patches`."""
    backend = get_backend("torch")
    model, groups = model_and_groups("cnn", side, channels, where.scan_patterns(side))
    execution = where.execution(inference_batch_size=batch, **fields)

    def work(most: int | None = None) -> None:
        for _ in islice(backend.object_patches(model, groups, execution), most):
            pass

    found: Figures = {"groups_in_batch": batch}
    with where.peak(found):
        found["seconds"] = where.seconds(work, least=3, budget_s=3.0)
    found["patterns_per_s"] = len(groups) * channels / found["seconds"]
    name = f"inference, N {side}, C {channels}, batches of {batch}"
    part_s = found["seconds"] * min(1.0, PROFILED * batch / len(groups))
    return found | profiled(where, name, lambda: work(PROFILED), part_s, folder)


def stitching(where: Where, side: int) -> Figures:
    """Patches into the image; on the processor, whatever the device."""
    model, groups = model_and_groups("cnn", side, 1, where.scan_patterns(side))
    size = default_stitching_size(model.config.model)
    count = min(len(groups), 2048)
    centres = groups.group_centres_px
    patches = np.ones((count, side, side, 1), np.complex64)
    canvas = square_around(centres, size)
    seconds = where.seconds(lambda: Stitcher(canvas, size).add(patches, centres[:count]), least=3)
    return {"seconds": seconds, "patterns_per_s": count / seconds}


def whole_run(where: Where, side: int, channels: int, batch: int, **fields: Any) -> Figures:
    """From a file, which the system has in its cache, to an image: loading, grouping, inference and stitching."""
    backend = get_backend("torch")
    model, _ = model_and_groups("cnn", side, channels, where.scan_patterns(side))
    execution = where.execution(inference_batch_size=batch, **fields)
    stages: Figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        path = save_scan(
            star(side, where.scan_patterns(side)), Path(temporary) / "scan.npz", compressed=False
        )

        def work() -> None:
            started = time.perf_counter()
            scan = load_scan(path)
            loaded = time.perf_counter()
            count = max(1, len(scan) // channels)
            groups = group_scan(scan, gridsize=round(channels**0.5), n_groups=count, seed=0)
            grouped = time.perf_counter()
            image = backend.infer(model, groups, execution=execution)
            stages.update(
                load_s=loaded - started, group_s=grouped - loaded, infer_s=time.perf_counter() - grouped
            )
            stages.update({f"{name}_s": value for name, value in image.timings_s.items()})

        with where.peak(stages):
            seconds = where.seconds(work, least=3, budget_s=4.0)
    return {
        "seconds": seconds,
        "patterns_per_s": len(star(side, where.scan_patterns(side))) / seconds,
        **stages,
    }


def refinement_pass(where: Where, side: int, folder: Path, **options: Any) -> Figures:
    """Passes of a whole scan; with `options` of a `RefinementConfig`."""
    scan = star(side, where.scan_patterns(side))
    found: Figures = {}
    with where.peak(found):
        started = time.perf_counter()
        plan = plan_refinement(None, scan, RefinementConfig(passes=9, **options))
        planned = time.perf_counter()
        steps = Refiner(plan.problem, plan.state.canvas, plan.state.probe, where.execution())
        refinement = Refinement(plan, steps, "torch")
        where.synchronise()
        found |= {"plan_s": planned - started, "load_s": time.perf_counter() - planned}
        passes = refinement.passes()
        rates, seconds = [], []
        for record, _ in zip(passes, range(7), strict=False):
            seconds.append(record.seconds)
            rates.append(len(scan) / record.seconds)
    # the first passes have fewer settings, and warm up
    found |= {"seconds": float(np.median(seconds[3:])), "batches": record.batches}
    found["frame_iterations_per_s"] = float(np.median(rates[3:]))
    name = f"refinement pass, N {side}, {record.batches} batches, {options or 'object alone'}"
    return found | profiled(where, name, lambda: next(passes), found["seconds"], folder)


def until_good(where: Where, side: int, count: int, engine: str, left: Callable[[], float]) -> Figures:
    """Seconds of an engine of `refinement.py` until the phase correlates by `GOOD` with the object; second run."""
    scan = simulate_star(side, count, n_photons=1e6)
    stages: dict[str, Callable[[int], Iterator[Any]]] = {
        "torch": lambda _: ours("torch", scan, 1, where.device),
        "pty-chi": lambda epochs: ptychi(scan, 1, where.device, False, epochs),
        "pty-chi compact": lambda epochs: ptychi(scan, 1, where.device, True, epochs),
    }
    for _ in zip(stages[engine](2), range(2), strict=False):
        pass
    seconds, best, found = [], 0.0, Figures()
    begun = time.perf_counter()
    for now, passes, image in stages[engine](100):
        seconds.append(now)
        correlation = float(np.nan_to_num(compare(image, scan).phase_correlation_ramp_removed))
        best = max(best, correlation)
        if correlation >= GOOD:
            found |= {"seconds": now, "passes": passes}
            break
        if left() < 2.0 or time.perf_counter() - begun > LONGEST_S:
            break
    found["best"] = best
    if len(seconds) > 2:
        found["frame_iterations_per_s"] = len(scan) * (len(seconds) - 1) / (seconds[-1] - seconds[0])
    return found
