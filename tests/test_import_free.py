"""Importing is cheap: no framework, no option set, no file written."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMEWORKS = ("torch", "lightning", "pytorch_lightning", "tensorflow", "keras", "ptycho_torch")
PACKAGES = ("ptycho", "ptycho_backends")


def module_names() -> list[str]:
    """Every module of the two packages outside the TensorFlow adapter."""
    found = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    paths = [path.relative_to(REPOSITORY) for path in found]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return [name for name in names if not name.startswith("ptycho_backends.tensorflow")]


def run(code: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("names", [["ptycho_backends"], module_names()], ids=["package", "every module"])
def test_no_framework_is_imported(names: list[str], tmp_path: Path) -> None:
    code = f"import {', '.join(names)}\nimport sys\nprint(sorted(set(sys.modules) & {set(FRAMEWORKS)!r}))"
    assert run(code, tmp_path) == "[]\n"


def test_importing_has_no_other_effect(tmp_path: Path) -> None:
    code = """
import logging, os, random, warnings
import numpy

def state():
    return (dict(os.environ), random.getstate(), numpy.random.get_state()[1].tolist(), numpy.geterr(),
            numpy.get_printoptions(), logging.getLogger().handlers[:], logging.getLogger().level,
            warnings.filters[:], os.getcwd())

before = state()
import ptycho_backends
assert state() == before
"""
    assert run(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


HEAVY = ("numpy", "scipy", "h5py", "hdf5plugin", "pyfive", "matplotlib", "skimage", *FRAMEWORKS)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import ptycho_backends", set()),
        ("from ptycho_backends.cli import app\napp(['--help'], standalone_mode=False)", set()),
        ("import ptycho_backends.workflows", {"numpy", "scipy"}),
        ("from ptycho_backends import load_scan, save_scan, open_patterns", {"numpy"}),
        ("from ptycho_backends import save_archive, load_archive", {"numpy", "scipy"}),
        ("from ptycho_backends import get_backend, ModelConfig, TrainingConfig", {"numpy"}),
    ],
    ids=["package", "help", "workflows", "scans", "archives", "backends"],
)
def test_what_takes_long_to_import_waits_until_it_is_used(
    code: str, allowed: set[str], tmp_path: Path
) -> None:
    tell = f"{code}\nimport sys\nprint(sorted(set(sys.modules) & {set(HEAVY)!r}))"
    assert set(ast.literal_eval(run(tell, tmp_path).splitlines()[-1])) <= allowed
