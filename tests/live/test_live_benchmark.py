"""The benchmark with a simulated detector runs, in small; its rates mean nothing here."""

import importlib
import json
from pathlib import Path

import numpy as np

import ptycho_backends

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_simulated_detector_is_followed(monkeypatch, tmp_path, capsys, backend):
    monkeypatch.syspath_prepend(BENCHMARKS)
    live = importlib.import_module("live")
    monkeypatch.setattr(ptycho_backends, "get_backend", lambda name: backend)
    monkeypatch.setattr(backend, "known", np.ones((200, 200), np.complex64))
    live.main(["--small", "--rate", "200", "--seconds", "0.2", "-o", str(tmp_path / "live.json")])
    (row,) = json.loads((tmp_path / "live.json").read_text())["measurements"]
    assert (row["frames"], row["lost"]) == (40, 0)
    assert 0 < row["detector_rate"] <= 210
    assert 0 < row["latency_p50_s"] <= row["latency_p95_s"]
    assert "40 frames in the image at" in capsys.readouterr().out
