"""A training NPZ, opened with NumPy alone: python open_training.py scan.npz"""

import json
import sys
from pathlib import Path

import numpy as np


def open_scan(path):
    """Patterns (M, N, N), positions (M, 2) `[x, y]` in object pixels, probe (N, N), and the metadata beside."""
    with np.load(path) as entries:
        patterns = entries["diff3d"]
        positions = np.stack([entries["xcoords"], entries["ycoords"]], axis=-1)
        probe = entries["probeGuess"]
    return patterns, positions, probe, json.loads(Path(f"{path}.metadata.json").read_text())


if __name__ == "__main__":
    patterns, positions, probe, metadata = open_scan(sys.argv[1])
    print(metadata["licence"], patterns.shape, positions.shape, probe.shape)
