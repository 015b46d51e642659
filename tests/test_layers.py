"""The floors that `pyproject.toml` draws hold, and a wrong import anywhere is noticed."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("ptycho", "ptycho_backends", "ptycho_torch")

LATE = "\ndef late():\n    {}\n"
TYPING_ONLY = "\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def lint_imports(folder: Path) -> tuple[int, str]:
    """Exit code and output, line breaks removed, of `lint-imports` in `folder`."""
    code = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_floors_hold(copy: Path) -> None:
    code, output = lint_imports(copy)
    assert code == 0, output


@pytest.mark.parametrize(
    ("file", "form", "statement", "contract"),
    [
        (
            "ptycho_backends/scans/scan.py",
            LATE,
            "import ptycho_backends.workflows",
            "Floors of ptycho_backends",
        ),
        (
            "ptycho_backends/values.py",
            TYPING_ONLY,
            "import ptycho_backends.scans.scan",
            "Floors of ptycho_backends",
        ),
        (
            "ptycho_backends/files/output.py",
            LATE,
            "import ptycho_backends.constants",
            "Files know errors only",
        ),
        ("ptycho_backends/registry.py", LATE, "import ptycho_torch.backend", "neither backends nor doors"),
        (
            "ptycho_backends/workflows/training.py",
            LATE,
            "import ptycho_backends.tensorflow.backend",
            "neither backends",
        ),
        ("ptycho_backends/tensorflow/data.py", LATE, "import ptycho_torch.backend.data", "one another"),
        ("ptycho_torch/backend/data.py", LATE, "import ptycho_torch.config_bridge", "Floors of ptycho_torch"),
        (
            "ptycho_torch/backend/data.py",
            LATE,
            "import ptycho_backends.legacy.loader",
            "Backends know no door",
        ),
        (
            "ptycho_backends/images/figures.py",
            LATE,
            "from ptycho_backends import load_scan",
            "Callers' names",
        ),
        ("ptycho_backends/new_room.py", "{}", "import ptycho_backends.errors", "Floors of ptycho_backends"),
    ],
)
def test_a_wrong_import_is_noticed(copy: Path, file: str, form: str, statement: str, contract: str) -> None:
    path = copy / file
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + form.format(statement))
    try:
        code, output = lint_imports(copy)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
    assert code == 1
    broken = output.partition("Broken contracts")[2]
    assert contract in broken, output


def imported_modules(source: str) -> set[str]:
    """Absolute names in the `import` and `from` statements of `source`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_module_imports_a_former_name() -> None:
    # the import graph of import-linter lacks the former names, which exist only at run time
    folders = {"ptycho_backends": "ptycho_backends/legacy/moved", "ptycho_torch": "ptycho_torch/moved"}
    former = {f"{package}.{path.stem}" for package, folder in folders.items()
              for path in (REPOSITORY / folder).glob("*.py") if path.stem != "__init__"}  # fmt: skip
    assert "ptycho_backends.simulate" in former
    sources = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]
    found = {
        str(path.relative_to(REPOSITORY)): imported_modules(path.read_text()) & former for path in sources
    }
    assert {path: names for path, names in found.items() if names} == {}
