"""Examination of an installation: versions, devices, precisions, conflicts, disk, cluster, and a short self-test."""

import functools
import importlib.metadata
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptycho_backends.builtin_backends import BUILT_IN, is_importable
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, ConfigError, UnknownBackendError
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.registry import ENVIRONMENT_VARIABLE, backend_names, get_backends
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_backends.values import Batch, Weights

OK, NOTE, FAULT = "ok", "note", "fault"

LIBRARIES = ("numpy", "scipy", "h5py", "hdf5plugin", "matplotlib", "scikit-image")
ACCELERATORS = ("cpu", "cuda", "mps")
PRECISIONS = ("32-true", "64-true", "16-mixed", "bf16-mixed")
COMPILERS = ("c++", "g++", "clang++", "cl")
CLUSTER = (
    "SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TF_CONFIG", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip

LEAST_FREE_BYTES = 1 << 30
# Far above rounding in float64, far below any mistake.
SELF_TEST_TOLERANCE = 1e-8
LEGACY_PACKAGE = "ptycho"


@dataclass(frozen=True)
class Check:
    """Result of one examination.

    Attributes
    ----------
    name : str
    state : {'ok', 'note', 'fault'}
        A fault is something that does not work; a note is worth knowing.
    text : str
    cure : str
        Command or step that mends it; empty where there is nothing to do.
    """

    name: str
    state: str
    text: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"\n{'':30}-> {self.cure}" if self.cure else ""
        return f"{self.state:<6}{self.name:<24}{self.text}{cure}"


def examine(folder: Path | None = None) -> Iterator[Check]:
    """Examine this installation, one `Check` after the other; the slow ones come last.

    Parameters
    ----------
    folder : Path, optional
        Where results are to go. Default: the working directory.
    """
    yield from _versions()
    yield from _conflicts()
    yield _compiler()
    yield from _disks(Path.cwd() if folder is None else folder)
    yield from _cluster(os.environ)
    yield from _backends()


def _versions() -> Iterator[Check]:
    yield Check(
        "python", OK, f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} processors"
    )
    found = [f"{name} {_version(name)}" for name in ("ptycho-backends", *LIBRARIES)]
    missing = [name for name in LIBRARIES if _version(name) == "missing"]
    cure = f"pip install {' '.join(missing)}" if missing else ""
    yield Check("libraries", FAULT if missing else OK, ", ".join(found), cure)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _conflicts() -> Iterator[Check]:
    owners = {
        name
        for name in importlib.metadata.packages_distributions().get(LEGACY_PACKAGE, ())
        if name != "ptycho-backends"
    }
    if owners:
        yield Check(
            "conflict", FAULT,
            f"{', '.join(sorted(owners))} installs the package {LEGACY_PACKAGE!r} too; one hides the other",
            f"pip uninstall {' '.join(sorted(owners))}, or keep PtychoPINN in an environment of its own",
        )  # fmt: skip
    versions: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        match = re.fullmatch(r"(nvidia-.+)-cu(\d+)", distribution.metadata["Name"] or "")
        if match:
            versions.setdefault(match[2], set()).add(match[1])
    if len(versions) > 1:
        yield Check(
            "conflict", FAULT, f"libraries of CUDA {' and '.join(sorted(versions))} lie in one environment",
            "give each framework an environment of its own, or install versions of both for one CUDA",
        )  # fmt: skip
    if not owners and len(versions) <= 1:
        cuda = f"CUDA {next(iter(versions))} alone" if versions else "no CUDA libraries from PyPI"
        yield Check("conflicts", OK, f"none: no other package {LEGACY_PACKAGE!r}, {cuda}")


def _compiler() -> Check:
    named = os.environ.get("CXX")
    found = next(
        (path for path in map(shutil.which, (*([named] if named else []), *COMPILERS)) if path), None
    )
    if found is None:
        return Check(
            "compiler", NOTE, "no C++ compiler, so compile_network=True cannot generate code",
            "install one (Debian: apt install g++), or leave compile_network off",
        )  # fmt: skip
    return Check("compiler", OK, f"{found}, for compile_network")


def _disks(folder: Path) -> Iterator[Check]:
    for name, path in (("results", folder), ("temporary", Path(tempfile.gettempdir()))):
        try:
            free = shutil.disk_usage(path).free
            with tempfile.NamedTemporaryFile(dir=path):
                pass
        except OSError as error:
            yield Check(
                "disk", FAULT, f"{path}: cannot be written to ({error.strerror})", "choose another folder"
            )
            continue
        text = f"{free / 2**30:.1f} GiB free in {path} ({name})"
        full = free < LEAST_FREE_BYTES
        yield Check("disk", FAULT if full else OK, text, "free at least 1 GiB" if full else "")


