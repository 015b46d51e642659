"""The examination of an installation: what it finds, and its exit code."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from oracle_backend import OracleBackend
from typer.testing import CliRunner

from ptycho_backends import registry
from ptycho_backends.cli.commands import app
from ptycho_backends.reference import model as reference
from ptycho_backends.testing import doctor


class ReferenceBackend(OracleBackend):
    """Computes with the reference itself, in its one precision."""

    name = "torch"
    error = 0.0

    def check_execution(self, execution):
        if execution.accelerator != "cpu" or execution.precision != "64-true":
            raise doctor.ConfigError("precision")

    def forward(self, config, weights, batch, *, execution=None):
        self.checked(execution)
        predicted = reference.predict(config, weights, batch)
        return dataclasses.replace(predicted, object=predicted.object * (1 + self.error))

    def loss(self, config, weights, batch, *, execution=None):
        return reference.loss(config, weights, batch)


class WrongBackend(ReferenceBackend):
    error = 1e-6


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """One backend, and no other: `only(ReferenceBackend)`."""

    def install(backend: type) -> None:
        monkeypatch.setattr(doctor, "backend_names", lambda: ("mine",))
        monkeypatch.setattr(doctor, "get_backends", lambda names: {"mine": backend()})
        for name in doctor.CLUSTER:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(registry.ENVIRONMENT_VARIABLE, raising=False)

    return install


def test_a_sound_installation(only, monkeypatch: pytest.MonkeyPatch) -> None:
    only(ReferenceBackend)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "everything works" in result.output
    # the one device and the one precision that this backend has
    assert "mine cpu                64-true\n" in result.output
    assert "mine cuda" not in result.output


def test_a_backend_that_computes_other_numbers_is_a_fault(only) -> None:
    only(WrongBackend)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "mine self-test          differs from the reference by 1.0e-06" in result.output
    assert "-> run: ptycho-backends parity mine" in result.output


def test_no_backend_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_importable", lambda module: False)
    checks = list(doctor._backends())
    assert [check.state for check in checks] == ["note"] * (len(checks) - 1) + ["fault"]
    assert "pip install 'ptycho-backends[torch]'" in checks[-1].cure


def test_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.metadata = {"Name": name}

    metadata = doctor.importlib.metadata
    monkeypatch.setattr(
        metadata, "packages_distributions", lambda: {"ptycho": ["ptycho-backends", "ptychopinn"]}
    )
    monkeypatch.setattr(
        metadata,
        "distributions",
        lambda: [Named("nvidia-cudnn-cu12"), Named("nvidia-cublas-cu13"), Named("numpy")],
    )
    legacy, cuda = doctor._conflicts()
    assert (legacy.state, cuda.state) == ("fault", "fault")
    assert "pip uninstall ptychopinn" in legacy.cure
    assert "CUDA 12 and 13" in cuda.text


def test_a_full_disk_and_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    states = [check.state for check in doctor._disks(tmp_path / "missing")]
    assert states[0] == "fault"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "free at least" in next(doctor._disks(tmp_path)).cure


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        ({"SLURM_NTASKS": "4"}, "note"),
        ({"TF_CONFIG": "{"}, "fault"),
        ({"PTYCHO_BACKEND": "jax"}, "fault"),
        ({"PTYCHO_BACKEND": "TF"}, "note"),
    ],
)
def test_variables_of_a_cluster(environment: dict[str, str], state: str) -> None:
    (check,) = doctor._cluster(environment)
    assert check.state == state


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._compiler().state == "note"
