"""Every routine task; `nox --list` is the index. Bare `nox` runs lint, types, tests."""

import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

CONSTRAINTS = ("-c", "constraints.txt")
IN_PARALLEL = ("-n", "auto", "--dist", "worksteal")  # `-- -n0` for one process

# In an environment without TensorFlow, and without pytest and Hypothesis, which the kit for backends needs.
IMPORT_ALL = """
import importlib, pkgutil, ptycho, ptycho_backends, ptycho_torch
found = [module.name for package in (ptycho, ptycho_backends, ptycho_torch)
         for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
wanted = [name for name in found if not name.endswith("__main__") and "tensorflow" not in name]
assert "site-packages" in ptycho_backends.__file__, ptycho_backends.__file__
for name in wanted:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("pytest", "hypothesis") or not name.startswith("ptycho_backends.testing."):
            raise
print(len(wanted), "modules imported from", ptycho_backends.__file__)
"""


def install(session: nox.Session, *extras: str, groups: tuple[str, ...] = ("test",)) -> None:
    """This package with `extras`; torch first, so that no other package chooses its build."""
    if "torch" in extras or "all" in extras:
        session.install(*CONSTRAINTS, "torch")
    project = f".[{','.join(extras)}]" if extras else "."
    dependency_groups = [part for group in groups for part in ("--group", group)]
    session.install("--upgrade", "pip>=25.1")
    session.install(*CONSTRAINTS, "-e", project, *dependency_groups)


@nox.session
def tests(session: nox.Session) -> None:
    """The framework-free core, with no framework installed."""
    install(session)
    session.run("pytest", "tests", *IN_PARALLEL, *session.posargs)


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """The framework-free core on the oldest Python, with the lowest versions that pyproject.toml allows."""
    session.install("--upgrade", "pip>=25.1")
    session.install("-c", "constraints-lowest.txt", "-e", ".", "--group", "test")
    session.run("pytest", "tests", *IN_PARALLEL, *session.posargs)


@nox.session
@nox.parametrize("framework", ["torch", "tensorflow"])
def backend(session: nox.Session, framework: str) -> None:
    """One backend's tests with only its framework installed."""
    install(session, framework)
    session.run("pytest", "tests", f"--backend={framework}", *IN_PARALLEL, *session.posargs)


@nox.session
def ptychodus(session: nox.Session) -> None:
    """Unmodified Ptychodus trains and reconstructs through both of its doors, on both frameworks."""
    install(session, "all", groups=("test", "ptychodus"))
    # tests that share a training run are in one process
    by_training = ("-n", "auto", "--dist", "loadscope", "--no-loadscope-reorder")
    session.run("pytest", "tests/ptychodus", *by_training, *session.posargs)


@nox.session(default=False)
def readers(session: nox.Session) -> None:
    """Readers of scans, with files that the genuine libraries write and read: cdtools, nexusformat, scipy.io, h5py."""
    install(session, "torch", "readers", groups=("test", "readers"))
    session.run("pytest", "tests/scans/readers", *session.posargs)


@nox.session(name="check-table", default=False)
def check_table(session: nox.Session) -> None:
    """The table of docs/check.md: faults put into real scans, and the findings and cures of `check_scan`; minutes."""
    install(session)
    session.run("python", "benchmarks/check_table.py", *session.posargs)


@nox.session(default=False)
def exports(session: nox.Session) -> None:
    """Models as ONNX, torch.export, SavedModel and LiteRT, each opened by its program in examples/."""
    install(session, "all", "export")
    session.run("pytest", "tests", "-m", "slow", *IN_PARALLEL, *session.posargs)


@nox.session(default=False)
def trackers(session: nox.Session) -> None:
    """Trainings in MLflow (a local SQLite store), TensorBoard and W&B (offline), with these themselves."""
    install(session, "all", "mlflow", "tensorboard", "wandb")
    session.run("pytest", "tests/training/test_tracking.py", *session.posargs)


