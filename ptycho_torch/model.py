"""The model as a torch module, and the LightningModule that trains it."""

import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import lightning
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig, config_to_plain
from ptycho_backends.initial_weights import LOG_SCALE, PROBE, is_running_value
from ptycho_backends.lightning_checkpoint import CHECKPOINT_KEY
from ptycho_backends.protocol import EpochCallback, EpochRecord, TrainedModel, TrainingState
from ptycho_backends.reference import constants
from ptycho_backends.schedules import parts_of_weights, schedule_of
from ptycho_torch import losses, network, physics, teams
from ptycho_torch.arrays import TensorBatch, counts, tensors_from_weights, weights_from_tensors

log = logging.getLogger(__name__)

# What `torch.compile` hands its graphs to.
COMPILER = "inductor"


class PtychoModel(torch.nn.Module):
    """Diffraction amplitudes to object and predicted diffraction.

    Parameters
    ----------
    config : ModelConfig
    weights : mapping of arrays
        Canonical names; `parameters_by_name` keeps them, the probe as (N, N, 2) real numbers.
    dtype : torch.dtype
        float32 or float64.
    compiled : bool
        Generate code for the network when it is first used, and again for each new size of a batch.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, NDArray],
        dtype: torch.dtype = torch.float32,
        *,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self._patches = _compiled_network() if compiled else network.object_patches
        self.parameters_by_name = torch.nn.ParameterDict()
        # one by one, because ParameterDict sorts what it is given at once
        for name, value in tensors_from_weights(weights, dtype).items():
            moves = not is_running_value(name)
            self.parameters_by_name[name] = torch.nn.Parameter(value, requires_grad=moves)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The parameters under their canonical names, in canonical order."""
        return cast("Mapping[str, Tensor]", self.parameters_by_name)

    def forward(
        self, diffraction_fed: Tensor, offsets: Tensor, statistics: network.Statistics | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Object patches (B, c, N, N), object (B, N, N), diffraction amplitude (B, C, N, N)."""
        weights = self.tensors
        patches = self._patches(diffraction_fed, weights, self.config, statistics)
        probe = torch.view_as_complex(weights[PROBE])
        with torch.autocast(patches.device.type, enabled=False):
            image, amplitude = physics.predict_diffraction(
                patches, offsets, probe, weights[LOG_SCALE], self.config
            )
        return patches, image, amplitude

    def object(self, diffraction_fed: Tensor, offsets: Tensor) -> Tensor:
        """Object (B, N, N) alone, without the diffraction."""
        patches = self._patches(diffraction_fed, self.tensors, self.config)
        with torch.autocast(patches.device.type, enabled=False):
            if not self.config.object_big:
                return patches[:, 0]
            canvas = physics.merge_patches(patches, offsets, self.config.canvas_size)
            return physics.crop_centre(canvas, self.config.N)

    def loss_terms(
        self,
        config: TrainingConfig,
        batch: TensorBatch,
        intensity_scale: float,
        statistics: network.Statistics | None = None,
    ) -> dict[str, Tensor]:
        """Every term of the loss of `batch`, and their weighted sum as `total`.

        `statistics` is given in training: it gets the batch's, for `follow`.
        """
        measured = intensity_scale * batch["diffraction"]
        patches, image, amplitude = self(measured, batch["offsets"], statistics)
        # in '64-true' Lightning widens the real tensors of a batch, and leaves complex ones as they are
        truth = {
            name: batch[name].to(patches.dtype) for name in ("patches_truth", "object_truth") if name in batch
        }
        with torch.autocast(patches.device.type, enabled=False):
            return losses.loss_terms(
                config,
                patches,
                image,
                amplitude,
                measured,
                truth.get("patches_truth"),
                truth.get("object_truth"),
            )

    @torch.no_grad()
    def follow(self, statistics: network.Statistics) -> None:
        """Move the running values of batch normalisation towards those of a batch that was trained on."""
        for name, value in network.moved_running_values(self.tensors, statistics).items():
            self.parameters_by_name[name].copy_(value)

    def freeze(self, config: TrainingConfig) -> None:
        """Let the probe and the scale be trained only if `config` says so."""
        self.parameters_by_name[PROBE].requires_grad_(config.probe_trainable)
        self.parameters_by_name[LOG_SCALE].requires_grad_(config.intensity_scale_trainable)

    def weights(self) -> dict[str, NDArray]:
        """The canonical weights, in the module's precision."""
        return weights_from_tensors(dict(self.parameters_by_name.items()))


def _compiled_network() -> Callable[..., Tensor]:
    """`network.object_patches`, for which code is generated when it is first called."""
    log.info("compile_network: PyTorch generates code for the network; that may take minutes")
    generated = torch.compile(network.object_patches, backend=COMPILER)

    def object_patches(*arguments: Any) -> Tensor:
        with warnings.catch_warnings():
            # the last step alone is complex, and as quick as ever
            warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")
            return generated(*arguments)

    return object_patches


def adam(
    model: PtychoModel, learning_rate: float, *, by_part: bool = False, fused: bool = True
) -> torch.optim.Adam:
    """Adam over what is trainable, with the constants that every backend shares.

    All in one group; or `by_part`, each group's `part` being one of `config.PARTS`. `fused` takes each step
    in one pass over the weights.
    """
    trainable = {name: p for name, p in model.parameters_by_name.items() if p.requires_grad}
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for name, part in parts_of_weights(trainable).items():
        groups.setdefault(part if by_part else "all", []).append(trainable[name])
    return torch.optim.Adam(
        [{"params": parameters, "part": part} for part, parameters in groups.items()],
        lr=learning_rate,
        betas=(constants.ADAM_BETA1, constants.ADAM_BETA2),
        eps=constants.ADAM_EPSILON,
        fused=fused,
    )


class PtychoModule(lightning.LightningModule):
    """Trains a `PtychoModel` from `start` on, as its configuration says; keeps the history and the schedule.

    Logs `loss_epoch`, the mean over the epoch's steps, and `val_loss`, in time for every callback.
    """

    def __init__(
        self, start: TrainedModel, execution: ExecutionConfig, on_epoch: EpochCallback | None = None
    ) -> None:
        super().__init__()
        config = start.config
        self.model = PtychoModel(config.model, start.weights, compiled=execution.compile_network)
        self.model.freeze(config)
        self.config = config
        self.intensity_scale = start.intensity_scale
        self.schedule = schedule_of(start, execution)
        self.history: list[EpochRecord] = list(start.history)
        self.epochs_done = start.epochs_done
        self.batches_done = 0
        self.steps_done = 0
        self._start = start
        self._on_epoch = on_epoch
        self._by_part = bool(execution.finetune_stages)
        # where losses are scaled, Lightning cannot clip gradients that the optimiser itself scales back
        self._fused = execution.gradient_clip_val is None or not execution.precision.endswith("-mixed")
        self._frozen: list[torch.nn.Parameter] = []
        self._loss_sum: Tensor | float = 0.0
        self._groups = 0
        self._epoch_started = time.perf_counter()
        if start.training_state is not None:
            self.batches_done = start.training_state.batches_done
            self.steps_done = start.training_state.step
            self._loss_sum = start.training_state.loss_sum

    # --- steps

    def training_step(self, batch: TensorBatch, batch_idx: int) -> Tensor:
        own, groups = counts(batch)
        size = self.trainer.world_size
        statistics: network.Statistics = network.SharedStatistics(own / groups) if size > 1 else {}
        total = self.model.loss_terms(self.config, batch, self.intensity_scale, statistics)["total"]
        self.model.follow(statistics)
        loss = self._mean_of_all(total.detach().double(), own / groups)
        # summed where it is, so that no step waits for the device
        self._loss_sum = self._loss_sum + loss * groups
        self._groups += groups
        # a batch for each process
        self.batches_done += size
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True, logger=False, batch_size=groups)
        # the gradients of the processes are averaged as if all had as many groups
        return total if size == 1 else total * (size * own / groups)

    def validation_step(self, batch: TensorBatch, batch_idx: int) -> None:
        own, groups = counts(batch)
        total = self.model.loss_terms(self.config, batch, self.intensity_scale)["total"]
        loss = self._mean_of_all(total.double(), own / groups)
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, batch_size=groups)

    def _mean_of_all(self, loss: Tensor, share: float) -> Tensor:
        """The mean loss over the groups of all processes, of which this one has `share`."""
        if self.trainer.world_size == 1:
            return loss
        return teams.summed(loss * share)

    def configure_optimizers(self) -> torch.optim.Adam:
        optimizer = adam(self.model, self.schedule.learning_rate, by_part=self._by_part, fused=self._fused)
        state = self._start.training_state
        if state is not None:
            self._restore_moments(optimizer, state)
        return optimizer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # without a gradient neither weight nor moments move, nor does it count where gradients are clipped
        for parameter in self._frozen:
            parameter.grad = None

    # --- epochs

    def on_train_epoch_start(self) -> None:
        self._set_rates(self.trainer.optimizers[0])
        self._epoch_started = time.perf_counter()
        if self.batches_done == 0:
            self._loss_sum, self._groups = 0.0, 0
        else:
            self._groups = self.batches_done * self.config.batch_size

    def on_train_epoch_end(self) -> None:
        """Write the epoch into the history."""
        train_loss = float(self._loss_sum) / self._groups
        logged = self.trainer.callback_metrics.get("val_loss")
        val_loss = None if logged is None else float(logged)
        record = EpochRecord(
            epoch=self.epochs_done + 1,
            train_loss=train_loss,
            val_loss=val_loss,
            learning_rate=self.schedule.learning_rate,
            seconds=time.perf_counter() - self._epoch_started,
        )
        self.history.append(record)
        self.epochs_done, self.batches_done = record.epoch, 0
        self.schedule.finish_epoch(train_loss if val_loss is None else val_loss)
        self.log_dict({"train_loss": train_loss, "learning_rate": record.learning_rate}, prog_bar=False)
        if self._on_epoch is not None and self.trainer.is_global_zero:
            self._on_epoch(record)
        if self.schedule.should_stop:
            self.trainer.should_stop = True

    def _set_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """The epoch's learning rate of each group, and what does not move in it."""
        rates = self.schedule.rates
        self._frozen = []
        for group in optimizer.param_groups:
            group["lr"] = rates.get(group["part"], 0.0) if self._by_part else self.schedule.learning_rate
            if group["lr"] == 0.0:
                self._frozen += group["params"]
        if self._by_part:
            # steps are counted for all weights together, also for those that were frozen meanwhile
            self._count_steps(optimizer, self._optimizer_step(optimizer))

    def _count_steps(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Let every weight have taken `step` steps, from moments of zero if it has none."""
        if step == 0:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                where = parameter.device if self._fused else None
                state["step"] = torch.tensor(float(step), dtype=torch.float32, device=where)
                for key in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(key, torch.zeros_like(parameter))

    # --- state

    def trained_model(self, *, interrupted: bool = False) -> TrainedModel:
        """What was learned so far, in neutral form, with what resuming needs."""
        optimizer = self.trainer.optimizers[0]
        weights = {
            name: value.astype("complex64" if name == PROBE else "float32")
            for name, value in self.model.weights().items()
        }
        return TrainedModel(
            config=self.config,
            weights=weights,
            intensity_scale=self.intensity_scale,
            history=tuple(self.history),
            backend="torch",
            interrupted=interrupted,
            training_state=TrainingState(
                step=self._optimizer_step(optimizer),
                epoch=self.epochs_done,
                batches_done=self.batches_done,
                loss_sum=float(self._loss_sum) if self.batches_done else 0.0,
                first_moments=self._moments(optimizer, "exp_avg"),
                second_moments=self._moments(optimizer, "exp_avg_sq"),
                schedule=self.schedule.state(),
            ),
        )

    def _moments(self, optimizer: torch.optim.Optimizer, key: str) -> dict[str, NDArray]:
        named = {
            name: optimizer.state[parameter][key]
            for name, parameter in self.model.parameters_by_name.items()
            if key in optimizer.state.get(parameter, {})
        }
        return weights_from_tensors(named)

    def _optimizer_step(self, optimizer: torch.optim.Optimizer) -> int:
        steps = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
        return max(steps, default=self.steps_done)

    def _restore_moments(self, optimizer: torch.optim.Adam, state: TrainingState) -> None:
        dtype = next(self.model.parameters()).dtype
        first = tensors_from_weights(state.first_moments, dtype)
        second = tensors_from_weights(state.second_moments, dtype)
        for name, parameter in self.model.parameters_by_name.items():
            if parameter.requires_grad and name in first:
                optimizer.state[parameter] = {
                    "exp_avg": first[name].to(parameter.device),
                    "exp_avg_sq": second[name].to(parameter.device),
                }
        self._count_steps(optimizer, state.step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the file self-contained: all that is neither weight nor moment, as one JSON text."""
        names = {id(parameter): name for name, parameter in self.model.parameters_by_name.items()}
        groups = self.trainer.optimizers[0].param_groups
        checkpoint[CHECKPOINT_KEY] = json.dumps(
            {
                "config": config_to_plain(self.config),
                "intensity_scale": self.intensity_scale,
                "history": [vars(record) for record in self.history],
                # in the optimiser's order
                "trainable": [names[id(parameter)] for group in groups for parameter in group["params"]],
                "epoch": self.epochs_done,
                "batches_done": self.batches_done,
                "loss_sum": float(self._loss_sum) if self.batches_done else 0.0,
                "schedule": self.schedule.state(),
            }
        )


def __getattr__(name: str) -> Any:
    if name == "PtychoPINN_Lightning":
        # a module of its own, which needs this one
        from ptycho_torch.lightning_module import PtychoPINN_Lightning

        return PtychoPINN_Lightning
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
