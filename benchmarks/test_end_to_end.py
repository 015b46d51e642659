"""From a scan file to a trained model and an image: the waiting time of a user, compiling included.

Floor: the convolutions of as many steps and inferences (`floor.py`).
"""

import numpy as np
import pytest
from floor import in_turn, make_case

from ptycho_backends import workflows
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.registry import installed_backends
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.training.plan import plan_training

BATCH = 16


@pytest.mark.parametrize("gridsize", [1, pytest.param(2, marks=pytest.mark.large)], ids=["g1", "g2"])
@pytest.mark.parametrize("name", [name for name in ("torch", "tensorflow") if name in installed_backends()])
def test_end_to_end(benchmark, make_scan, execution, name, gridsize, tmp_path):
    batches = 8 if benchmark.enabled else 1
    scan = make_scan(BATCH * batches)
    path = save_scan(scan, tmp_path / "scan.npz")
    config = TrainingConfig(
        model=ModelConfig(N=64, n_filters_scale=1, gridsize=gridsize),
        n_groups=BATCH * batches,
        batch_size=BATCH,
        nepochs=1,
        validation_share=0.0,
    )
    results = []

    def work() -> None:
        results.append(workflows.run(path, config, tmp_path / "out", backend=name, execution=execution))

    if benchmark.enabled:
        case = make_case(name, plan_training(scan, config, name), execution)
        floors = [one for layer in case.convolutions for one in (layer.both, layer.forward)]
        for floor in floors:
            floor()
        case.forget_peak()
        work()
        benchmark.extra_info["peak_mib"] = case.peak_mib()
        median = in_turn(benchmark, work, floors, rounds=3, timed=case.timed, share=1 / batches)
        benchmark.extra_info["groups_per_second"] = BATCH * batches / median
    else:
        benchmark(work)
    assert np.isfinite(results[-1].reconstruction.object).all()
