"""One training plans once: its configuration is completed, `params.cfg` filled and weights drawn once each."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from oracle_backend import OracleBackend
from typer.testing import CliRunner

from ptycho_backends import backend_base, builtin_backends, get_backend, registry, workflows
from ptycho_backends.cli.commands import app
from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.images import figures, metrics
from ptycho_backends.legacy import components
from ptycho_backends.legacy.raw_data import RawData
from ptycho_backends.params import bridge, params
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training import plan
from ptycho_backends.workflows import images

EXECUTION = ExecutionConfig(
    accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False, logger_backend="none"
)
# each followed until it happens: completion, plan, first weights, and the dictionary that is filled
ONCE = {"completed_config": 1, "plan_made": 1, "initial_weights": 1, "params_filled": 1}
RESUMED = {**ONCE, "initial_weights": 0}


@pytest.fixture
def calls(monkeypatch):
    """Counts, by name, of the steps that belong to the start of a training."""
    counted = Counter(dict.fromkeys(ONCE, 0))

    def count(module, name, label, *, only=lambda arguments: True):
        original = getattr(module, name)

        def counting(*arguments, **options):
            counted[label] += bool(only(arguments))
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, counting)

    count(plan, "completed_config", "completed_config")
    count(plan, "_split", "plan_made")
    count(plan, "initial_weights", "initial_weights")
    count(bridge, "update_legacy_dict", "params_filled", only=lambda arguments: arguments[0] is params.cfg)
    return counted


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 8)


def named(name, monkeypatch):
    """The name of a backend: a real one, or one that computes nothing."""
    if name == "oracle":
        entry = registry.BackendEntry("Oracle", "oracle_backend:OracleBackend", frozenset(), "")
        monkeypatch.setattr(registry, "BUILT_IN", {"oracle": entry})
    monkeypatch.delenv(registry.ENVIRONMENT_VARIABLE, raising=False)
    return name


def installed(name):
    modules = builtin_backends.BUILT_IN[name].frameworks
    reason = pytest.mark.skipif(any(find_spec(module) is None for module in modules), reason="not installed")
    return pytest.param(name, marks=reason)


@pytest.fixture(params=["oracle", *map(installed, builtin_backends.BUILT_IN)])
def name(request, monkeypatch):
    """Each real backend, and one that computes nothing."""
    return named(request.param, monkeypatch)


@pytest.fixture(params=["oracle", installed("torch")])
def quick_name(request, monkeypatch):
    """Enough for what stands above the backends' own `train`, which `name` proves to be called alike."""
    return named(request.param, monkeypatch)


def settings(**changes):
    model = ModelConfig(N=0, n_filters_scale=1)
    return TrainingConfig(model=model, nepochs=1, n_groups=8, nphotons=1e5, **changes)


def test_workflows_train(tmp_path, scan, quick_name, calls):
    result = workflows.train(scan, settings(), tmp_path, backend=quick_name, execution=EXECUTION)
    assert calls == ONCE
    assert params.cfg["output_prefix"] == str(tmp_path)
    assert params.cfg["N"] == 64
    calls.clear()
    more = settings()
    more.nepochs = 2
    workflows.train(scan, more, tmp_path, backend=quick_name, execution=EXECUTION, resume_from=result.model)
    assert +calls == +Counter(RESUMED)


def test_workflows_run(tmp_path, scan, quick_name, calls, monkeypatch):
    aligned = Counter()
    for module in (metrics, images, figures):
        original = module.align

        def counting(*arguments, original=original, **options):
            aligned["align"] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, "align", counting)
    workflows.run(scan, settings(), tmp_path / "a", backend=quick_name, execution=EXECUTION, refine=None)
    assert calls == ONCE
    assert aligned == {"align": 1}
    # the network's image and the refined one, each once
    few = RefinementConfig(passes=1)
    workflows.run(scan, settings(), tmp_path / "b", backend=quick_name, execution=EXECUTION, refine=few)
    assert aligned == {"align": 3}


