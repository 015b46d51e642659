"""Learn the fast pace of refinement on scans that train networks, and measure it on others.

    python benchmarks/pace.py [--tries N] [--measure]

Settings are drawn at random; of those that take at most 0.7 of the time of ten passes of the usual pace, the one whose
images are closest to the known objects wins. `--measure` compares the pace that the library has, without learning. The
scans are those of the folder that PTYCHO_SHARED names (default ../shared).
"""

# ruff: noqa: T201 - this is a program
import argparse
import logging
import os
import time
from pathlib import Path

import numpy as np
from quality import CPU, middle_of

from ptycho_backends import RefinementConfig, Scan, compare, get_backend, load_scan
from ptycho_backends.refinement.schedule import PACES, Pace, Phase

SHARED = Path(os.environ.get("PTYCHO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
LEARNED_ON = ("sim_n64_train", "siemens_n64_train", "sim_n128_train")
MEASURED_ON = ("sim_n64_test", "siemens_n64_test", "sim_n128_test")
# Positions of each scan that is learned from.
POSITIONS = 400
# Passes of the usual pace that are to be reached, and the fraction of their time.
REACHED, TIME = 10, 0.7
PHASES = (
    (Phase(3, 6), Phase(2, 3), Phase(2, 1)),
    (Phase(4, 6), Phase(2, 3), Phase(1, 1)),
    (Phase(5, 6), Phase(1, 3), Phase(1, 1)),
    (Phase(4, 8), Phase(2, 4), Phase(1, 1)),
    (Phase(3, 8), Phase(2, 3), Phase(1, 1)),
    (Phase(5, 8), Phase(1, 2), Phase(1, 1)),
)


def middle(name: str) -> Scan:
    """The positions around the middle of a scan."""
    scan = load_scan(SHARED / "data" / f"{name}.npz")
    distance = np.abs(scan.scan_positions_px - middle_of(scan.scan_positions_px)).max(axis=1)
    return scan.part(np.sort(np.argsort(distance, kind="stable")[:POSITIONS]))


def measured(scans: list[Scan], config: RefinementConfig) -> tuple[np.ndarray, float]:
    """Phase correlations without ramps, and the processor's seconds for all."""
    backend = get_backend("torch")
    correlations, seconds = [], 0.0
    for scan in scans:
        started = time.process_time()
        image = backend.refine(None, scan, config, execution=CPU)
        seconds += time.process_time() - started
        correlations.append(compare(image, scan).phase_correlation_ramp_removed)
    return np.array(correlations), seconds


def learn(tries: int) -> None:
    """Draw settings, print each, and put the best one in the place of the library's."""
    rng = np.random.default_rng(0)
    scans = [middle(name) for name in LEARNED_ON]
    measured(scans[:1], RefinementConfig(passes=1))
    reached, time_s = measured(scans, RefinementConfig(passes=REACHED))
    least = np.inf
    kept = PACES["fast"]
    for number in range(tries):
        strength = float(rng.choice([10, 20, 30, 40]))
        limit = strength * float(rng.choice([3, 5, 8]))
        drawn = Pace(PHASES[number % len(PHASES)], float(rng.choice([0.05, 0.1, 0.15])), strength, limit)
        PACES["fast"] = drawn
        found, seconds = measured(scans, RefinementConfig(pace="fast"))
        # the logarithm of the remaining error, relative to what is to be reached
        error = float(np.log((1 - found) / (1 - reached)).mean())
        print(f"{error:+.3f} in {seconds / time_s:.2f} of the time: {drawn}", flush=True)
        if seconds <= TIME * time_s and error < least:
            least, kept = error, drawn
    PACES["fast"] = kept
    print("learned:", kept)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tries", type=int, default=30)
    parser.add_argument("--measure", action="store_true")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    if not options.measure:
        learn(options.tries)
    scans = [load_scan(SHARED / "data" / f"{name}.npz") for name in MEASURED_ON]
    measured(scans[:1], RefinementConfig(passes=1))
    rounds = [
        (measured(scans, RefinementConfig(passes=REACHED)), measured(scans, RefinementConfig(pace="fast")))
        for _ in range(3)
    ]
    (reached, _), (found, _) = rounds[0]
    for name, before, now in zip(MEASURED_ON, reached, found, strict=True):
        print(f"{name}: {REACHED} passes {before:.4f}, fast {now:.4f}")
    print(f"time: {np.median([fast[1] / usual[1] for usual, fast in rounds]):.2f}")


if __name__ == "__main__":
    main()
