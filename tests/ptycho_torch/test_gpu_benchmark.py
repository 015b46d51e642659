"""`benchmarks/gpu.py`, small and on the processor."""

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def measured(monkeypatch, tmp_path, capsys):
    """Runs it with further arguments: exit code, rows by name, what it printed."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    main = importlib.import_module("gpu").main

    def run(*arguments):
        code = main(["--out", str(tmp_path), "--small", "--device", "cpu", *arguments])
        rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
        return code, {row["name"]: row for row in rows}, capsys.readouterr().out

    return run


@pytest.mark.slow
def test_everything_is_measured(measured, tmp_path):
    code, rows, said = measured()
    assert {row["status"] for row in rows.values()} == {"measured", "not offered"}
    assert code == 0
    assert rows["train|unrolled|32|1|compiled"]["status"] == "not offered"
    agreement = rows["parity, float64 and float32"]
    assert agreement["beyond"] == agreement["crashes"] == []
    assert agreement["worst"]["object, float32"]["deviation"] > 0
    assert rows["to 0.99|torch"]["best"] > 0.9
    assert "refinement pass, N 32" in (tmp_path / "profiles.txt").read_text()
    for kind in ("train", "infer"):
        rate = rows[f"{kind}|unrolled|32|1|fp32"]["patterns_per_s"]
        (line,) = [line for line in said.splitlines() if line.startswith(f"{kind} unrolled N 32 C 1")]
        assert line.split()[6] == f"{rate:,.0f}"


def test_what_the_budget_does_not_allow_is_said(measured):
    code, rows, said = measured("--budget", "0")
    assert code == 0
    assert {row["status"] for row in rows.values()} == {"no time left", "not offered"}
    late = next(line for line in said.splitlines() if line.startswith("no time left for: "))
    assert "ceilings" in late
    assert "to 0.99|torch" in late
