"""Runs in MLflow, with MLflow itself and an SQLite store in a temporary folder; skipped where it is missing."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.tracking import DATABASE, RUN_FILE, flattened, tracked

WITHOUT = find_spec("mlflow") is None
needs_mlflow = pytest.mark.skipif(WITHOUT, reason="mlflow is not installed; nox -s mlflow")
# of MLflow and SQLAlchemy, which are not ours
quiet_warnings = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)

CONFIG = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=1), nepochs=2, batch_size=4, nphotons=1e5)
LOGGED = ExecutionConfig(accelerator="cpu", enable_progress_bar=False, logger_backend="mlflow")


@pytest.fixture(params=["torch", "tensorflow"])
def backend(request):
    asked = request.config.getoption("--backend")
    if request.param not in installed_backends() or (asked and request.param not in asked):
        pytest.skip(f"{request.param}: not installed, or not asked for")
    return get_backend(request.param)


def trained(backend, folder):
    model = backend.train(simulate_star(64, 8), CONFIG, execution=LOGGED, output_dir=folder)
    return model, json.loads((folder / "logs" / RUN_FILE).read_text())


def test_nested_values_get_dotted_names():
    assert flattened("A", {"b": 1, "c": {"d": 2}}) == {"A.b": 1, "A.c.d": 2}


def test_without_the_logger_there_is_no_run(tmp_path):
    for execution, folder in ((ExecutionConfig(), tmp_path), (LOGGED, None)):
        with tracked(CONFIG, execution, folder) as run:
            assert run is None
    assert list(tmp_path.iterdir()) == []


@needs_mlflow
@quiet_warnings
def test_parameters_metrics_and_archive_are_in_the_run(backend, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    model, where = trained(backend, tmp_path / "run")
    assert where["tracking_uri"] == f"sqlite:///{tmp_path / 'run' / DATABASE}"
    client = mlflow.MlflowClient(tracking_uri=where["tracking_uri"])
    run = client.get_run(where["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["TrainingConfig.model.N"] == "64"
    assert run.data.params["TrainingConfig.nphotons"] == "100000.0"
    assert run.data.params["ExecutionConfig.learning_rate"] == "0.001"
    losses = client.get_metric_history(where["run_id"], "train_loss")
    assert [(entry.step, entry.value) for entry in losses] == [
        (row.epoch, pytest.approx(row.train_loss)) for row in model.history
    ]
    path = client.download_artifacts(where["run_id"], "wts.h5.zip", str(tmp_path))
    again = load_archive(path)
    assert all(np.array_equal(again.weights[name], weight) for name, weight in model.weights.items())
    # nothing of the process was changed, and nothing written elsewhere
    assert mlflow.active_run() is None
    assert {path.name for path in tmp_path.iterdir()} == {"run", "wts.h5.zip"}


@needs_mlflow
@quiet_warnings
def test_the_store_of_the_environment_is_used(backend, tmp_path, monkeypatch):
    store = f"sqlite:///{tmp_path / 'shared.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    _, where = trained(backend, tmp_path / "run")
    assert where["tracking_uri"] == store
    assert not (tmp_path / "run" / DATABASE).exists()


@needs_mlflow
@quiet_warnings
@pytest.mark.skipif("torch" not in installed_backends(), reason="torch is not installed")
def test_a_run_is_found_by_its_number(backend, tmp_path, monkeypatch):
    from ptycho_torch.inference import load_and_predict

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model, where = trained(backend, tmp_path / "run")
    scan = save_scan(simulate_star(64, 8), tmp_path / "scan.npz")
    image = load_and_predict(where["run_id"], scan, relative_mlflow_path=tmp_path / "run")
    want = load_and_predict(get_backend("torch").save(model, tmp_path / "m.wts.h5.zip"), scan)
    np.testing.assert_array_equal(image.object, want.object)


@needs_mlflow
@quiet_warnings
def test_a_training_that_fails_is_marked(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(RuntimeError, match="broken"), tracked(CONFIG, LOGGED, tmp_path) as run:
        raise RuntimeError("broken")
    client = mlflow.MlflowClient(tracking_uri=run.tracking_uri)
    assert client.get_run(run.run_id).info.status == "FAILED"
