"""Forming groups, gathering batches, stitching, archives: work without a framework.

Each stands beside a floor: its one indispensable operation, in plain form. `extra_info` holds items per
second and the most memory that was allocated.
"""

import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from floor import in_turn, seconds_of
from scipy.spatial import cKDTree

from ptycho_backends.archive.model_file import load_archive, save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.images.stitching import Canvas, Stitcher
from ptycho_backends.scans.grouping import GroupedData, group_scan
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.training.plan import new_model

LARGE = [pytest.param(count, marks=pytest.mark.large) for count in (100_000, 1_000_000)]
SHARD_SIZES = [1_000, 10_000, *LARGE]

# Patches are predicted, and added, in batches.
BATCH = 1_000
STITCHED = 20
# Three float64 images of 20,000 pixels a side, and something to spare. Patches here and there need nearly all of
# it: Linux gives memory away in pages of 2 MiB, if asked for much.
MEMORY_OF_LARGE_CANVAS = 12 * 2**30


def measure(
    benchmark, items: int, call: Callable[[], Any], floor: Callable[[], Any], share: float = 1.0
) -> Any:
    """Time `call` beside `floor`, which does the fraction `share` of the least work; return the result of `call`."""
    if not benchmark.enabled:
        return benchmark(call)
    results = []
    tracemalloc.start()
    seconds = seconds_of(lambda: results.append(call()))
    benchmark.extra_info["peak_mib"] = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    floor()
    # as often as takes as long, so that other jobs on the machine interrupt both alike
    times = round(min(max(seconds / seconds_of(floor), 1), 200))
    rounds = 3 if seconds > 3 else int(min(max(2 / seconds, 7), 50))
    median = in_turn(benchmark, call, [floor] * times, rounds=rounds, share=share * times)
    benchmark.extra_info["per_second"] = items / median
    return results[0]


@pytest.mark.parametrize("count", [*SHARD_SIZES, 20_000])
def test_grouping(benchmark, make_scan, count):
    """Floor: the neighbours of every position, from a tree."""
    scan = make_scan(count, N=2)
    positions = scan.scan_positions_px
    groups = measure(
        benchmark,
        count,
        lambda: group_scan(scan, gridsize=2, neighbor_count=4, seed=0),
        lambda: cKDTree(positions).query(positions, k=5, workers=-1),
    )
    assert groups.nn_indices.shape == (count, 4)


@pytest.mark.parametrize("kept", ["memory", "file"])
@pytest.mark.parametrize("count", SHARD_SIZES[:3])
def test_gather_batches(benchmark, make_scan, count, kept, tmp_path):
    """Sixteen batches of sixteen groups of four, from all over the scan. Floor: a copy of their patterns."""
    N = 64 if count <= 10_000 else 32
    scan = make_scan(count, N=N)
    if kept == "file":
        scan = load_scan(save_scan(scan, tmp_path / "scan.npz", compressed=False), mapped=True)
    groups = group_scan(scan, gridsize=2, n_groups=256, seed=0)
    assert groups.normalisation > 0

    def gather() -> float:
        batches = [groups.batch(slice(start, start + 16)) for start in range(0, 256, 16)]
        return float(batches[-1].diffraction_amplitude[-1, 0, 0, 0])

    def copy() -> Any:
        return scan.patterns[groups.nn_indices.reshape(-1)].astype(np.float32)

    assert measure(benchmark, 256, gather, copy) >= 0


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_normalisation(benchmark, make_scan, kept, tmp_path):
    """Energies of every pattern: one pass over the scan. Floor: their sum, in memory."""
    scan = make_scan(4_000)
    path = save_scan(scan, tmp_path / "scan.npz", compressed=False)
    indices = np.arange(len(scan))[:, None]

    def normalise() -> float:
        return GroupedData(load_scan(path, mapped=kept == "file"), indices).normalisation

    assert measure(benchmark, len(scan), normalise, lambda: scan.patterns[:].sum()) > 0


