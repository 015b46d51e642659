"""Shared fixtures, and the selection of tested backends.

`--backend=torch` (or `tensorflow`; may be repeated) runs the tests of that backend and of the
framework-free core, and fails if its framework is missing. Without it every installed framework is
tested, Ptychodus too where it is installed, and a line at the end names the others.
"""

import gc
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"torch": ("torch", "lightning"), "tensorflow": ("tensorflow", "keras")}
FOLDERS = {"ptycho_torch": "torch", "torch": "torch", "tensorflow": "tensorflow"}

if "PYTEST_XDIST_WORKER" in os.environ:
    # the workers share the processor
    os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    # a look for garbage passes over two frameworks; by default 6 % of the time of TensorFlow's tests
    gc.set_threshold(50_000)

if find_spec("torch") is not None:
    # Keras reports a crash when TensorFlow is imported first in a process that uses both.
    import torch  # noqa: F401

# Fixed examples: a red run is red again when it is repeated. No deadline: the machines are noisy.
settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=sorted(FRAMEWORKS),
        help="test only this backend, and fail if it is missing",
    )


def missing(framework: str) -> list[str]:
    return [module for module in FRAMEWORKS[framework] if find_spec(module) is None]


def pytest_configure(config: pytest.Config) -> None:
    # a shell starts its background jobs with Ctrl-C ignored; the tests of Ctrl-C need it heard
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in config.getoption("--backend") or ():
        if missing(name):
            raise pytest.UsageError(f"--backend={name}: {', '.join(missing(name))} not installed")


def why_not(name: str, config: pytest.Config) -> str | None:
    """Reason not to collect the tests of backend `name`; None to collect them."""
    asked = config.getoption("--backend")
    if asked and name not in asked:
        return "not asked for"
    return f"{', '.join(missing(name))} not installed" if missing(name) else None


def why_not_ptychodus(config: pytest.Config) -> str | None:
    """Reason not to collect `tests/ptychodus`; None to collect them."""
    if config.getoption("--backend"):
        return "not asked for"
    return None if find_spec("ptychodus") is not None else "ptychodus not installed; nox -s ptychodus"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.parent == REPOSITORY / "tests" and collection_path.name in FOLDERS:
        return True if why_not(FOLDERS[collection_path.name], config) else None
    if collection_path == REPOSITORY / "tests" / "ptychodus":
        return True if why_not_ptychodus(config) else None
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in FRAMEWORKS:
        if reason := why_not(name, config):
            terminalreporter.write_line(f"not tested: the {name} backend ({reason})", yellow=True)
    if reason := why_not_ptychodus(config):
        terminalreporter.write_line(f"not tested: with Ptychodus ({reason})", yellow=True)


@pytest.fixture(autouse=True)
def params_cfg_as_new() -> Iterator[None]:
    """`params.cfg` is one dictionary for the whole process; each test finds the defaults."""
    from ptycho_backends.params import params

    params.cfg.clear()
    params.cfg.update(params.defaults())
    yield
    params.cfg.clear()
    params.cfg.update(params.defaults())


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real scans and genuine archives: `PTYCHO_SHARED`, or `../shared`."""
    named = os.environ.get("PTYCHO_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"PTYCHO_SHARED names {folder}, which is not there")
    pytest.skip(f"no {folder}; set PTYCHO_SHARED to the folder with scans and archives")
