"""The benchmark of a scan larger than memory, on a small one: the same from its file as in memory."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "larger_than_memory.py"


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_training_and_reconstructing_from_a_file_is_that_from_memory(dtype, tmp_path):
    spec = importlib.util.spec_from_file_location("larger_than_memory", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    told = script.main(
        ["--gib", "0.002", "--dtype", dtype, "--groups", "32", "--compare", "--folder", str(tmp_path)]
    )
    assert told["same_as_in_memory"]
    assert told["positions"] > 100
    assert list(tmp_path.iterdir()) == []
