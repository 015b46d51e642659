"""The LightningModule that trains a `PtychoModel`."""

import json
import time
from typing import Any

import lightning
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_backends.archive.lightning_checkpoint import CHECKPOINT_KEY
from ptycho_backends.config import ExecutionConfig, config_to_plain
from ptycho_backends.reference.initial_weights import PROBE
from ptycho_backends.training.schedule import schedule_of
from ptycho_backends.values import EpochCallback, EpochRecord, TrainedModel, TrainingState
from ptycho_torch.backend import network, process_group
from ptycho_torch.backend.arrays import TensorBatch, counts, tensors_from_weights, weights_from_tensors
from ptycho_torch.backend.model import PtychoModel, adam


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
        self.model.update_running_statistics(statistics)
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
        return process_group.summed(loss * share)

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
        """Make the file self-contained: all that is neither weight nor moment, as one JSON text."""
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
