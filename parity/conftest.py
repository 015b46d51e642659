"""Options and fixtures of the parity suite: the backends that are compared, and how thoroughly.

`--backend NAME` (may be repeated) asks for backends; one that does not load fails the run. Without it both
built-in ones are compared where their frameworks are installed, and a line at the end names the others.
`--parity-profile fast|ci|nightly`, or the variable PTYCHO_PARITY_PROFILE, sets the number of examples.
"""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # the workers share the processor
    os.environ |= {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    # a look for garbage passes over two frameworks; by default 6 % of the time of TensorFlow's tests
    gc.set_threshold(50_000)

if find_spec("torch") is not None:
    # before TensorFlow: Keras reports a crash the other way round
    import torch

    # TF32 has ten bits: it would be a third precision
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

# pytest imports the files here without their folder
sys.path.insert(0, str(Path(__file__).parent))
from stage_adapters import ADAPTERS, StageAdapter

from ptycho_backends.errors import PtychoBackendsError
from ptycho_backends.protocol import Backend
from ptycho_backends.registry import BUILT_IN, get_backend, installed_backends
from ptycho_backends.testing.parity import versions

EXAMPLES = {"fast": 16, "ci": 60, "nightly": 600}

for _name, _count in EXAMPLES.items():
    settings.register_profile(
        _name,
        max_examples=_count,
        deadline=None,
        # the nightly run looks where nobody looked before; the others repeat themselves
        derandomize=_name != "nightly",
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        print_blob=True,
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    # where `tests` are collected in the same run, its conftest has the option already
    with contextlib.suppress(ValueError):
        parser.addoption("--backend", action="append", help="compare this backend, and fail if it is missing")
    parser.addoption(
        "--parity-profile",
        choices=sorted(EXAMPLES),
        default=os.environ.get("PTYCHO_PARITY_PROFILE", "fast"),
        help="how many examples are drawn",
    )


def names(config: pytest.Config) -> list[str]:
    """The backends of this run."""
    return list(config.getoption("--backend") or installed_backends())


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(config.getoption("--parity-profile"))
    if not names(config):
        raise pytest.UsageError("no framework is installed, so there is nothing to compare")
    for name in config.getoption("--backend") or ():
        try:
            get_backend(name)
        except PtychoBackendsError as error:
            raise pytest.UsageError(f"--backend={name}: {error}") from error


def pytest_report_header(config: pytest.Config) -> list[str]:
    found = ", ".join(f"{library} {version}" for library, version in versions().items())
    return [f"parity: {', '.join(names(config))}; profile {config.getoption('--parity-profile')}", found]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = [name for name in BUILT_IN if name not in names(config)]
    for name in left_out:
        terminalreporter.write_line(f"not compared: {name}", yellow=True)
    if len(names(config)) == 1:
        terminalreporter.write_line("not compared: backends with each other, there was only one", yellow=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = names(metafunc.config)
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", chosen, indirect=True, scope="session")
    if "adapter" in metafunc.fixturenames:
        metafunc.parametrize(
            "adapter", [name for name in chosen if name in ADAPTERS], indirect=True, scope="session"
        )


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """One backend after the other."""
    return get_backend(request.param)


@pytest.fixture(scope="session")
def adapter(request: pytest.FixtureRequest) -> StageAdapter:
    """One framework's single stages after the other's."""
    return ADAPTERS[request.param]()


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> dict[str, Backend]:
    """All of them, by name."""
    return {name: get_backend(name) for name in names(request.config)}


@pytest.fixture(scope="session")
def pair(backends: dict[str, Backend]) -> dict[str, Backend]:
    """At least two of them."""
    if len(backends) < 2:
        pytest.skip("compares two backends, and this run has one")
    return backends


@pytest.fixture(autouse=True)
def params_cfg_restored() -> Iterator[None]:
    """`params.cfg` is one dictionary for the whole process; every test finds it as it was before the others."""
    from ptycho_backends.params import params

    before = dict(params.cfg)
    yield
    params.cfg.clear()
    params.cfg.update(before)
