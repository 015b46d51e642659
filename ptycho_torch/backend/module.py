"""The LightningModule that trains a `PtychoModel`."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.archive.lightning_checkpoint import CHECKPOINT_KEY
from ptycho_backends.config import ExecutionConfig, config_to_plain
from ptycho_backends.training.divergence import StepWatch, seconds_between_looks
from ptycho_backends.training.epochs import EpochCounter
from ptycho_backends.training.interrupts import CallbackInterrupted
from ptycho_backends.values import EpochCallback, TrainedModel, TrainingState
from ptycho_torch.backend import network, process_group
from ptycho_torch.backend.arrays import TensorBatch, shard_sizes, tensors_from_weights, weights_from_tensors
from ptycho_torch.backend.model import PtychoModel, adam


class PtychoModule(lightning.LightningModule, EpochCounter):
    """Trains a `PtychoModel` from `start` on, as its configuration asks for.

    Logs `loss_epoch`, the mean over the epoch's steps, and `val_loss`, in time for every callback.

    Attributes
    ----------
    on_epoch : callable, optional
        Called with each `EpochRecord`, in the first process.
    step_loss : tensor, optional
        Of the last step, on the device.
    after_epoch : callable, optional
        Called with the model after each epoch, before `on_epoch`.
    """

    def __init__(
        self, start: TrainedModel, execution: ExecutionConfig, on_epoch: EpochCallback | None = None
    ) -> None:
        super().__init__()
        self.start_from(start, execution)
        self.model = PtychoModel(start.config.model, start.weights, compiled=execution.compile_network)
        self.model.freeze(start.config)
        self.steps_done = 0
        self.step_loss: Tensor | None = None
        self.after_epoch: Callable[[TrainedModel], None] | None = None
        self._start = start
        self.on_epoch = on_epoch
        self.request_stop: Callable[[], None] = lambda: None
        self._by_part = bool(execution.finetune_stages)
        self._accum_steps = execution.accum_steps
        # where losses are scaled, Lightning cannot clip gradients that the optimiser itself scales back
        self._fused = execution.gradient_clip_val is None or not execution.precision.endswith("-mixed")
        self._frozen: list[torch.nn.Parameter] = []
        self._loss_sum: Tensor | float = 0.0
        # a scaler of losses meets infinite gradients on purpose
        self._watches_gradients = execution.precision != "16-mixed"
        if start.training_state is not None:
            self.steps_done = start.training_state.step
            self._loss_sum = start.training_state.loss_sum

    # --- steps

    def on_train_batch_start(self, batch: TensorBatch, batch_idx: int) -> None:
        if self.schedule.changes_within_epoch and batch_idx % self._accum_steps == 0:
            rates = self.rates
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = rates[group["part"]] if self._by_part else max(rates.values())

    def training_step(self, batch: TensorBatch, batch_idx: int) -> Tensor:
        own, groups = shard_sizes(batch)
        processes = self.trainer.world_size
        statistics: network.Statistics = network.SharedStatistics(own / groups) if processes > 1 else {}
        total = self.model.loss_terms(self.config, batch, self.intensity_scale, statistics)["total"]
        self.model.update_running_statistics(statistics)
        loss = self._mean_over_processes(total.detach().double(), own / groups)
        # summed on the device, so that no step waits for it
        self._loss_sum = self._loss_sum + loss * groups
        # a batch for each process
        self.count_batches(processes, groups)
        self.step_loss = loss
        self.note("the loss", loss)
        if self.trainer.is_last_batch:
            # not of each step: on a GPU that would take a tenth of the step
            mean = self._loss_sum / self._groups
            self.log(
                "loss_epoch", mean, on_step=False, on_epoch=True, prog_bar=True, logger=False, batch_size=1
            )
        # gradients are averaged over the processes, whose numbers of groups may differ
        return total if processes == 1 else total * (processes * own / groups)

    def validation_step(self, batch: TensorBatch, batch_idx: int) -> None:
        own, groups = shard_sizes(batch)
        total = self.model.loss_terms(self.config, batch, self.intensity_scale)["total"]
        loss = self._mean_over_processes(total.double(), own / groups)
        self.log("val_loss", loss, on_epoch=True, prog_bar=True, batch_size=groups)

    def _mean_over_processes(self, loss: Tensor, fraction: float) -> Tensor:
        """Mean loss over the groups of all processes; `fraction` of them are in this one."""
        if self.trainer.world_size == 1:
            return loss
        return process_group.summed(loss * fraction)

    def configure_optimizers(self) -> torch.optim.Adam:
        optimizer = adam(self.model, self.schedule.learning_rate, by_part=self._by_part, fused=self._fused)
        state = self._start.training_state
        if state is not None:
            self._restore_moments(optimizer, state)
        return optimizer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._watches_gradients:
            gradients = [value.grad for value in self.model.parameters() if value.grad is not None]
            self.note("the norm of the gradient", torch.nn.utils.get_total_norm(gradients))
        # without a gradient neither weight nor moments move, and clipping ignores it
        for parameter in self._frozen:
            parameter.grad = None

    # --- epochs

    def on_fit_start(self) -> None:
        alone = seconds_between_looks(self.trainer.world_size, self.device.type == "cpu")
        self.watch_with(StepWatch(_values, alone))

    def on_train_epoch_start(self) -> None:
        self._set_rates(self.trainer.optimizers[0])
        if self.begin_epoch():
            self._loss_sum = 0.0

    def on_train_epoch_end(self) -> None:
        """Write the epoch into the history."""
        logged = self.trainer.callback_metrics.get("val_loss")
        record = self.end_epoch(float(self._loss_sum), None if logged is None else float(logged))
        self.log_dict(
            {"train_loss": record.train_loss, "learning_rate": record.learning_rate}, prog_bar=False
        )
        # of the whole history, for the names of checkpoints; the trainer counts from the resume on
        self.log("epoch", float(record.epoch), prog_bar=False, logger=False)
        model = self.keep(self.trained_model())
        if self.after_epoch is not None:
            self.after_epoch(model)
        if self.on_epoch is not None and self.trainer.is_global_zero:
            try:
                if self.on_epoch(record) is True:
                    self.request_stop()
            except KeyboardInterrupt as error:
                # Lightning would end the program
                raise CallbackInterrupted(error) from error
        if self.schedule.should_stop:
            self.trainer.should_stop = True

    def _set_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the epoch's learning rate of each group, and collect the weights that are frozen in it."""
        rates = self.schedule.rates
        self._frozen = []
        for group in optimizer.param_groups:
            group["lr"] = rates.get(group["part"], 0.0) if self._by_part else self.schedule.learning_rate
            if group["lr"] == 0.0:
                self._frozen += group["params"]
        if self._by_part:
            # steps are counted for all weights together, including weights frozen during this stage
            self._count_steps(optimizer, self._optimizer_step(optimizer))

    def _count_steps(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set the optimiser's count of every weight to `step`; a weight without moments gets zeros."""
        if step == 0:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                where = parameter.device if self._fused else torch.device("cpu")
                state["step"] = torch.tensor(float(step), dtype=torch.float32, device=where)
                for key in ("exp_avg", "exp_avg_sq"):
                    state.setdefault(key, torch.zeros_like(parameter))

    # --- state

    def trained_model(self, *, interrupted: bool = False) -> TrainedModel:
        """The model as it is now, in neutral form, with its resume state."""
        optimizer = self.trainer.optimizers[0]
        return self.neutral_state(
            backend="torch",
            weights=self.model.weights(),
            step=self._optimizer_step(optimizer),
            loss_sum=float(self._loss_sum),
            moments=(self._moments(optimizer, "exp_avg"), self._moments(optimizer, "exp_avg_sq")),
            interrupted=interrupted,
        )

    def _moments(self, optimizer: torch.optim.Optimizer, key: str) -> dict[str, NDArray]:
        named = {
            name: optimizer.state[parameter][key]
            for name, parameter in self.model.tensors.items()
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
        for name, parameter in self.model.tensors.items():
            if parameter.requires_grad and name in first:
                optimizer.state[parameter] = {
                    "exp_avg": first[name].to(parameter.device),
                    "exp_avg_sq": second[name].to(parameter.device),
                }
        self._count_steps(optimizer, state.step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the file self-contained: everything but weights and moments as one JSON text."""
        names = {id(parameter): name for name, parameter in self.model.tensors.items()}
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


def _values(scalars: Sequence[Tensor]) -> list[float]:
    """The values of scalars of one device, which are fetched together."""
    return torch.stack([scalar.double() for scalar in scalars]).tolist()
