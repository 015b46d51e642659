"""The pages in docs/ agree with the code: tables, examples, links."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ptycho_backends.config import ExecutionConfig, FinetuneStage, ModelConfig, TrainingConfig
from ptycho_backends.config_file import load_config
from ptycho_backends.params import params
from ptycho_backends.protocol import Backend
from ptycho_backends.scans.grouping import group_scan
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training.plan import new_model

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))


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
    stages, example = blocks("configuration.md", "yaml")
    (tmp_path / "config.yaml").write_text(example)
    (tmp_path / "execution.yaml").write_text(stages)
    (stage,) = load_config(tmp_path / "execution.yaml", ExecutionConfig).finetune_stages
    assert stage == FinetuneStage(7, {"decoder": 0.1, "phase_head": 0.1})
    config = load_config(tmp_path / "config.yaml")
    assert config == TrainingConfig(
        model=ModelConfig(N=64, gridsize=2), nphotons=4.6e5, nepochs=20, backend="torch"
    )


def test_the_configuration_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in blocks("configuration.md", "python"):
        exec(example, {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = page if not name else page.parent / name
        assert linked.is_file(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target


def _parameter_names(owner: Any, method: str) -> list[tuple[str, Any]]:
    return [(p.name, p.kind) for p in inspect.signature(getattr(owner, method)).parameters.values()]


def test_the_example_backend_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # what the example fills is put back afterwards
    monkeypatch.setattr(params, "cfg", dict(params.cfg))
    example = next(block for block in blocks("backend.md", "python") if "class ReferenceBackend" in block)
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    backend = namespace["ReferenceBackend"]()
    assert isinstance(backend, Backend)
    for method, member in inspect.getmembers(Backend, inspect.isfunction):
        if not method.startswith("_"):
            assert _parameter_names(namespace["ReferenceBackend"], method) == _parameter_names(
                Backend, method
            )
            assert member.__doc__

    patterns = np.random.default_rng(0).poisson(9.0, (3, 64, 64)).astype(np.uint16)
    scan = Scan(np.array([30.0, 33.5, 36.0]), np.array([40.0, 41.0, 44.5]), patterns)
    config = backend.complete_config(TrainingConfig(model=ModelConfig(N=0, n_filters_scale=1)), scan)
    model = new_model(scan, config, backend.name)
    image = backend.infer(model, scan)
    assert image.object.shape == image.coverage.shape
    assert np.isfinite(image.object).all()
    groups = group_scan(scan, n_groups=2, sequential_sampling=True)
    batch = groups.batch(intensity_scale=model.intensity_scale)
    np.testing.assert_array_equal(
        backend.forward(config.model, model.weights, batch).object, backend.predict(model, groups).object
    )
    assert backend.loss(config, model.weights, batch)["total"] == pytest.approx(
        backend.loss(config, model.weights, batch)["nll"]
    )
