"""Two processes on two cores against one on one: a ratio, of epochs measured in turn.

Opt-in, because it needs two cores that nothing else uses: `pytest benchmarks/test_devices.py --benchmark-enable`.
With one thread each, `OMP_NUM_THREADS=1`.
"""

import multiprocessing
import time

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.scans.grouping import group_scan

LEAST_GAIN = 1.7
EPOCHS = 5


def seconds_of_work(seconds: float) -> float:
    """Plain convolutions per second on one core, measured for `seconds`."""
    import torch

    torch.set_num_threads(1)
    layer, image = torch.nn.Conv2d(32, 32, 3, padding=1), torch.ones(8, 32, 32, 32)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        layer(image).sum().backward()
        done += 1
    return done / (time.perf_counter() - started)


def gain_of_two_cores() -> float:
    """Throughput of two independent processes over that of one: the upper limit of any gain."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(seconds_of_work, [0.5, 0.5], 1)
        alone = pool.apply(seconds_of_work, (3.0,))
        return sum(pool.map(seconds_of_work, [3.0, 3.0], 1)) / alone


def test_two_processes(request, make_scan):
    if not request.config.getoption("--benchmark-enable"):
        pytest.skip("needs two idle cores; --benchmark-enable")
    torch = pytest.importorskip("torch")
    from ptycho_torch.backend.backend import TorchBackend

    torch.set_num_threads(1)
    groups = group_scan(make_scan(256), n_groups=256, seed=0)
    config = TrainingConfig(
        model=ModelConfig(N=64, n_filters_scale=1), nepochs=EPOCHS, batch_size=16, validation_share=0.0
    )

    def fastest_epoch(devices: int) -> float:
        run = ExecutionConfig(
            accelerator="cpu", devices=devices, enable_progress_bar=False, logger_backend=None
        )
        history = TorchBackend().train(groups, config, execution=run).history
        assert np.isfinite(history[-1].train_loss)
        return min(record.seconds for record in history)

    alone, together = fastest_epoch(1), fastest_epoch(2)
    gain, most = alone / together, gain_of_two_cores()
    rates = f"{256 / alone:.1f} groups/s alone, {256 / together:.1f} together"
    text = f"{rates}: {gain:.2f} times; two cores give {most:.2f}"
    request.node.add_report_section("call", "devices", text)
    assert gain >= LEAST_GAIN, text
