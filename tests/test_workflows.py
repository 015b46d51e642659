"""The verbs: the files in their folder, and the input that they refuse."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from oracle_backend import OracleBackend

from ptycho_backends import workflows
from ptycho_backends.archive.model_file import load_archive
from ptycho_backends.config import (
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
)
from ptycho_backends.config_file import load_config
from ptycho_backends.errors import ConfigError, GroupingError, OutputError, PtychoBackendsError, ScanError
from ptycho_backends.images import results
from ptycho_backends.images.results import load_reconstruction
from ptycho_backends.scans.scan_files import load_scan, save_scan
from ptycho_backends.scans.simulate import focused_probe, simulate_star
from ptycho_backends.scans.statistics import mean_photons
from ptycho_backends.values import EpochRecord, Reconstruction

TRAINED = {"config.yaml", "execution.yaml", "wts.h5.zip", "history.csv", "history.png", "report.html"}
UNKNOWN = {"object_guess": None, "object_mask": None}
LOGS = {"logs"}  # a folder of each training; the files of a result are listed without it
INFERRED = {"inference.yaml", "reconstruction.npz", "reconstruction.png", "metrics.json", "report.html"}
REFINED = {"network.npz", "refinement.yaml", "refinement.png"}


@pytest.fixture(scope="module")
def scan():
    return simulate_star(64, 60)


@pytest.fixture
def backend():
    return OracleBackend()


@pytest.fixture(autouse=True)
def quick_pictures(request, monkeypatch):
    """Pictures have tests of their own, and take most of the time."""
    if request.function is not test_demo_needs_nothing:

        def touch(_, path, *__):
            path.touch()
            return path

        monkeypatch.setattr("ptycho_backends.workflows.images.save_reconstruction_figure", touch)
        monkeypatch.setattr("ptycho_backends.workflows.training.save_history_figure", touch)
        monkeypatch.setattr("ptycho_backends.workflows.result.save_report", touch)


def settings(**changes):
    model = ModelConfig(N=0, n_filters_scale=1)
    return TrainingConfig(model=model, nepochs=3, n_groups=60, nphotons=1e5, **changes)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_run_fills_its_folder(tmp_path, scan, backend):
    result = workflows.run(scan, settings(), tmp_path / "run", backend=backend, refine=None)
    assert names(tmp_path / "run") == TRAINED | INFERRED | LOGS
    assert {path.name for path in result.files.values()} == TRAINED | INFERRED
    assert all(path.is_file() for path in result.files.values())
    assert (result.backend, result.interrupted) == ("oracle", False)
    assert result.metrics.complex_correlation > 0.99
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["backend"] == "oracle"

    config = load_config(tmp_path / "run" / "config.yaml")
    assert (config.model.N, config.backend, config.nepochs) == (64, "oracle", 3)
    assert config.output_dir == tmp_path / "run"
    assert load_config(tmp_path / "run" / "inference.yaml", InferenceConfig).model == config.model
    assert load_config(tmp_path / "run" / "execution.yaml", ExecutionConfig) == ExecutionConfig()
    assert len(load_archive(tmp_path / "run").history) == 3
    with open(tmp_path / "run" / "history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["train_loss"]) for row in rows] == [10.0, 5.0, 10.0 / 3]
    values = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert values["complex_correlation"] == result.metrics.complex_correlation
    assert values["backend"] == "oracle"


def test_a_reconstruction_comes_back_from_its_file(tmp_path, scan, backend):
    result = workflows.run(scan, settings(), tmp_path, backend=backend)
    again = results.load_reconstruction(result.files["reconstruction"])
    for name in ("object", "coverage", "origin_px", "group_centres_px"):
        np.testing.assert_array_equal(getattr(again, name), getattr(result.reconstruction, name))
    assert (again.backend, again.pixel_size_m) == ("oracle", None)
    sized = dataclasses.replace(result.reconstruction, pixel_size_m=1e-8)
    assert (
        results.load_reconstruction(results.save_reconstruction(sized, tmp_path / "x.npz")).pixel_size_m
        == 1e-8
    )


def test_what_is_no_reconstruction_is_told(tmp_path, scan):
    (tmp_path / "text.npz").write_text("no")
    for path in (save_scan(scan, tmp_path / "scan.npz"), tmp_path / "text.npz", tmp_path / "none.npz"):
        with pytest.raises(ScanError, match="not a readable reconstruction"):
            results.load_reconstruction(path)


def test_train_then_infer_from_files(tmp_path, scan, backend):
    path = save_scan(scan, tmp_path / "scan.npz")
    trained = workflows.train(path, settings(output_dir=tmp_path / "model"), backend=backend)
    assert names(tmp_path / "model") == TRAINED | LOGS
    assert trained.reconstruction is None
    inferred = workflows.infer(tmp_path / "model", path, tmp_path / "image", backend=backend)
    assert names(tmp_path / "image") == INFERRED
    assert (
        load_config(tmp_path / "image" / "inference.yaml", InferenceConfig).model_path == tmp_path / "model"
    )
    assert inferred.metrics is not None


def test_infer_forms_the_groups_it_is_told_to(tmp_path, scan, backend):
    trained = workflows.train(scan, settings(), tmp_path, backend=backend)
    few = InferenceConfig(n_groups=25, output_dir=tmp_path / "few")
    result = workflows.infer(trained.model, scan, backend=backend, config=few, stitching_size=24)
    assert result.output_dir == tmp_path / "few"
    assert len(result.reconstruction.group_centres_px) == 25
    with pytest.raises(ConfigError, match="stitching_size: got 21"):
        workflows.infer(trained.model, scan, tmp_path / "odd", backend=backend, stitching_size=21)
    assert not (tmp_path / "odd").exists()


def test_patches_agree_on_phase_where_that_is_asked_for(tmp_path, scan, backend):
    trained = workflows.train(scan, settings(), tmp_path, backend=backend)

    def image(**asked):
        return workflows.infer(trained.model, scan, tmp_path, backend=backend, **asked).reconstruction.object

    plain, agreed = image(), image(agree_on_phase=True)
    assert not np.array_equal(plain, agreed)
    assert load_config(tmp_path / "inference.yaml", InferenceConfig).agree_on_phase
    wanting = InferenceConfig(agree_on_phase=True)
    np.testing.assert_array_equal(image(config=wanting), agreed)
    np.testing.assert_array_equal(image(config=wanting, agree_on_phase=False), plain)


def test_a_backend_may_be_older_than_the_agreement(tmp_path, scan):
    class Older(OracleBackend):
        def infer_groups(self, model, groups, execution, stitching_size):
            return super().infer_groups(model, groups, execution, stitching_size)

    result = workflows.run(scan, settings(), tmp_path, backend=Older(), refine=None, agree_on_phase=False)
    assert result.reconstruction is not None
    with pytest.raises(TypeError, match="agree_on_phase"):
        Older().infer(result.model, scan, agree_on_phase=True)


def test_without_a_known_object_there_are_no_metrics_not_even_old_ones(tmp_path, scan, backend):
    workflows.run(scan, settings(), tmp_path, backend=backend)
    assert (tmp_path / "metrics.json").exists()
    unknown = dataclasses.replace(scan, **UNKNOWN)
    result = workflows.infer(tmp_path, unknown, tmp_path, backend=backend)
    assert result.metrics is None
    assert not (tmp_path / "metrics.json").exists()
    assert result.as_dict()["metrics"] is None


def test_an_object_elsewhere_costs_the_metrics_only(tmp_path, scan, backend, caplog):
    moved = dataclasses.replace(scan, object_guess=scan.object_guess[:20, :20], object_mask=None)
    result = workflows.run(moved, settings(), tmp_path, backend=backend)
    assert result.metrics is None
    assert "no metrics" in caplog.text
    assert result.files["reconstruction_figure"].is_file()


def test_another_scan_may_be_reconstructed(tmp_path, scan, backend):
    other = save_scan(simulate_star(64, 30, seed=1), tmp_path / "other.npz")
    for n, arguments in enumerate([{"test_scan": other}, {}]):
        config = settings(test_data_file=None if arguments else other)
        result = workflows.run(scan, config, tmp_path / str(n), backend=backend, **arguments)
        assert len(result.reconstruction.group_centres_px) == 30
    large = simulate_star(128, 10)
    with pytest.raises(ScanError, match="128 pixels, want 64"):
        workflows.run(scan, settings(), tmp_path / "x", test_scan=large, backend=backend)
    with pytest.raises(ScanError, match=r"none\.npz.*(?i:no such file)"):
        workflows.run(scan, settings(), tmp_path / "x", test_scan=tmp_path / "none.npz", backend=backend)
    assert not (tmp_path / "x").exists()


def test_interrupted_training_is_kept_and_can_be_resumed(tmp_path, scan, backend, monkeypatch):
    monkeypatch.setattr(OracleBackend, "interrupt_after", 2)
    stopped = workflows.run(scan, settings(), tmp_path, backend=backend)
    assert stopped.interrupted
    assert names(tmp_path) == TRAINED | INFERRED | LOGS
    monkeypatch.setattr(OracleBackend, "interrupt_after", None)
    # a model that was stopped early makes an image that was not
    image = workflows.infer(stopped.model, scan, tmp_path / "image", backend=backend)
    assert image.model.interrupted
    assert not image.interrupted
    told = []
    resumed = workflows.train(
        scan, settings(), tmp_path, backend=backend, resume_from=tmp_path, on_epoch=told.append
    )
    assert not resumed.interrupted
    assert [record.epoch for record in told] == [3]
    assert [record.epoch for record in resumed.model.history] == [1, 2, 3]
    with pytest.raises(ConfigError, match="n_filters_scale"):
        workflows.train(
            scan,
            dataclasses.replace(settings(), model=ModelConfig(N=64, n_filters_scale=2)),
            tmp_path / "x",
            backend=backend,
            resume_from=tmp_path,
        )
    assert not (tmp_path / "x").exists()


def test_a_checkpoint_goes_before_the_archive(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert workflows.resumable_file(tmp_path) == tmp_path
    (tmp_path / "checkpoints" / "last.wts.h5.zip").touch()
    assert workflows.resumable_file(tmp_path) == tmp_path / "checkpoints" / "last.wts.h5.zip"
    assert workflows.resumable_file(tmp_path / "wts.h5.zip") == tmp_path / "wts.h5.zip"


@pytest.mark.parametrize(
    ("scan_changes", "changes", "error"),
    [
        ({}, {"nll_weight": 0.0}, ConfigError),
        ({}, {"model": ModelConfig(N=128)}, ConfigError),
        ({}, {"model": ModelConfig(gridsize=3), "neighbor_count": 5}, GroupingError),
        ({}, {"model": ModelConfig(gridsize=2), "n_groups": 61}, GroupingError),
        (UNKNOWN, {"model": ModelConfig(model_type="supervised")}, ScanError),
        ({"patterns": np.zeros((60, 64, 64))}, {}, ScanError),
        ({"patterns": np.ones((60, 48, 48)), "probe_guess": None}, {}, ConfigError),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_anything_is_written(tmp_path, scan, backend, scan_changes, changes, error):
    bad = dataclasses.replace(scan, **scan_changes)
    config = dataclasses.replace(settings(), **changes)
    with pytest.raises(error) as caught:
        workflows.run(bad, config, tmp_path / "run", backend=backend)
    assert isinstance(caught.value, PtychoBackendsError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_stops_before_training(tmp_path, scan, backend, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(backend, "train", None)
    for verb in (workflows.train, workflows.run):
        with pytest.raises(OutputError, match="cannot be written to"):
            verb(scan, settings(), tmp_path / "file" / "run", backend=backend)
    with pytest.raises(OutputError, match="cannot be written to"):
        workflows.demo(tmp_path / "file", backend=backend, positions=20, epochs=1)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failure_while_training_leaves_no_archive(tmp_path, scan, backend, monkeypatch):
    def explode(*_, **__):
        raise MemoryError

    monkeypatch.setattr(backend, "train", explode)
    with pytest.raises(MemoryError):
        workflows.train(scan, settings(), tmp_path, backend=backend)
    assert names(tmp_path) == {"config.yaml", "execution.yaml"}


def test_demo_needs_nothing(tmp_path, backend):
    result = workflows.demo(tmp_path, backend=backend, positions=40, epochs=2)
    assert names(tmp_path) == TRAINED | INFERRED | REFINED | LOGS | {"scan.npz"}
    assert result.metrics is not None
    assert len(result.reconstruction.passes) > 1
    for name in ("reconstruction.png", "history.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    again = load_scan(result.files["scan"])
    assert len(again) == 40
    assert again.pattern_energies.mean() == pytest.approx(workflows.DEMO_PHOTONS, rel=0.01)
    config = load_config(tmp_path / "config.yaml")
    assert config.nphotons == pytest.approx(again.pattern_energies.mean())
    assert config.train_data_file == result.files["scan"]


def test_run_refines_and_keeps_the_networks_image(tmp_path, scan, backend):
    seen = []
    few = RefinementConfig(passes=2)
    result = workflows.run(scan, settings(), tmp_path, backend=backend, refine=few, on_pass=seen.append)
    assert names(tmp_path) == TRAINED | INFERRED | REFINED | LOGS
    assert [record.number for record in seen] == [1, 2]
    network = load_reconstruction(tmp_path / "network.npz")
    refined = load_reconstruction(tmp_path / "reconstruction.npz")
    np.testing.assert_array_equal(network.object, result.reconstruction.start.object)
    np.testing.assert_array_equal(refined.object, result.reconstruction.object)
    assert load_config(tmp_path / "refinement.yaml", RefinementConfig) == few
    assert "R-factor" in result.report
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert list(values).index("phase_correlation_ramp_removed") < list(values).index("complex_correlation")


def test_refine_needs_no_model(tmp_path, scan, backend):
    result = workflows.refine(scan, tmp_path, backend=backend, config=RefinementConfig(passes=3), frc=True)
    assert result.model is None
    assert names(tmp_path) == REFINED - {"network.npz"} | {
        "reconstruction.npz", "reconstruction.png", "metrics.json", "resolution.png", "report.html",
    }  # fmt: skip
    assert result.as_dict()["interrupted"] is False
    again = workflows.refine(
        scan, tmp_path / "b", start=tmp_path, backend=backend, config=RefinementConfig(passes=1)
    )
    assert again.reconstruction.passes[0].error < 0.5 * result.reconstruction.passes[0].error


def test_simulate_writes_a_scan(tmp_path):
    path = workflows.simulate(tmp_path / "new" / "scan.npz", N=64, positions=9, measurement="amplitude")
    assert load_scan(path).measurement == "amplitude"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        workflows.simulate(tmp_path / "file" / "scan.npz", N=64, positions=9)


@pytest.mark.parametrize("kind", workflows.OBJECT_KINDS)
def test_simulate_any_object_with_any_probe(tmp_path, kind):
    modes = np.stack([focused_probe(64), 0.5 * focused_probe(64, radius_px=7.0)])
    path = workflows.simulate(tmp_path / "scan.npz", kind, probe=modes, positions=9, n_photons=1e4, seed=2)
    scan = load_scan(path)
    assert scan.probe_modes.shape == (2, 64, 64)
    assert mean_photons(scan) == pytest.approx(1e4, rel=0.02)
    again = load_scan(
        workflows.simulate(tmp_path / "2.npz", kind, probe=modes, positions=9, n_photons=1e4, seed=2)
    )
    np.testing.assert_array_equal(again.patterns, scan.patterns)


def test_counts_are_recognised_whatever_is_stored(scan):
    roots = simulate_star(64, 20, measurement="amplitude")
    expected = simulate_star(64, 20, poisson=False)
    assert workflows.holds_counts(scan)
    assert workflows.holds_counts(roots)
    assert not workflows.holds_counts(expected)
    assert workflows.mean_photons(roots) == pytest.approx(1e5, rel=0.01)
    dark = dataclasses.replace(scan, patterns=np.zeros_like(scan.patterns))
    with pytest.raises(ScanError, match="every pattern is empty"):
        workflows.mean_photons(dark)


def test_history_file_keeps_every_digit_and_tells_what_is_missing(tmp_path):
    history = [EpochRecord(1, 0.1 + 0.2, None, 1e-3, 0.5), EpochRecord(2, 1 / 3, 2 / 3, 5e-4, 0.25)]
    lines = results.save_history(history, tmp_path / "h.csv").read_text().splitlines()
    assert lines[0] == "epoch,train_loss,val_loss,learning_rate,seconds"
    assert lines[1] == f"1,{0.1 + 0.2!r},,0.001,0.5"
    assert float(lines[2].split(",")[2]) == 2 / 3


def test_results_are_whole_or_not_at_all(tmp_path):
    image = Reconstruction(
        np.ones((4, 4), np.complex64), np.ones((4, 4), np.float32), np.zeros(2), np.zeros((1, 2))
    )
    (tmp_path / "file").touch()
    writers = (
        lambda path: results.save_reconstruction(image, path),
        lambda path: results.save_history([], path),
        lambda path: results.save_json({}, path),
    )
    for write in writers:
        with pytest.raises(OutputError, match="cannot be written"):
            write(tmp_path / "file" / "x")
    with pytest.raises(ValueError, match="JSON"):
        results.save_json({"x": float("nan")}, tmp_path / "x.json")
    assert names(tmp_path) == {"file"}
