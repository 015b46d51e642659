"""The pages in docs/ agree with the code: tables, examples, links."""

import dataclasses
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ptycho_backends.backend_base import BackendBase
from ptycho_backends.config import ExecutionConfig, FinetuneStage, ModelConfig, TrainingConfig
from ptycho_backends.config_file import load_config
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.files.datasets_hdf5 import write_datasets
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.raw_scan import HC_EV_M
from ptycho_backends.scans.readers import table
from ptycho_backends.scans.scan_files import load_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.testing.replay import replayed_training
from ptycho_backends.training.plan import plan_training

DOCS = Path(__file__).resolve().parents[1] / "docs"
TOY = Path(__file__).resolve().parent / "toy_backend"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("workflows/*.md"), DOCS.parent / "README.md"])


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_tables", DOCS / "generate_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_code() -> None:
    tables = generator()
    for page in tables.PAGES:
        text = (DOCS / page).read_text()
        assert tables.updated(page, text) == text, f"{page}: run: python docs/generate_tables.py"


def test_the_generator_notices_a_missing_marker() -> None:
    with pytest.raises(ValueError, match="begin ModelConfig"):
        generator().updated("configuration.md", "no markers")


def test_the_example_of_the_conformance_kit_is_one() -> None:
    example = next(block for block in blocks("parity.md", "python"))
    pytest.importorskip("hypothesis", reason="the kit's own dependency")
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(example, namespace)
    assert namespace["TestMyBackend"].backend_name == "mypackage"


def test_the_configuration_example_loads(tmp_path: Path) -> None:
    stages, example, sections, _ = blocks("configuration.md", "yaml")
    (tmp_path / "config.yaml").write_text(example)
    (tmp_path / "execution.yaml").write_text(stages)
    (stage,) = load_config(tmp_path / "execution.yaml", ExecutionConfig).finetune_stages
    assert stage == FinetuneStage(7, {"decoder": 0.1, "phase_head": 0.1})
    config = load_config(tmp_path / "config.yaml")
    assert config == TrainingConfig(
        model=ModelConfig(N=64, gridsize=2), nphotons=4.6e5, nepochs=20, backend="torch"
    )
    (tmp_path / "all.yaml").write_text(sections)
    assert load_config(tmp_path / "all.yaml").nll_weight == 0.5
    assert load_config(tmp_path / "all.yaml", ExecutionConfig).device_number == 1


def test_the_configuration_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in blocks("configuration.md", "python"):
        exec(example, {})


def test_the_reader_of_the_page_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("writing-a-reader.md", "python")
    reader = ModuleType("my_reader")
    exec(text, vars(reader))
    monkeypatch.setattr(table, "readers", lambda: {"my beamline": reader})
    pixel_m = HC_EV_M / 8800 * 2.0 / (64 * 75e-6)
    scan = simulate_star(64, 9, seed=0)
    file = {
        "frames": scan.patterns,
        "stage": scan.scan_positions_px[:, ::-1] * pixel_m * 1e6,
        "energy_keV": np.array(8.8),
        "distance_mm": np.array(2000.0),
    }
    write_datasets(tmp_path / "scan.h5", file, {})
    read = load_scan(tmp_path / "scan.h5")
    np.testing.assert_array_equal(read.patterns, scan.patterns)
    steps, wanted = np.diff(read.scan_positions_px, axis=0), np.diff(scan.scan_positions_px, axis=0)
    np.testing.assert_allclose(steps, wanted, atol=1e-6)
    assert read.pixel_size_m == pytest.approx(pixel_m)
    assert "positions: stage, um (row, column)" in read.notes
    write_datasets(tmp_path / "scan.h5", file | {"stage": np.zeros((9, 3))}, {})
    with pytest.raises(ScanError, match=r"stage: got shape \(9, 3\), want \(M, 2\)"):
        load_scan(tmp_path / "scan.h5")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = page if not name else page.parent / name
        assert linked.is_file(), target
        if not anchor:
            continue
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, target


def own_methods(backend: type) -> list[str]:
    """Names of the functions that a class defines itself."""
    return [name for name, member in vars(backend).items() if inspect.isfunction(member)]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the page's example, whose three functions of a framework come from the reference."""
    monkeypatch.syspath_prepend(str(TOY))
    gradients = importlib.import_module("toy_ptycho.gradients").gradients
    mathematics = SimpleNamespace(predict=reference.predict, loss=reference.loss, gradients=gradients)
    package = SimpleNamespace(mathematics=mathematics)
    monkeypatch.setitem(sys.modules, "my_package", package)  # type: ignore[arg-type]
    text = next(block for block in blocks("backend.md", "python") if "class MyBackend" in block)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(text, namespace)
    return namespace


def test_a_backend_needs_at_most_eight_methods(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = importlib.import_module("toy_ptycho.backend").ToyBackend
    for backend in (example["MyBackend"], toy):
        assert len(own_methods(backend)) <= 8
        assert isinstance(backend(), Backend)
    assert len(BackendBase.__abstractmethods__) == 5


def test_the_example_backend_trains_and_reconstructs(example: dict[str, Any], tmp_path: Path) -> None:
    backend = example["MyBackend"]()
    for method, member in inspect.getmembers(Backend, inspect.isfunction):
        if not method.startswith("_"):
            assert member.__doc__

    scan = simulate_star(64, 6, n_photons=1e5)
    config = TrainingConfig(
        model=ModelConfig(N=0, n_filters_scale=1), nepochs=2, n_groups=6, batch_size=4, nphotons=1e5,
        probe_trainable=True,
    )  # fmt: skip
    once = dataclasses.replace(config, nepochs=1)
    model = backend.train(scan, once, output_dir=tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == "last.wts.h5.zip"
    resumed = backend.train(scan, config, resume_from=tmp_path / "checkpoints" / "last.wts.h5.zip")
    straight = backend.train(scan, config)
    assert resumed.history[1].train_loss == pytest.approx(straight.history[1].train_loss, rel=1e-5)

    execution = ExecutionConfig()
    plan = plan_training(scan, config, backend.name)
    want, history = replayed_training(backend, plan, execution)
    for name, weight in straight.weights.items():
        np.testing.assert_allclose(weight, want[name].astype(weight.dtype), rtol=1e-6, atol=1e-7)
    assert straight.history[1].val_loss == pytest.approx(history[1].val_loss)

    image = backend.infer(model, scan)
    assert np.isfinite(image.object).all()
    groups = group_scan(scan, n_groups=2, sequential_sampling=True)
    batch = groups.batch(intensity_scale=model.intensity_scale)
    np.testing.assert_array_equal(
        backend.forward(model.config.model, model.weights, batch).object,
        backend.predict(model, groups).object,
    )
    with pytest.raises(ConfigError, match="accum_steps: mypackage has nothing of the kind"):
        backend.train(scan, config, execution=ExecutionConfig(accum_steps=2))


def test_ctrl_c_keeps_the_last_whole_epoch_of_the_example(example: dict[str, Any]) -> None:
    def interrupt(record: Any) -> None:
        if record.epoch == 1:
            raise KeyboardInterrupt

    scan = simulate_star(64, 4)
    config = TrainingConfig(model=ModelConfig(N=0, n_filters_scale=1), nepochs=3, n_groups=4, nphotons=1e5)
    model = example["MyBackend"]().train(scan, config, on_epoch=interrupt)
    assert (model.interrupted, len(model.history)) == (True, 1)
