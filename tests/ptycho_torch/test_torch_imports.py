"""What importing the backend brings: no Lightning before training, and whatever `MPLBACKEND` names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import new_model
from ptycho_torch.backend.backend import TorchBackend

REPOSITORY = Path(__file__).resolve().parents[2]

RECONSTRUCTS = """
import sys
from ptycho_backends import ExecutionConfig, get_backend
from ptycho_backends.scans.simulate import simulate_star
backend = get_backend("torch")
image = backend.infer(backend.load(sys.argv[1]), simulate_star(16, 9), execution=ExecutionConfig(accelerator="cpu"))
assert image.object.any()
print(sorted({"lightning", "torchmetrics", "matplotlib", "skimage"} & set(sys.modules)))
"""


def python(*arguments: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_matplotlib_backend_of_another_environment_is_ignored() -> None:
    """Lightning imports torchmetrics, which imports matplotlib."""
    missing = "module://a_notebook_of_another_environment.backend_inline"
    python("-c", "import ptycho_torch.backend.training", MPLBACKEND=missing)


def test_a_model_reconstructs_without_lightning(tmp_path: Path) -> None:
    config = TrainingConfig(model=ModelConfig(N=16, architecture="unrolled", n_steps=1), nphotons=1e5)
    backend = TorchBackend()
    backend.save(new_model(simulate_star(16, 9), config, backend.name), tmp_path)
    assert python("-c", RECONSTRUCTS, str(tmp_path / "wts.h5.zip")) == "[]\n"
