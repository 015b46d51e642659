"""Stored runs of the benchmarks: compared on one machine, and drawn."""

import importlib
import json
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.images.reconstruct import reconstruct
from ptycho_backends.scans.grouping import groups_for_inference
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
DATES = [f"2026-01-0{day}T12:00:00+00:00" for day in range(1, 6)]


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("compare").main


@pytest.fixture
def history(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("history").main


def measured(name, seconds, *, spread=0.01, rounds=7, ratios=None, **extra):
    """One benchmark as pytest-benchmark stores it."""
    param = name.partition("[")[2].rstrip("]") or None
    if ratios is not None:
        extra |= {"ratio_to_floor": float(np.median(ratios)), "ratio_to_floor_rounds": list(ratios)}
    return {
        "name": name,
        "fullname": f"benchmarks/test_x.py::{name}",
        "param": param,
        "params": {"count": int(param)} if param and param.isdigit() else {},
        "extra_info": extra,
        "stats": {"median": seconds, "iqr": spread * seconds, "rounds": rounds},
    }


def store(folder, number, *benchmarks, host="one", gpus=(), torch="2.13", commit="a" * 40, dirty=False):
    """The file of run `number`, with these benchmarks."""
    path = folder / "Linux" / f"{number:04}_run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {
        "datetime": DATES[number],
        "commit_info": {"id": commit, "dirty": dirty},
        "machine_info": {
            "node": host,
            "system": "Linux",
            "machine": "x86_64",
            "cpu": {"brand_raw": "A processor", "count": 2, "hz_actual_friendly": f"{number} GHz"},
            "accelerators": list(gpus),
            "versions": {"torch": torch},
            "threads": {"OMP_NUM_THREADS": "1"},
        },
        "benchmarks": list(benchmarks),
    }
    path.write_text(json.dumps(run))
    return path


