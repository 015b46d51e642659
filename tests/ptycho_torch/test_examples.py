"""The examples for machine-learners, run on small patterns."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.reference.initial_weights import weight_shapes
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.training.plan import plan_training
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.module import PtychoModule
from ptycho_torch.backend.training import TrainingRun

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("own_loss", "forward_hook", "own_logger", "own_callback", "low_rank_finetune", "optuna_search")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_each_is_under_forty_lines(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 40


def test_own_loss() -> None:
    model, seen = example("own_loss").main(N=16, epochs=2)
    assert len(model.history) == 2
    assert model.history[1].train_loss < model.history[0].train_loss
    misfit, roughness = np.array(seen).T
    # the loss in the history is that of the example, and no other
    assert min(misfit) < model.history[0].train_loss < max(misfit) + 0.05 * max(roughness)


def test_forward_hook() -> None:
    features = example("forward_hook").main(N=16)
    assert {name: array.shape[0] for name, array in features.items()} == {
        "encoder/block0": 4,
        "decoder/block0": 4,
    }
    assert all(array.ndim == 4 and array.any() for array in features.values())


def test_own_logger() -> None:
    model, rows = example("own_logger").main(N=16, epochs=2)
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert losses == pytest.approx([record.train_loss for record in model.history])


def test_own_callback_and_data(tmp_path: Path) -> None:
    model = example("own_callback").main(tmp_path, N=16, epochs=5, least=1e3)
    # the callback ended it, and the files are written
    assert len(model.history) == 2
    assert (tmp_path / "wts.h5.zip").is_file()
    # other noise in every epoch: the losses are not those of the scan
    plain = example("own_logger").main(N=16, epochs=1)[0]
    assert model.history[0].train_loss != pytest.approx(plain.history[0].train_loss, rel=1e-6)


def test_optuna_ends_trials_that_fall_behind() -> None:
    optuna = pytest.importorskip("optuna", reason="`nox -s optuna` has it")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = example("optuna_search").main(N=16, trials=2, epochs=1, backend="torch")
    assert set(study.best_params) == {"n_steps", "learning_rate"}
    assert [trial.state for trial in study.trials] == 2 * [optuna.trial.TrialState.COMPLETE]


def test_an_error_of_a_callback_carries_the_model() -> None:
    class Fails(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise OSError("full")

    network = ModelConfig(N=16, architecture="unrolled", gridsize=1)
    config = TrainingConfig(model=network, nepochs=3)
    execution = ExecutionConfig(enable_progress_bar=False, accelerator="cpu")
    with pytest.raises(OSError, match="full") as raised:
        TorchBackend(callbacks=[Fails()]).train(simulate_star(16, 20, seed=0), config, execution=execution)
    assert len(raised.value.trained_model.history) == 1


def test_a_notebook_shows_module_and_training() -> None:
    network = ModelConfig(N=16, architecture="unrolled", gridsize=1)
    plan = plan_training(simulate_star(16, 20, seed=0), TrainingConfig(model=network, nepochs=1), "torch")
    execution = ExecutionConfig(enable_progress_bar=False, accelerator="cpu")
    module = PtychoModule(plan.start, execution)
    run = TrainingRun(plan, module, execution=execution)
    assert "not trained yet" in run._repr_html_()
    run.fit()
    assert "TrainingRun(1 of 1 epochs of 19 groups)" in run._repr_html_()
    assert run.plot()._repr_png_().startswith(b"\x89PNG")
    page = module.model._repr_html_()
    assert "PtychoModel: unrolled, N=16" in page
    assert "<td>encoder/block0</td>" in page
    assert module.model.plot()._repr_png_().startswith(b"\x89PNG")


def test_low_rank_finetune() -> None:
    network = ModelConfig(N=16, architecture="unrolled", gridsize=1)
    plan = plan_training(simulate_star(16, 30, seed=0), TrainingConfig(model=network, nepochs=1), "torch")
    model, losses = example("low_rank_finetune").finetune(plan, steps=8)
    assert losses[-1] < losses[0]
    assert {name: value.shape for name, value in model.weights.items()} == weight_shapes(plan.config.model)
    name = "encoder/block1/conv0/kernel"
    change = (model.weights[name] - plan.start.weights[name]).reshape(-1, model.weights[name].shape[-1])
    assert np.linalg.matrix_rank(change, tol=1e-5 * np.abs(change).max()) <= 2
    untouched = [other for other in model.weights if not other.endswith("kernel")]
    assert all(np.array_equal(model.weights[other], plan.start.weights[other]) for other in untouched)


def test_on_epoch_stops_training(tmp_path: Path) -> None:
    network = ModelConfig(N=16, architecture="unrolled", gridsize=1)
    scan, config = simulate_star(16, 20, seed=0), TrainingConfig(model=network, nepochs=4)
    execution = ExecutionConfig(enable_progress_bar=False, accelerator="cpu")
    backend = TorchBackend()
    stopped = backend.train(
        scan, config, execution=execution, output_dir=tmp_path, on_epoch=lambda record: record.epoch == 2
    )
    assert stopped.interrupted
    assert len(stopped.history) == 2
    whole = backend.train(scan, config, execution=execution, resume_from=stopped)
    assert [record.epoch for record in whole.history] == [1, 2, 3, 4]
    assert not whole.interrupted
