"""Every routine task; `nox --list` is the index. Bare `nox` runs lint, types, tests."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

CONSTRAINTS = ("-c", "constraints.txt")
IN_PARALLEL = ("-n", "auto", "--dist", "worksteal")  # `-- -n0` for one process


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
    session.run("pytest", "tests/ptychodus", *IN_PARALLEL, *session.posargs)


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
def mlflow(session: nox.Session) -> None:
    """Runs in MLflow, with MLflow itself and a local SQLite store, on both backends."""
    install(session, "all", "mlflow")
    session.run("pytest", "tests/training/test_tracking.py", *session.posargs)


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
