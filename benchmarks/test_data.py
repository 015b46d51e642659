"""Forming groups, gathering batches, stitching, archives: what no framework has a part in.

`extra_info` gives rates, and for the large ones the memory that was needed beyond what was there before.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptycho_backends.archive import load_archive, save_archive
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.grouping import GroupedData, group_scan
from ptycho_backends.preparation import new_model
from ptycho_backends.scan import load_scan, save_scan
from ptycho_backends.stitching import Canvas, Stitcher, stitch

COUNTS = [1_000, 10_000, 20_000, 100_000, 1_000_000]
SMALL = 20_000


@pytest.fixture
def count(request):
    """A size of the scan; the large ones are for measuring, not for testing."""
    if request.param > SMALL and not request.config.getoption("benchmark_enable"):
        pytest.skip("large: only with --benchmark-enable")
    return request.param


def measure(benchmark, items: int, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Time `call`, and tell items per second and the memory it needed at most."""
    result = benchmark(call, *arguments, **named)
    if benchmark.stats is not None:
        benchmark.extra_info["per_second"] = items / benchmark.stats.stats.median
        tracemalloc.start()
        call(*arguments, **named)
        benchmark.extra_info["peak_mb"] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    return result


@pytest.mark.parametrize("count", COUNTS, indirect=True)
def test_group_indices(benchmark, make_scan, count):
    groups = measure(
        benchmark, count, group_scan, make_scan(count, N=2), gridsize=2, neighbor_count=4, seed=0
    )
    assert groups.nn_indices.shape == (count, 4)


@pytest.mark.parametrize("kept", ["memory", "file"])
@pytest.mark.parametrize("count", [1_000, 10_000, 100_000], indirect=True)
def test_gather_batches(benchmark, make_scan, count, kept, tmp_path):
    """Sixteen batches of sixteen groups of four, from all over the scan."""
    N = 64 if count <= SMALL else 32
    scan = make_scan(count, N=N)
    if kept == "file":
        scan = load_scan(save_scan(scan, tmp_path / "scan.npz", compressed=False), mapped=True)
    groups = group_scan(scan, gridsize=2, n_groups=256, seed=0)
    assert groups.normalisation > 0

    def gather() -> float:
        batches = [groups.batch(slice(start, start + 16)) for start in range(0, 256, 16)]
        return float(batches[-1].diffraction_amplitude[-1, 0, 0, 0])

    assert measure(benchmark, 256, gather) >= 0


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_normalisation(benchmark, make_scan, kept, tmp_path):
    """Energies of every pattern: one pass over the scan."""
    scan = make_scan(4_000)
    path = save_scan(scan, tmp_path / "scan.npz", compressed=False)
    indices = np.arange(len(scan))[:, None]

    def normalise() -> float:
        return GroupedData(load_scan(path, mapped=kept == "file"), indices).normalisation

    assert measure(benchmark, len(scan), normalise) > 0


@pytest.mark.parametrize("count", [500, 2_000, 20_000, 100_000], indirect=True)
def test_stitching(benchmark, count):
    generator = np.random.default_rng(0)
    # the same number of patches over each pixel; 2,000 of them on a canvas of 624 pixels
    side = 600 * np.sqrt(count / 2_000)
    centres = generator.uniform(0, side, (count, 1, 2, 1))
    patches = np.resize(generator.normal(size=(2_000, 32, 32, 1)).astype(np.complex64), (count, 32, 32, 1))
    image, coverage, _ = measure(benchmark, count, stitch, patches, centres)
    assert np.isfinite(image).all()
    assert coverage.sum(dtype=float) == pytest.approx(count * 400, rel=1e-3)


@pytest.mark.parametrize("count", [1_000, 1_000_000], indirect=True)
def test_streamed_stitching(benchmark, count):
    """Patches as they are predicted, in batches of 1,000; a million of them lie on 20,000 pixels a side."""
    generator = np.random.default_rng(0)
    side = int(20 * np.sqrt(count))
    patches = generator.normal(size=(1_000, 32, 32, 1)).astype(np.complex64)
    x = np.tile(np.linspace(20, side - 20, 1_000), count // 1_000)
    y = np.repeat(np.linspace(20, side - 20, count // 1_000), 1_000)
    centres = np.stack([x, y], axis=-1)[:, None, :, None]

    def stream() -> float:
        stitcher = Stitcher(Canvas(side, side, np.zeros(2)), 20)
        for start in range(0, count, 1_000):
            stitcher.add(patches, centres[start : start + 1_000])
        _, coverage = stitcher.result()
        return float(coverage.sum(dtype=float))

    total = benchmark.pedantic(stream, rounds=1 if count > SMALL else 3)
    if benchmark.stats is not None:
        benchmark.extra_info["per_second"] = count / benchmark.stats.stats.median
    assert total == pytest.approx(count * 400, rel=1e-3)


@pytest.fixture
def model():
    return new_model(None, TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1)), "torch")


def test_save_archive(benchmark, model, tmp_path):
    path = benchmark(save_archive, model, tmp_path / "wts.h5.zip")
    benchmark.extra_info["mb"] = path.stat().st_size / 1e6
    assert path.stat().st_size <= 3e6


def test_load_archive(benchmark, model, tmp_path):
    loaded = benchmark(load_archive, save_archive(model, tmp_path / "wts.h5.zip"))
    np.testing.assert_array_equal(loaded.weights["probe"], model.weights["probe"])
