"""Seeds, learning-rate range test and MLflow parameters, under the names of the legacy port."""

import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.errors import BackendUnavailableError, ConfigError
from ptycho_backends.training.loggers import flattened
from ptycho_torch.backend.arrays import tensors_from_batch
from ptycho_torch.backend.data import PtychoDataModule
from ptycho_torch.backend.model import adam
from ptycho_torch.backend.module import PtychoModule

__all__ = ["LearningRates", "PtychoDataModule", "find_learning_rate", "log_parameters_mlflow", "set_seed"]

# Weight of the newest value in the running mean of the range test.
SMOOTHING = 0.2

# The test ends when the rise of the loss exceeds its largest fall by this factor.
DIVERGED = 4.0


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Results of a range test.

    Attributes
    ----------
    learning_rates : tuple of float
        One for each step made.
    loss_changes : tuple of float
        Running mean of the change by training in the loss of each step's batch; below 0 is progress.
    suggestion : float
        Rate of the fastest fall, before the minimum of the loss.
    """

    learning_rates: tuple[float, ...]
    loss_changes: tuple[float, ...]
    suggestion: float


def set_seed(seed: int = 42) -> int:
    """Seed Python, NumPy and PyTorch, workers of data loaders included; returns the seed.

    This library's own draws (weights, groups, batches) come from `TrainingConfig.seed` alone.

    Raises
    ------
    ConfigError
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed: got {seed!r}, want an integer in 0 .. 2**32 - 1")
    return lightning.seed_everything(seed, workers=True, verbose=False)


def find_learning_rate(
    module: PtychoModule,
    data: PtychoDataModule,
    *,
    smallest: float = 1e-6,
    largest: float = 1.0,
    steps: int = 60,
) -> LearningRates:
    """Learning-rate range test: steps of Adam whose rate grows geometrically, until the loss diverges.

    The same module and data give the same result. The weights of the module are restored at the end, also after
    an error.

    Parameters
    ----------
    module : PtychoModule
        On the device of the test.
    data : PtychoDataModule
        Its training batches are taken in the order of the epochs.
    smallest, largest : float
        Rates of the first and the last step.
    steps : int
        At least 10.

    Returns
    -------
    LearningRates

    Raises
    ------
    ConfigError
        If a parameter is not allowed, or the loss fell at no rate.

    References
    ----------
    L. N. Smith, Cyclical learning rates for training neural networks, 2017, section 3.3.
    """
    if not 0 < smallest < largest < math.inf or steps < 10:
        raise ConfigError(
            f"find_learning_rate: got smallest={smallest}, largest={largest}, steps={steps}; "
            "want 0 < smallest < largest and steps >= 10"
        )
    batches = list(itertools.islice(_training_batches(data), steps))
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        # the loss differs more between batches than between steps, so each batch is compared with itself
        untrained = [float(_loss(module, data, *batch)) for batch in batches]
    rates: list[float] = []
    changes: list[float] = []
    mean = 0.0
    try:
        optimizer = adam(module.model, smallest)
        for step, batch in enumerate(batches):
            rate = smallest * (largest / smallest) ** (step / (steps - 1))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = _loss(module, data, *batch)
            loss.backward()
            optimizer.step()
            mean = (1 - SMOOTHING) * mean + SMOOTHING * (float(loss.detach()) - untrained[step])
            if not math.isfinite(mean) or mean > -DIVERGED * min(changes, default=0.0) > 0:
                break
            rates.append(rate)
            changes.append(mean)
    finally:
        module.load_state_dict(before)
        module.zero_grad()
    return LearningRates(tuple(rates), tuple(changes), _steepest(rates, changes))


def _training_batches(data: PtychoDataModule) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """Epoch and group numbers of the training batches of one epoch after the other, without end."""
    for epoch in itertools.count(1):
        yield from ((epoch, batch) for batch in data.plan.epoch_batches(epoch))


def _loss(module: PtychoModule, data: PtychoDataModule, epoch: int, indices: NDArray[np.integer]) -> Tensor:
    batch = tensors_from_batch(data.plan.gather(indices, epoch))
    tensors = {name: tensor.to(module.device) for name, tensor in batch.items()}
    return module.model.loss_terms(module.config, tensors, module.intensity_scale)["total"]


def _steepest(rates: list[float], changes: list[float]) -> float:
    """The rate at which the loss falls fastest against the logarithm of the rate."""
    lowest = changes.index(min(changes)) if changes else 0
    slopes = [after - before for before, after in itertools.pairwise(changes[: lowest + 1])]
    if not slopes or changes[lowest] >= 0:
        raise ConfigError(
            f"find_learning_rate: the loss fell at none of {len(rates)} rates; want a smaller `smallest`, "
            "or other data"
        )
    return rates[slopes.index(min(slopes))]


def log_parameters_mlflow(*configs: Any) -> dict[str, Any]:
    """Write every field of configuration dataclasses as parameters of the active MLflow run.

    Parameters
    ----------
    *configs : dataclasses
        `ModelConfig`, `TrainingConfig`, `ExecutionConfig`, ...

    Returns
    -------
    dict
        The logged parameters: 'TrainingConfig.model.N', ... to values.

    Raises
    ------
    BackendUnavailableError
        If MLflow, which is optional, is not installed.
    """
    try:
        mlflow = importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        raise BackendUnavailableError(
            "log_parameters_mlflow: 'mlflow' is not installed; run: pip install mlflow, or leave the call out"
        ) from error
    parameters: dict[str, Any] = {}
    for config in configs:
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            raise ConfigError(f"log_parameters_mlflow: got {config!r}, want configuration objects")
        parameters |= flattened(type(config).__name__, dataclasses.asdict(config))
    mlflow.log_params(parameters)
    return parameters
