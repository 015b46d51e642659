"""Seconds until a fresh Python has imported the package, or shown the help."""

import subprocess
import sys

import pytest


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
    done = benchmark(subprocess.run, [sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr == b""
