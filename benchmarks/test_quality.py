"""`quality.py --quick` writes the page, its pictures and its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptycho_backends.registry import installed_backends

BENCHMARKS = Path(__file__).parent


@pytest.mark.skipif("torch" not in installed_backends(), reason="the quick run trains with torch")
def test_a_quick_run(tmp_path: Path) -> None:
    shared = Path(os.environ.get("PTYCHO_SHARED", BENCHMARKS.parents[1] / "shared"))
    if not (shared / "data" / "sim_n64_test.npz").is_file():
        pytest.skip(f"no {shared}; set PTYCHO_SHARED to the folder with scans")
    command = [
        sys.executable,
        BENCHMARKS / "quality.py",
        "--quick",
        "--backends",
        "torch",
        "--output",
        tmp_path,
    ]
    subprocess.run(command, check=True)
    results = json.loads((tmp_path / "quality" / "quality.json").read_text())
    methods = {row["method"] for row in results["pairs"]}
    assert methods >= {
        "refinement alone",
        "cnn",
        "cnn, refined",
        "attention",
        "unrolled",
        "unrolled, refined",
    }
    for part in ("pairs", "dose_and_step", "training_time"):
        assert all(-1 <= row["phase_correlation"] <= 1 for row in results[part])
    assert {row["method"] for row in results["rings"]} == {"refinement alone", "unrolled"}
    text = (tmp_path / "quality.md").read_text()
    pictures = sorted(path.name for path in (tmp_path / "quality").glob("*.png"))
    assert pictures == ["dose_and_step.png", "rings.png", "sim_n64_test.png", "training_time.png"]
    assert all(f"(quality/{name})" in text for name in pictures)