@pytest.mark.parametrize(("verb", "batch_size"), [("train", "4"), ("train", "auto"), ("run", "auto")])
def test_command_line(tmp_path, scan, quick_name, calls, verb, batch_size, monkeypatch):
    monkeypatch.setattr(images, "save_reconstruction_figure", lambda *_: tmp_path)
    monkeypatch.setattr("ptycho_backends.cli.settings.training_batch_size", lambda *_: 8)
    path = save_scan(scan, tmp_path / "scan.npz")
    asked = [
        verb, path, "-o", tmp_path / "run", "-b", quick_name, "-e", 1, "--filters", 1, "--batch-size", batch_size,
        "--accelerator", "cpu",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(part) for part in asked])
    assert result.exit_code == 0, result.output
    assert calls == ONCE
    # a size that was found by trying is the one that counts, everywhere
    assert params.cfg["batch_size"] == {"4": 4, "auto": 8}[batch_size]
    assert f"batch_size: {params.cfg['batch_size']}" in (tmp_path / "run" / "config.yaml").read_text()


def test_backend_train(scan, name, calls):
    backend = get_backend(name)
    model = backend.train(scan, settings(), execution=EXECUTION)
    assert calls == ONCE
    assert model.config.model.N == 64
    calls.clear()
    planned = backend_base.plan_for(backend, scan, settings(), EXECUTION)
    assert calls == ONCE
    trained = backend.train(planned, execution=EXECUTION)
    assert calls == ONCE
    for weight, value in model.weights.items():
        np.testing.assert_array_equal(value, trained.weights[weight])


def test_the_legacy_face(scan, quick_name, calls):
    raw = RawData.from_coords_without_pc(
        scan.xcoords, scan.ycoords, np.sqrt(scan.patterns), scan.probe_guess, np.arange(len(scan))
    )
    components.train_cdi_model(raw, None, settings(), backend=quick_name, execution=EXECUTION)
    assert calls == ONCE


def test_a_plan_is_for_one_backend_and_one_configuration(scan):
    planned = plan.plan_training(scan, settings(), "oracle")
    oracle = OracleBackend()
    with pytest.raises(ConfigError, match="backend: got 'other', but the training was planned for 'oracle'"):
        plan.plan_training(planned, None, "other")
    with pytest.raises(ConfigError, match="config: got another one"):
        oracle.train(planned, settings(batch_size=4))
    with pytest.raises(ConfigError, match="resume_from: got a model beside a plan"):
        oracle.train(planned, resume_from=planned.start)
    with pytest.raises(ConfigError, match="config: got None"):
        oracle.train(scan)
    assert oracle.train(planned).config is planned.config


def test_a_changed_plan_keeps_its_groups_and_weights(scan):
    planned = plan.plan_training(scan, settings(), "oracle")
    changed = planned.changed(batch_size=2, output_dir=Path("elsewhere"))
    assert changed.groups is planned.groups
    assert changed.start.weights is planned.start.weights
    assert changed.config is changed.start.config
    assert (changed.config.batch_size, changed.config.output_dir) == (2, Path("elsewhere"))
    assert (params.cfg["batch_size"], params.cfg["output_prefix"]) == (2, "elsewhere")
    assert planned.config.batch_size == 16
    assert planned.changed() is planned
    with pytest.raises(ConfigError, match="batch_size: got 3"):
        planned.changed(batch_size=3)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch not installed")
def test_the_door_of_ptychodus(tmp_path, scan, calls):
    from ptycho_torch.api.base_api import ConfigManager
    from ptycho_torch.config_params import DataConfig, TrainingConfig
    from ptycho_torch.config_params import ModelConfig as Network
    from ptycho_torch.train import main

    save_scan(scan, tmp_path / "scan.npz")
    single = {"C": 1, "grid_size": (1, 1)}
    manager = ConfigManager(
        data_config=DataConfig(N=64, **single, x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0)),
        model_config=Network(
            n_filters_scale=1, C_model=1, C_forward=1, decoder_last_amp_channels=1, cbam_encoder=False
        ),
        training_config=TrainingConfig(epochs=1, batch_size=8, num_workers=0),
    )
    main(tmp_path, existing_config=manager)
    assert calls == ONCE
    assert (params.cfg["N"], params.cfg["n_groups"]) == (64, 8)