def compared(compare, folder, capsys, *options):
    """Exit code, standard output and standard error."""
    code = compare(["--storage", str(folder), *map(str, options)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_regression_is_named(compare, tmp_path, capsys):
    store(tmp_path, 0, measured("test_step", 1.0), measured("test_start", 2.0))
    store(tmp_path, 1, measured("test_step", 1.5), measured("test_start", 2.0), commit="b" * 40, dirty=True)
    code, said, _ = compared(compare, tmp_path, capsys)
    assert code == 1
    (row,) = [line for line in said.splitlines() if line.startswith("test_")]
    assert row.split() == ["test_step", "1000", "1500", "ms", "1.50", "1.20", "slower"]
    assert "old: aaaaaaa of 2026-01-01" in said
    assert "new: bbbbbbb+ of 2026-01-02" in said
    assert "1 slower, 0 faster, 1 same" in said


def test_what_became_faster_is_told_and_passes(compare, tmp_path, capsys):
    store(tmp_path, 0, measured("test_step", 1.0))
    store(tmp_path, 1, measured("test_step", 0.5))
    code, said, _ = compared(compare, tmp_path, capsys)
    assert code == 0
    assert said.splitlines()[-1].endswith("faster")


@pytest.mark.parametrize(("spread", "verdict"), [(0.01, "slower"), (0.3, "same")])
def test_noise_is_no_regression(compare, tmp_path, capsys, spread, verdict):
    store(tmp_path, 0, measured("test_step", 1.0, spread=spread))
    store(tmp_path, 1, measured("test_step", 1.5, spread=spread))
    code, said, _ = compared(compare, tmp_path, capsys, "--all")
    assert code == (verdict == "slower")
    assert said.splitlines()[-1].endswith(verdict)


def test_runs_that_differ_by_noise_alone_pass(compare, tmp_path, capsys):
    generator = np.random.default_rng(0)

    def run():
        rounds = 1.3 * np.exp(0.1 * generator.normal(size=(100, 7)))
        return [measured(f"test_step[{i}-f1]", 1.0, ratios=each) for i, each in enumerate(rounds)]

    store(tmp_path, 0, *run())
    store(tmp_path, 1, *run())
    assert compared(compare, tmp_path, capsys)[0] == 0


def test_the_ratio_to_the_floor_counts_and_not_the_busy_machine(compare, tmp_path, capsys):
    store(tmp_path, 0, measured("test_step", 1.0, ratios=[1.2, 1.21, 1.22, 1.2, 1.19]))
    store(tmp_path, 1, measured("test_step", 3.0, ratios=[1.2, 1.22, 1.21, 1.2, 1.18]))
    assert compared(compare, tmp_path, capsys)[0] == 0
    store(tmp_path, 2, measured("test_step", 1.0, ratios=[1.5, 1.51, 1.52, 1.5, 1.49]))
    code, said, _ = compared(compare, tmp_path, capsys)
    assert code == 1
    assert said.splitlines()[-1].split()[1:4] == ["1.2", "1.5", "floors"]


@pytest.mark.parametrize(("floor", "verdict"), [(100.0, "slower"), (300.0, "same")])
def test_a_floor_that_changed_itself_excuses_some(compare, tmp_path, capsys, floor, verdict):
    old = measured("test_step", 1.0, ratios=[1.2] * 7, floor_milliseconds=100.0)
    new = measured("test_step", 3.0, ratios=[1.6] * 7, floor_milliseconds=floor)
    store(tmp_path, 0, old, measured("test_start", 1.0))
    store(tmp_path, 1, new, measured("test_start", 1.3))
    code, said, _ = compared(compare, tmp_path, capsys, "--all")
    assert code == (verdict == "slower")
    # benchmarks without a floor are judged by the floors of the others
    assert [line.split()[-1] for line in said.splitlines()[-2:]] == [verdict, verdict]


def test_too_few_rounds_are_not_judged(compare, tmp_path, capsys):
    store(tmp_path, 0, measured("test_step", 1.0, rounds=1))
    store(tmp_path, 1, measured("test_step", 9.0, rounds=1))
    code, said, _ = compared(compare, tmp_path, capsys)
    assert code == 0
    assert "1 not judged" in said


def test_another_machine_is_refused(compare, tmp_path, capsys):
    old = store(tmp_path, 0, measured("test_step", 1.0))
    new = store(tmp_path, 1, measured("test_step", 1.0), host="two", gpus=["A GPU"])
    code, _, complaint = compared(compare, tmp_path, capsys, "--old", old, "--new", new)
    assert code == 2
    assert "different machines" in complaint
    assert "host: one, now two; GPUs: none, now A GPU" in complaint


def test_the_earlier_run_is_one_of_this_machine_with_something_in_common(compare, tmp_path, capsys):
    store(tmp_path, 0, measured("test_step", 1.0), torch="2.12")
    store(tmp_path, 1, measured("test_step", 9.0), host="two")
    store(tmp_path, 2, measured("test_start", 1.0))
    store(tmp_path, 3, measured("test_step", 1.0))
    code, said, _ = compared(compare, tmp_path, capsys)
    assert code == 0
    assert "0000_run.json" in said
    assert "not the same: torch: 2.12, now 2.13" in said


def test_a_first_run_is_an_error_unless_expected(compare, tmp_path, capsys):
    store(tmp_path, 0, measured("test_step", 1.0), host="two")
    store(tmp_path, 1, measured("test_step", 1.0))
    code, _, complaint = compared(compare, tmp_path, capsys)
    assert code == 2
    assert "no earlier run to compare with; 1 of other machines" in complaint
    assert compared(compare, tmp_path, capsys, "--first")[0] == 0


def test_nothing_in_common_is_an_error(compare, tmp_path, capsys):
    old = store(tmp_path, 0, measured("test_step", 1.0))
    store(tmp_path, 1, measured("test_start", 1.0))
    code, _, complaint = compared(compare, tmp_path, capsys, "--old", old)
    assert code == 2
    assert "no benchmark is in both" in complaint
    assert "no benchmark in common" in compared(compare, tmp_path, capsys)[2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not a run of pytest-benchmark"),
        ('{"benchmarks": []}', "is not a run of pytest-benchmark"),
    ],
)
def test_a_file_that_is_no_run_is_named(compare, tmp_path, capsys, text, complaint):
    store(tmp_path, 0, measured("test_step", 1.0))
    bad = tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    code, said, why = compared(compare, tmp_path / "Linux", capsys, "--old", bad)
    assert (code, said) == (2, "")
    assert f"{bad}: {complaint}" in why


def test_an_empty_storage_tells_how_to_fill_it(compare, history, tmp_path, capsys):
    code, _, why = compared(compare, tmp_path, capsys)
    assert code == 2
    assert "--benchmark-autosave" in why
    assert history(["--storage", str(tmp_path), "--output", str(tmp_path / "report")]) == 2
    assert not (tmp_path / "report").exists()


def test_charts_and_a_page_that_holds_them(history, tmp_path, capsys):
    for number in range(3):
        store(
            tmp_path,
            number,
            measured("test_training_step[torch-f1-g1-32-true]", 0.1, ratios=[1.2] * 5, groups_per_second=160),
            measured("test_training_step[tensorflow-f1-g1-bf16-mixed]", 0.1, groups_per_second=150),
            *(measured(f"test_grouping[{count}]", count * 1e-6) for count in (1000, 10000, 1000000)),
            measured("test_stitching[1000]", 0.01),
            measured("test_stitching[10000]", 0.1, per_second=1e5, peak_mib=12.0),
        )
    store(tmp_path, 3, measured("test_elsewhere", 0.1), host="<two>")
    store(tmp_path, 4, measured("test_training_step[torch-f1-g1-32-true]", 0.1))
    report = tmp_path / "report"
    assert history(["--storage", str(tmp_path), "--output", str(report)]) == 0
    assert capsys.readouterr().out.strip() == str(report / "index.html")
    pictures = {path.name for path in report.glob("*.png")}
    assert pictures == {
        "cost-against-size.png",
        "throughput-training-step.png",
        "throughput-grouping.png",
        "throughput-stitching.png",
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in report.glob("*.png"))
    text = (report / "index.html").read_text()
    assert len(re.findall('src="data:image/png;base64,', text)) == len(pictures)
    assert "http" not in text
    assert "4 runs of one machine" in text
    assert "training_step[torch-f1-g1-32-true]" in text


def test_a_first_run_without_sizes_is_drawn_too(history, tmp_path):
    store(tmp_path, 0, measured("test_start[help]", 0.5))
    assert history(["--storage", str(tmp_path), "--output", str(tmp_path / "report")]) == 0
    assert [path.name for path in (tmp_path / "report").glob("*.png")] == ["throughput-start.png"]


@pytest.fixture
def quality_page(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("quality_page")


def figures(method, phase_correlation, **more):
    return {
        "method": method,
        "backend": "torch",
        "phase_correlation": phase_correlation,
        "phase_ssim": 0.9,
        "amplitude_ssim": 0.8,
        "amplitude_psnr_db": None,
        "phase_contrast": 0.97,
        "corrected": True,
        "infer_s": 1.5,
        "scan": "test",
        "trained_on": "train",
    } | more


def quality_results(alone, network, prior, corrected=True):
    where = {"photons": 1e3, "step_px": 9.0}
    return {
        "pairs": [figures("refinement alone", alone), figures("unrolled", network, train_s=10.0)],
        "dose_and_step": [
            figures("refinement alone", 0.9, **where),
            figures("refinement with the prior", prior, corrected=corrected, **where),
        ],
        "training_time": [figures("unrolled", 0.9, limit_s=0.0, train_s=0.0)],
        "rings": [
            {
                "scan": "test",
                "method": "refinement alone",
                "frequency": [0.25, 0.5],
                "correlation": [0.9, 0.1],
                "half_bit": [0.3, 0.3],
                "resolution_px": None,
            }
        ],
        "conditions": {
            "seconds": 240.0,
            "gridsize": 2,
            "prior": "prior",
            "backends": ["torch"],
            "ptychi": False,
            "cores": 2,
            "threads": "1",
            "versions": {"torch": "2.13"},
            "patterns": None,
        },
    }


def test_the_page_names_plain_refinement_where_it_is_the_better_choice(quality_page):
    text = quality_page.page(quality_results(0.99, 0.95, 0.9, corrected=False))
    assert "**Plain refinement is the better choice here**" in text
    assert "ahead of its 0.9900 (the best, unrolled: 0.9500)" in text
    assert "in phase correlation nowhere" in text
    assert "0.900 / 0.900 (left out)" in text
    assert "pty-chi was not installed" in text
    assert "groups of\n4 positions" in text


def test_the_page_names_gains_of_a_network(quality_page):
    text = quality_page.page(quality_results(0.95, 0.99, 0.93))
    assert "Unrolled is 0.0400 ahead of plain refinement" in text
    assert "better choice here" not in text
    assert "in phase correlation at: 1,000 photons, 9 px" in text
    tables = [line for line in text.splitlines() if line.startswith("| unrolled")]
    assert tables == ["| unrolled | torch | **0.9900** | 0.900 | 0.800 |  | 0.970 | 10 | 1.50 |"]


def test_pictures_of_the_page_are_small(quality_page, tmp_path):
    pytest.importorskip("matplotlib")
    noise = np.random.default_rng(0).normal(size=(130, 130))
    panels = {f"panel {number}": noise for number in range(12)}
    quality_page.draw_phases({"noise": panels}, tmp_path / "phases.png", 4)
    results = quality_results(0.95, 0.99, 0.93)
    quality_page.draw_curves(results["training_time"], tmp_path / "curves.png")
    quality_page.draw_rings(results["rings"], tmp_path / "rings.png")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"phases.png", "curves.png", "rings.png"}
    assert sizes["phases.png"] < 250_000


class Seer(OracleBackend):
    """Sees the object in refinements as well."""

    name = "torch"

    def refine(self, start, scan, config=None, *, execution=None, model=None, **_):
        groups = groups_for_inference(scan, InferenceConfig())
        return reconstruct(self.object_patches(None, groups, execution), groups, scan.N, 20, self.name)


def test_all_measurements_of_quality_are_written_and_drawn(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    quality = importlib.import_module("quality")
    monkeypatch.setattr(quality, "get_backend", lambda name: Seer())
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    star = simulate_star(64, 60, seed=1)
    monkeypatch.setattr(quality.Quality, "scan", lambda self, name: star)
    config = TrainingConfig(model=ModelConfig(N=64, architecture="unrolled", n_filters_scale=1))
    prior = plan_training(star, config, "torch").start
    measured = quality.Quality(tmp_path, quality.QUICK, 2, prior, ("torch",))
    results = quality.measure(measured, quality.QUICK, tmp_path)
    assert json.loads((tmp_path / "quality.json").read_text()) == quality.finite(results)
    methods = [row["method"] for row in results["pairs"]]
    assert methods == [
        "refinement alone", "cnn", "cnn, refined", "attention", "attention, refined", "unrolled",
        "unrolled, refined", "refinement with its correction", "refinement with the prior",
        "the prior, group by group",
    ]  # fmt: skip
    # an oracle sees everything as it is
    rows = [*results["pairs"], *results["dose_and_step"], *results["training_time"]]
    assert all(row["phase_correlation"] > 0.98 for row in rows)
    assert [row["limit_s"] for row in results["training_time"]] == list(quality.QUICK.times_s)
    assert [(row["photons"], row["step_px"]) for row in results["dose_and_step"][::2]] == [(1e3, 9), (1e5, 9)]
    assert [row["method"] for row in results["rings"]] == [
        "refinement alone", "unrolled", "refinement with the prior"
    ]  # fmt: skip
    results["conditions"] = quality.conditions(quality.QUICK, 2, tmp_path / "prior", ["torch"])
    text = quality.page(quality.finite(results))
    assert "its figures mean nothing" in text
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == {"dose_and_step.png", "rings.png", "sim_n64_test.png", "training_time.png"}
    assert all(f"(quality/{name})" in text for name in pictures)


def test_a_training_ends_when_its_time_is_over(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    quality = importlib.import_module("quality")
    asked = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        with quality.ended_after(0.05):
            deadline = time.monotonic() + 30
            while not asked.is_set() and time.monotonic() < deadline:
                time.sleep(0.01)
        assert asked.is_set()
        asked.clear()
        with quality.ended_after(60):
            pass
        assert not asked.is_set()
    finally:
        signal.signal(signal.SIGINT, previous)