def stitching(count: int, side: int) -> tuple[Callable[[], float], Callable[[], Any], float]:
    """Adding `count` patches all over a square of `side` pixels; the adding of numbers alone, and its share."""
    generator = np.random.default_rng(0)
    # a raster, row by row as it is measured, a little off
    columns = round(count**0.5)
    pitch = (side - STITCHED - 4) / columns
    y, x = np.divmod(np.arange(count), columns)
    centres = np.stack([x, y], axis=-1) * pitch + generator.uniform(0, min(1, pitch), (count, 2))
    centres = (centres + STITCHED / 2 + 1)[:, None, :, None]
    patches = generator.normal(size=(BATCH, 32, 32, 1)).astype(np.complex64)

    def stitch() -> float:
        stitcher = Stitcher(Canvas(side, side, np.zeros(2)), STITCHED)
        for start in range(0, count, BATCH):
            stitcher.add(patches[: count - start], centres[start : start + BATCH])
        _, coverage = stitcher.result()
        return float(coverage.sum(dtype=float))

    # the numbers of as many patches, three images of them, to a square as small as a patch
    numbers = generator.normal(size=(BATCH, (STITCHED + 1) ** 2)).reshape(-1)
    pixels = np.tile(np.arange((STITCHED + 1) ** 2), BATCH)
    image = np.zeros((STITCHED + 1) ** 2)
    parts = min(count // BATCH, 20)

    def add() -> None:
        for _ in range(3 * parts):
            np.add.at(image, pixels, numbers)

    return stitch, add, parts * BATCH / count


@pytest.mark.parametrize("count", [*SHARD_SIZES, 2_000])
def test_stitching(benchmark, count):
    """Patches 5 pixels apart, as they are predicted. Floor: to add as many numbers."""
    stitch, add, share = stitching(count, int(5 * np.sqrt(count)) + 30)
    total = measure(benchmark, count, stitch, add, share)
    assert total == pytest.approx(count * STITCHED**2, rel=1e-3)


@pytest.fixture
def much_memory():
    if (free := free_memory()) < MEMORY_OF_LARGE_CANVAS:
        wanted = MEMORY_OF_LARGE_CANVAS / 2**30
        pytest.skip(f"large canvas: got {free / 2**30:.0f} GiB of free memory, want {wanted:.0f}")


@pytest.mark.large
def test_large_canvas(much_memory, benchmark):
    """Few patches, but all over 20,000 pixels a side. Floor: three such images, filled with ones."""
    side, count = 20_000, 10_000
    stitch, _, _ = stitching(count, side)

    def fill() -> None:
        for _ in range(3):
            np.ones(side**2 // 10)

    assert measure(benchmark, count, stitch, fill, 0.1) == pytest.approx(count * STITCHED**2, rel=1e-3)


def free_memory() -> int:
    """Bytes that nothing uses, or that the system would give back; without Linux, those of all memory."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0


@pytest.fixture
def model():
    return new_model(None, TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), nphotons=1e9), "torch")


def test_save_archive(benchmark, model, tmp_path):
    """Floor: the same arrays as plain NPZ."""
    path = measure(
        benchmark,
        1,
        lambda: save_archive(model, tmp_path / "wts.h5.zip"),
        lambda: np.savez(tmp_path / "plain.npz", **model.weights),
    )
    benchmark.extra_info["mb"] = path.stat().st_size / 1e6
    assert path.stat().st_size <= 3e6


def test_load_archive(benchmark, model, tmp_path):
    """Floor: the same arrays from plain NPZ."""
    path = save_archive(model, tmp_path / "wts.h5.zip")
    np.savez(tmp_path / "plain.npz", **model.weights)
    loaded = measure(
        benchmark, 1, lambda: load_archive(path), lambda: dict(np.load(tmp_path / "plain.npz").items())
    )
    np.testing.assert_array_equal(loaded.weights["probe"], model.weights["probe"])
