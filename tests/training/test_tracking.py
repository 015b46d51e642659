"""Trainings in MLflow, TensorBoard and W&B, with these themselves and without a network; skipped where missing."""

import dataclasses
import json
from importlib.util import find_spec

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.errors import BackendUnavailableError, OutputError
from ptycho_backends.registry import get_backend, installed_backends
from ptycho_backends.scans.scan_files import save_scan
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training import loggers
from ptycho_backends.training.loggers import FOLDER, METRICS_FILE, flattened
from ptycho_backends.training.mlflow_run import DATABASE, RUN_FILE
from ptycho_backends.training.tracking import tracked
from ptycho_backends.workflows import train


def needs(package):
    return pytest.mark.skipif(
        find_spec(package) is None, reason=f"{package} is not installed; nox -s trackers"
    )


needs_mlflow = pytest.mark.skipif(
    not loggers.has_mlflow_store(), reason="MLflow with its store is not installed"
)
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


@pytest.mark.parametrize(
    ("packages", "environment", "has_store"),
    [
        ((), {}, False),
        (("mlflow", "sqlalchemy"), {}, True),
        (("mlflow",), {}, False),
        (("mlflow",), {"MLFLOW_TRACKING_URI": "http://127.0.0.1"}, True),
        ((), {"MLFLOW_TRACKING_URI": "http://127.0.0.1"}, False),
    ],
)
def test_mlflow_without_a_database_needs_a_server(monkeypatch, packages, environment, has_store):
    monkeypatch.setattr(loggers, "_is_installed", lambda name: name in packages)
    assert loggers.has_mlflow_store(environment) == has_store


def test_without_the_logger_there_is_no_run(tmp_path):
    for execution, folder in ((ExecutionConfig(logger_backend=None), tmp_path), (LOGGED, None)):
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
    client = mlflow.MlflowClient(tracking_uri=run.tracker.tracking_uri)
    assert client.get_run(run.tracker.run_id).info.status == "FAILED"


@needs_mlflow
@quiet_warnings
def test_mlflow_opens_the_model_and_predicts(backend, tmp_path, monkeypatch):
    import mlflow
    from mlflow.exceptions import MlflowException

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    model, where = trained(backend, tmp_path / "run")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(where["tracking_uri"])
    try:
        opened = mlflow.pyfunc.load_model(f"runs:/{where['run_id']}/model")
    finally:
        mlflow.set_tracking_uri(before)
    scan = simulate_star(64, 8)
    inputs = {"patterns": scan.patterns.astype(np.float32), "positions_px": scan.scan_positions_px}
    image = opened.predict(inputs, params={"measurement": scan.measurement})
    want = backend.infer(model, scan)
    np.testing.assert_allclose(image["amplitude"], np.abs(want.object), atol=1e-6)
    np.testing.assert_allclose(image["phase"], np.angle(want.object), atol=1e-5)
    np.testing.assert_array_equal(image["coverage"], want.coverage)
    np.testing.assert_array_equal(image["origin_px"], want.origin_px)
    patches = opened.predict(inputs, params={"output": "patches", "measurement": scan.measurement})
    np.testing.assert_allclose(patches["amplitude"], np.abs(want.object_patches[..., 0]), atol=1e-6)
    np.testing.assert_array_equal(patches["centres_px"], want.group_centres_px)
    names = {spec.name: spec.shape for spec in opened.metadata.get_input_schema().inputs}
    assert names == {"patterns": (-1, 64, 64), "positions_px": (-1, 2)}
    with pytest.raises(MlflowException, match="enforce schema"):
        opened.predict({"patterns": inputs["patterns"]})


# --- the others, with a backend that takes no time


ORACLE_CONFIG = TrainingConfig(
    model=ModelConfig(N=16, architecture="unrolled", gridsize=1), nepochs=3, nphotons=1e4
)


def logged_by_oracle(folder, logger):
    execution = ExecutionConfig(enable_progress_bar=False, logger_backend=logger)
    return OracleBackend().train(simulate_star(16, 12), ORACLE_CONFIG, execution=execution, output_dir=folder)