@nox.session(default=False)
def optuna(session: nox.Session) -> None:
    """The example of a search for settings, with Optuna itself."""
    install(session, "torch", groups=("test", "optuna"))
    session.run("pytest", "tests/ptycho_torch/test_examples.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, spelling, the floors of the packages, plain English."""
    session.install("--upgrade", "pip>=25.1")
    session.install(*CONSTRAINTS, "--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-logo")
    session.run("codespell")
    session.run("python", "docs/prose.py")


@nox.session
def types(session: nox.Session) -> None:
    """Static types."""
    install(session, "torch", groups=("test", "types"))
    session.run("mypy")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The documentation as a site with search and an API reference, in site/; any warning is an error."""
    session.install("--upgrade", "pip>=25.1")
    session.install(*CONSTRAINTS, "--group", "docs")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False)
def wheel(session: nox.Session) -> None:
    """Wheel and sdist in an empty environment elsewhere: imports, doctor, demo; tests of the sdist, or `-- ARGS`."""
    session.install("build")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session.run("python", "-m", "build", "--outdir", name)
        session.run("python", "-m", "venv", str(folder / "venv"))
        (built,), (sources,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        constraints = ("-c", str(Path("constraints.txt").resolve()))
        session.chdir(folder)

        def run(program: str, *arguments: str) -> None:
            session.run(str(folder / "venv" / "bin" / program), *arguments, external=True)

        run("pip", "install", "--upgrade", "pip>=25.1")
        run("pip", "install", *constraints, "torch")
        run("pip", "install", *constraints, f"{built}[torch]")
        run("python", "-c", IMPORT_ALL)
        run("ptycho-backends", "doctor")
        run("ptycho-backends", "demo")
        session.run("tar", "xzf", str(sources), external=True)
        session.chdir(folder / sources.name.removesuffix(".tar.gz"))
        run("pip", "install", *constraints, "--group", "test")
        run("pytest", *(session.posargs or ("tests", "--backend=torch", *IN_PARALLEL)))


@nox.session(default=False)
@nox.parametrize("profile", ["fast", "ci", "nightly"])
def parity(session: nox.Session, profile: str) -> None:
    """Both backends against the reference and each other; nightly also writes the report."""
    install(session, "all")
    asked = ("--backend=torch", "--backend=tensorflow", f"--parity-profile={profile}")
    session.run("pytest", "parity", *asked, *IN_PARALLEL, *session.posargs)
    if profile == "nightly":
        session.run("ptycho-backends", "parity", "torch", "tensorflow", "--profile", profile)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Break each backend on purpose, and see that parity notices; `nox -s mutants -- torch` for one."""
    install(session, "all")
    session.run("python", "parity/mutants.py", *session.posargs)


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """Kill runs and saves, interrupt trainings at random moments, let writes fail, on both backends; half an hour."""
    install(session, "all")
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "tests/doubles"}
    for framework, more in (
        ("torch", ("--together", "4", "--disk", "100")),
        ("tensorflow", ("--disk", "12")),
    ):
        counts = session.posargs or ("--kills", "100", "--signals", "30", *more)
        session.run("python", "tests/training/kills.py", framework, *counts, env=settings)


@nox.session(default=False)
def stateful(session: nox.Session) -> None:
    """Many orders of calls of the protocol, with sound and unsound arguments, on both backends."""
    install(session, "all")
    many = {"PTYCHO_STATEFUL": "300"}
    session.run("pytest", "tests/testing/test_stateful.py", *IN_PARALLEL, *session.posargs, env=many)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure both backends, compare with this machine's run before, draw; `nox -s bench -- -k inference`: a part."""
    install(session, "all")
    measuring = ("--benchmark-enable", "--benchmark-only", "--benchmark-autosave")
    session.run("pytest", "benchmarks", *measuring, *session.posargs)
    # drawn first, because a regression ends the session
    session.run("python", "benchmarks/history.py")
    session.run("python", "benchmarks/compare.py", "--first")


@nox.session(default=False, python="3.11")
def fuzz(session: nox.Session) -> None:
    """Every reader against mutated files, by atheris, a minute each; `-- 600 zip`: one for ten minutes."""
    install(session)
    session.install("atheris>=3")
    session.run("python", "tests/hostile/fuzz.py", *(session.posargs or ("60",)))


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities in the dependencies that are tested together, by pip-audit."""
    session.install("pip-audit>=2.7")
    session.run("pip-audit", "--requirement", "constraints.txt", "--no-deps", *session.posargs)