def _cluster(environment: Mapping[str, str]) -> Iterator[Check]:
    held = {name: environment[name] for name in (*CLUSTER, ENVIRONMENT_VARIABLE) if name in environment}
    if not held:
        yield Check("cluster", OK, "no variable of a cluster is set")
        return
    text = ", ".join(f"{name}={value}" for name, value in held.items())
    try:
        json.loads(held.get("TF_CONFIG", "{}"))
    except ValueError as error:
        yield Check("cluster", FAULT, f"TF_CONFIG is no JSON ({error})", "unset TF_CONFIG, or correct it")
        return
    chosen = held.get(ENVIRONMENT_VARIABLE)
    if chosen is not None and chosen.lower() not in _known_names():
        yield Check(
            "cluster", FAULT, f"{ENVIRONMENT_VARIABLE}={chosen} names no backend",
            f"set it to one of {', '.join(_known_names())}",
        )  # fmt: skip
        return
    yield Check("cluster", NOTE, text)


def _known_names() -> tuple[str, ...]:
    return (*backend_names(), *(alias for entry in BUILT_IN.values() for alias in entry.aliases))


def _backends() -> Iterator[Check]:
    working = 0
    for name in backend_names():
        entry = BUILT_IN.get(name)
        if entry is not None and not all(map(is_importable, entry.frameworks)):
            yield Check(name, NOTE, "not installed", entry.install)
            continue
        try:
            backend = get_backends([name])[name]
        except (BackendUnavailableError, UnknownBackendError, ImportError, OSError) as error:
            cure = entry.install if entry is not None else f"reinstall the package of {name}"
            yield Check(name, FAULT, f"cannot be loaded: {error}", cure)
            continue
        working += 1
        frameworks = () if entry is None else entry.frameworks
        yield Check(name, OK, ", ".join(f"{one} {_version(one)}" for one in frameworks) or "loaded")
        yield from _devices(name, backend)
        yield self_test(name, backend)
    if not working:
        yield Check(
            "backends", FAULT, "none works", "; or ".join(entry.install for entry in BUILT_IN.values())
        )


def _devices(name: str, backend: Backend) -> Iterator[Check]:
    """The precisions that `backend` accepts on each device that it finds."""
    for accelerator in ACCELERATORS:
        accepted = []
        for precision in PRECISIONS:
            try:
                _try(backend, ExecutionConfig(accelerator=accelerator, precision=precision))
            except ConfigError:
                continue
            except Exception as error:
                text = f"{precision}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                cure = f"use another precision, or --accelerator cpu; drivers may be older than {name}"
                yield Check(f"{name} {accelerator}", FAULT, text, cure)
                continue
            accepted.append(precision)
        if accepted:
            yield Check(f"{name} {accelerator}", OK, ", ".join(accepted))


def _try(backend: Backend, execution: ExecutionConfig) -> None:
    """Compute one pattern; `ConfigError` where `backend` refuses the device or the precision."""
    config, weights, batch = _small_problem(backend.name)
    part = np.s_[:1]
    first = Batch(batch.diffraction_amplitude[part], batch.relative_offsets_px[part], batch.intensity_scale)
    backend.forward(config.model, weights, first, execution=execution)


def self_test(name: str, backend: Backend) -> Check:
    """Compare the predictions and the loss of `backend` in float64 with those of the reference, on a small problem."""
    started = time.perf_counter()
    config, weights, batch = _small_problem(backend.name)
    execution = ExecutionConfig(accelerator="cpu", precision="64-true")
    cure = f"run: ptycho-backends parity {name} for a report, and reinstall {name}"
    try:
        got = backend.forward(config.model, weights, batch, execution=execution)
        loss = backend.loss(config, weights, batch, execution=execution)["total"]
    except Exception as error:
        return Check(f"{name} self-test", FAULT, f"{type(error).__name__}: {error}", cure)
    want, expected = (
        reference.predict(config.model, weights, batch),
        reference.loss(config, weights, batch)["total"],
    )
    worst = max(
        float(np.abs(got.object - want.object).max() / np.abs(want.object).max()),
        float(np.abs(got.amplitude - want.amplitude).max() / np.abs(want.amplitude).max()),
        abs(loss - expected) / abs(expected),
    )
    seconds = time.perf_counter() - started
    text = f"differs from the reference by {worst:.1e} at most ({seconds:.1f} s)"
    sound = worst <= SELF_TEST_TOLERANCE
    return Check(f"{name} self-test", OK if sound else FAULT, text, "" if sound else cure)


@functools.cache
def _small_problem(backend: str) -> tuple[TrainingConfig, Weights, Batch]:
    scan = simulate_star(16, 12, seed=0)
    network = ModelConfig(N=16, architecture="unrolled", gridsize=2, n_steps=2, n_rounds=1)
    plan = plan_training(scan, TrainingConfig(model=network, nepochs=1), backend)
    return plan.config, plan.start.weights, plan.gather(np.arange(3), 1)
