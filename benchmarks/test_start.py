"""Seconds until a fresh Python has imported the package, or shown the help. Floor: a Python that does nothing."""

import subprocess
import sys

import pytest
from floor import in_turn, seconds_of


@pytest.mark.parametrize(
    "code",
    [
        "import ptycho_backends",
        "from ptycho_backends.cli import app; app(['--help'], standalone_mode=False)",
        "import ptycho_backends.workflows",
    ],
    ids=["import", "help", "workflows"],
)
def test_start(benchmark, code):
    outputs = []

    def fresh(code: str) -> bytes:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr

    in_turn(benchmark, lambda: outputs.append(fresh(code)), [lambda: fresh("pass")])
    assert set(outputs) == {b""}


# What a program of the library does, and what the command line does, with the same model and scan.
INFER = {
    "library": """
from ptycho_backends import get_backend
from ptycho_backends.scans.scan_files import load_scan
def infer(model, scan, folder):
    backend = get_backend("torch")
    return backend.infer(backend.load(model), load_scan(scan))
""",
    "program": """
from ptycho_backends.cli import app
def infer(model, scan, folder):
    app(["infer", model, scan, "-o", folder, "-b", "torch", "-q", "--overwrite"], standalone_mode=False)
""",
}
COLD = "{infer}\nimport sys\ninfer(*sys.argv[1:])"
WARM = """
import sys, time
started = time.perf_counter()
import torch
imported = time.perf_counter()
{infer}
infer(*sys.argv[1:])
warm = time.perf_counter()
infer(*sys.argv[1:])
print("seconds:", imported - started + time.perf_counter() - warm)
"""


@pytest.mark.large
@pytest.mark.parametrize("way", sorted(INFER))
def test_cold_inference(benchmark, way, tmp_path):
    """A fresh process makes the image of 500 patterns. Floor: the import of torch, and the same in a warm process."""
    pytest.importorskip("torch")
    from ptycho_backends import workflows
    from ptycho_backends.config import ModelConfig, TrainingConfig
    from ptycho_backends.scans.scan_files import save_scan
    from ptycho_backends.scans.simulate import simulate_star

    scan, model = tmp_path / "scan.npz", tmp_path / "model"
    save_scan(simulate_star(64, 500), scan)
    config = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), nepochs=1, n_groups=16)
    workflows.train(scan, config, model, backend="torch")
    given = [str(model / "wts.h5.zip"), str(scan), str(tmp_path / "image")]

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    def cold() -> float:
        if way == "library":
            return seconds_of(lambda: run("-c", COLD.format(infer=INFER[way]), *given))
        options = ("-o", given[2], "-b", "torch", "-q", "--overwrite")
        return seconds_of(lambda: run("-m", "ptycho_backends", "infer", *given[:2], *options))

    def warm() -> float:
        return float(run("-c", WARM.format(infer=INFER[way]), *given).rpartition("seconds:")[2])

    in_turn(benchmark, cold, [warm], rounds=5, timed=lambda work: work())
    assert (tmp_path / "image").is_dir() == (way == "program")
