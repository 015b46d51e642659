"""A scan many times larger than memory: trains on groups from all over it, reconstructs and refines a region.

    python benchmarks/larger_than_memory.py --gib 30                    # 30 GiB of uint16 patterns
    python benchmarks/larger_than_memory.py --gib 30 --dtype float32    # which are checked, all of them

The patterns lie in a sparse `.npy` file, which is deleted at the end: those that are read are simulated, the
others are holes, which cost a reader as much as numbers do but no room on the disk. A line of JSON holds the
seconds of each stage and the largest resident memory.
"""

import argparse
import dataclasses
import json
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_backends import ModelConfig, Scan, TrainingConfig, get_backend, open_patterns
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.scans.grouping import GroupedData, groups_for_training
from ptycho_backends.scans.neighbours import NeighbourChoice, group_around, seeds_within
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.values import Reconstruction

N = 64
STEP_PX = 3.0
# The patterns of one simulated scan, which stand at every position in turn.
MODELS = 256


def positions(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A jittered raster."""
    side = int(np.ceil(np.sqrt(count)))
    row, column = np.divmod(np.arange(count), side)
    jitter = np.random.default_rng(0).uniform(-0.5, 0.5, (2, count))
    return STEP_PX * column + jitter[0], STEP_PX * row + jitter[1]


def settings(groups: int) -> TrainingConfig:
    return TrainingConfig(
        model=ModelConfig(N=N, gridsize=2, n_filters_scale=1), n_groups=groups, nepochs=1, batch_size=16, nphotons=1e5
    )  # fmt: skip


def region(scan: Scan, share: float) -> GroupedData:
    """Groups around the positions in a corner of the scan that is `share` of its width."""
    bounds = (0.0, share)
    return group_around(
        scan, seeds_within(scan, bounds, bounds), NeighbourChoice(4, neighbor_count=4, groups_per_seed=1), seed=0
    )  # fmt: skip


def probe() -> np.ndarray:
    """The probe of the simulated patterns."""
    return simulate_star(N, 9, n_photons=1e5, seed=0).probe_guess


def write_patterns(path: Path, count: int, dtype: str, wanted: np.ndarray) -> None:
    """`count` patterns, those of the numbers `wanted` simulated, the rest holes."""
    models = simulate_star(N, MODELS, n_photons=1e5, seed=0, measurement="intensity").patterns[:]
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_2_0(
            stream, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count, N, N)}
        )
        start, size = stream.tell(), N * N * np.dtype(dtype).itemsize
        for number in wanted.tolist():
            stream.seek(start + number * size)
            stream.write(models[number % MODELS].astype(dtype).tobytes())
        stream.truncate(start + count * size)


def work(
    scan: Scan, config: TrainingConfig, share: float, backend: str
) -> tuple[Reconstruction, dict[str, Any]]:
    """Train, reconstruct and refine a region; return the images and the seconds of each stage."""
    chosen = get_backend(backend)
    execution = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend=None,
                                enable_checkpointing=False)  # fmt: skip
    started = time.perf_counter()
    model = chosen.train(scan, config, execution=execution)
    trained = time.perf_counter()
    image = chosen.infer(model, region(scan, share), execution=execution)
    reconstructed = time.perf_counter()
    numbers = np.unique(region(scan, share).nn_indices)
    refined = chosen.refine(None, scan.part(numbers).with_probe(probe()), execution=execution)
    seconds = {
        "train": trained - started,
        "reconstruct": reconstructed - trained,
        "refine": time.perf_counter() - reconstructed,
    }
    image = dataclasses.replace(image, start=refined)
    return image, {
        "seconds": seconds,
        "refined_error": refined.passes[-1].error,
        "loss": model.history[-1].train_loss,
        "image": image.object.shape,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gib", type=float, default=30.0, help="size of the patterns")
    parser.add_argument("--dtype", default="uint16", help="uint16, float32, ...")
    parser.add_argument("--groups", type=int, default=400, help="groups of the one epoch")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--folder", type=Path, help="where the file lies for a while")
    parser.add_argument("--compare", action="store_true", help="with the same in memory; for small ones")
    options = parser.parse_args(arguments)
    count = int(options.gib * 2**30 / (N * N * np.dtype(options.dtype).itemsize))
    x, y = positions(count)
    share = min(1.0, 40 / np.sqrt(count))
    config = settings(min(options.groups, count))
    # groups depend on the positions alone, so patterns of one pixel are enough to find the needed ones
    bare = Scan(x, y, np.broadcast_to(np.uint8(1), (count, 1, 1)))
    wanted = np.union1d(groups_for_training(bare, config).nn_indices, region(bare, share).nn_indices)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "patterns.npy")
        write_patterns(path, count, options.dtype, wanted)
        started = time.perf_counter()
        scan = Scan(x, y, open_patterns(path), measurement="intensity")
        opened = time.perf_counter() - started
        image, result = work(scan, config, share, options.backend)
        result["seconds"]["open"] = opened
        result |= {
            "positions": count,
            "gib": options.gib,
            "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }
        if options.compare:
            loaded = Scan(x, y, np.load(path), measurement="intensity")
            same, _ = work(loaded, config, share, options.backend)
            result["same_as_in_memory"] = bool(
                np.array_equal(image.object, same.object)
                and np.array_equal(image.coverage, same.coverage)
                and np.array_equal(image.start.object, same.start.object)
            )
    return result


if __name__ == "__main__":
    print(json.dumps(main()))  # noqa: T201 - its output
