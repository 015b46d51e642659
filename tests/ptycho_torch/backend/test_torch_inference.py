"""Predictions in batches: their size on the processor, and the memory that they use again."""

import os
import platform
import subprocess
import sys

import pytest

from ptycho_backends.config import ExecutionConfig, ModelConfig
from ptycho_torch.backend.inference import HOST_FEATURES, host_batch

# Page faults of the fourth image, after its memory has been asked for.
FAULTS = """
import resource
from ptycho_backends import ExecutionConfig, ModelConfig, TrainingConfig, get_backend
from ptycho_backends.simulate import simulate_star
from ptycho_backends.training.plan import plan_training

scan, execution = simulate_star(64, 128), ExecutionConfig(accelerator="cpu")
model = ModelConfig(architecture="cnn", n_filters_scale=1)
start = plan_training(scan, TrainingConfig(model=model), "torch", execution).start
backend = get_backend("torch")
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    backend.infer(start, scan, execution=execution)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the memory of glibc")
def test_an_image_uses_the_memory_of_the_last_batch_again():
    """The system took a tenth of an image's processor time to hand out the same pages again and again."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))
    }
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    pages_of_a_batch = 2 * HOST_FEATURES // os.sysconf("SC_PAGE_SIZE")
    assert int(ran.stdout) < pages_of_a_batch


@pytest.mark.parametrize(
    ("model", "precision", "groups"),
    [
        ({"n_filters_scale": 1}, "32-true", 32),
        ({"n_filters_scale": 2}, "32-true", 16),
        ({"n_filters_scale": 1}, "64-true", 16),
        ({"n_filters_scale": 1, "N": 128}, "32-true", 16),
        ({"n_filters_scale": 4, "N": 256}, "64-true", 1),
        ({"architecture": "unrolled", "n_filters_scale": 1, "gridsize": 2}, "32-true", 32),
    ],
)  # fmt: skip
def test_wide_features_are_predicted_in_smaller_batches(model, precision, groups):
    config = ModelConfig(**{"architecture": "cnn"} | model)
    assert host_batch(config, ExecutionConfig(precision=precision)) == groups