@pytest.mark.parametrize("logger", ["tensorboard", "mlflow", "wandb"])
def test_a_package_that_is_missing_is_named_before_an_earlier_run_goes(tmp_path, monkeypatch, logger):
    monkeypatch.setattr("ptycho_backends.training.loggers.find_spec", lambda name: None)
    (tmp_path / "history.csv").write_text("of an earlier run\n")
    with pytest.raises(BackendUnavailableError, match=rf"pip install 'ptycho-backends\[{logger}\]'"):
        train(
            simulate_star(16, 12), ORACLE_CONFIG, tmp_path, backend=OracleBackend(),
            execution=ExecutionConfig(logger_backend=logger),
        )  # fmt: skip
    assert (tmp_path / "history.csv").is_file()
    with pytest.raises(BackendUnavailableError, match=f"got '{logger}'"):
        logged_by_oracle(tmp_path / "other", logger)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_folder_of_the_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailableError, match="'wandb' is not installed"):
        logged_by_oracle(tmp_path / "run", "wandb")


def test_csv_has_every_epoch_on_any_backend(tmp_path):
    model = logged_by_oracle(tmp_path, "csv")
    header, *rows = (tmp_path / FOLDER / METRICS_FILE).read_text().splitlines()
    assert header.startswith("epoch,train_loss,val_loss")
    assert (
        [row.split(",")[0] for row in rows]
        == [str(record.epoch) for record in model.history]
        == ["1", "2", "3"]
    )


def test_a_tracker_that_breaks_is_a_warning_and_the_training_goes_on(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr("ptycho_backends.training.loggers.CsvLog.log", broken)
    assert len(logged_by_oracle(tmp_path, "csv").history) == 3
    assert [message for message in caplog.messages if "server is gone" in message] == [
        "logger_backend='csv': ConnectionError: the server is gone; training goes on without it"
    ]


def test_a_tracker_that_begins_no_run_is_refused(tmp_path, monkeypatch):
    def broken(*_):
        raise ConnectionError("no such server")

    monkeypatch.setattr("ptycho_backends.training.tracking.CsvLog", broken)
    with pytest.raises(OutputError, match=r"logger_backend: 'csv' begins no run .*no such server"):
        logged_by_oracle(tmp_path, "csv")


@needs("tensorboard")
@quiet_warnings
def test_tensorboard_reads_what_is_written(tmp_path, monkeypatch):
    import tensorboard.compat
    from tensorboard.compat import tensorflow_stub

    # TensorBoard would import TensorFlow, where that is installed
    monkeypatch.setattr(tensorboard.compat, "tf", tensorflow_stub, raising=False)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracked(ORACLE_CONFIG, dataclasses.replace(LOGGED, logger_backend="tensorboard"), tmp_path) as run:
        model = OracleBackend().train(simulate_star(16, 12), ORACLE_CONFIG, execution=ExecutionConfig())
        run.log(model.history[:2])
        (tmp_path / "live.png").write_bytes(b"a picture")
        run.show(tmp_path / "live.png", 2)
        run.model = model
    events = EventAccumulator(str(tmp_path / FOLDER))
    events.Reload()
    losses = events.Scalars("train_loss")
    assert [(event.step, event.value) for event in losses] == [
        (record.epoch, pytest.approx(record.train_loss)) for record in model.history
    ]
    assert set(events.Tags()["scalars"]) == {"train_loss", "val_loss", "learning_rate", "seconds"}
    (picture,) = events.Images("image")
    assert (picture.step, picture.encoded_image_string) == (2, b"a picture")


@needs("wandb")
@quiet_warnings
def test_wandb_writes_a_run_without_a_network(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    model = logged_by_oracle(tmp_path / "run", "wandb")
    assert len(model.history) == 3
    assert wandb.run is None
    (written,) = (tmp_path / "run" / FOLDER).rglob("*.wandb")
    content = written.read_bytes()
    assert b"train_loss" in content
    assert b"nphotons" in content
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
