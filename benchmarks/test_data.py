"""Forming groups and stitching, which no framework has a part in."""

import numpy as np
import pytest

from ptycho_backends.grouping import group_scan
from ptycho_backends.stitching import stitch


@pytest.mark.parametrize("count", [1_000, 20_000])
def test_group_indices(benchmark, make_scan, count):
    scan = make_scan(count, N=2)
    groups = benchmark(group_scan, scan, gridsize=2, neighbor_count=4, seed=0)
    assert groups.nn_indices.shape == (count, 4)


@pytest.mark.parametrize("count", [500, 2_000])
def test_stitching(benchmark, count):
    generator = np.random.default_rng(0)
    centres = generator.uniform(0, 600, (count, 1, 2, 1))
    patches = generator.normal(size=(count, 64, 64, 1)).astype(np.complex64)
    image, coverage, _ = benchmark(stitch, patches, centres)
    assert np.isfinite(image).all()
    assert coverage.sum() == pytest.approx(count * 400, rel=1e-3)
