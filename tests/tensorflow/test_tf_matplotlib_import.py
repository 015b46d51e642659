"""The backend imports whatever `MPLBACKEND` names: its framework imports matplotlib in passing."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_matplotlib_backend_of_another_environment_is_ignored(tmp_path: Path) -> None:
    missing = "module://a_notebook_of_another_environment.backend_inline"
    environment = os.environ | {"MPLBACKEND": missing, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", "import ptycho_backends.tensorflow"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
