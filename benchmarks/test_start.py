"""Seconds until a fresh Python has imported the package, or shown the help. Floor: a Python that does nothing."""

import subprocess
import sys

import pytest
from floor import in_turn


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
