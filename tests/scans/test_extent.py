"""Canvases out of proportion to their patches are refused, and the strays named."""

import numpy as np
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.scans.extent import require_sane_canvas


def grid(step, count=8):
    axis = step * np.arange(count)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(float)


@pytest.mark.parametrize("step", [1, 10, 64, 200])
def test_scans_as_they_are_measured_pass(step):
    require_sane_canvas(grid(step), 64, "scan")


def test_a_glitch_is_named():
    positions = grid(10)
    positions[[5, 9]] = [[1e6, 3.0], [-2e6, 0.0]]
    with pytest.raises(
        ScanError, match=r"scan: .*far from all others: 5 at x = 1e\+06, y = 3, 9 at x = -2e\+06"
    ):
        require_sane_canvas(positions, 64, "scan")


def test_positions_in_another_unit_are_doubted():
    with pytest.raises(ScanError, match="are they in object pixels"):
        require_sane_canvas(grid(5e4), 64, "scan")
