"""`BackendBase`: all of a backend that needs no framework; a backend fills in the five methods that remain."""

import abc
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.archive import model_file as archive
from ptycho_backends.config import ExecutionConfig, ModelConfig, RefinementConfig, TrainingConfig, validate
from ptycho_backends.errors import ExportError
from ptycho_backends.export.formats import WITHOUT_FRAMEWORK
from ptycho_backends.export.metadata import LICENCE
from ptycho_backends.export.write import chosen_format, write_with_framework, write_without_framework
from ptycho_backends.files.output import output_directory
from ptycho_backends.images.reconstruct import (
    default_stitching_size,
    reconstruct,
    trust_in_patches,
    wants_phase_agreement,
)
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import refinement as reference
from ptycho_backends.refinement.checkpoint import load_state
from ptycho_backends.refinement.plan import RefinementPlan, RefinementState, plan_refinement, resumed_plan
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.refinement.start import Start, starting_image
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.scans.scan import Scan
from ptycho_backends.training import operands
from ptycho_backends.training.canvas import with_room_for, works_on_scans
from ptycho_backends.training.checkpoints import model_to_resume
from ptycho_backends.training.divergence import with_retries
from ptycho_backends.training.following import followed
from ptycho_backends.training.host import require_unforked
from ptycho_backends.training.interrupts import ending_in_order
from ptycho_backends.training.launch import is_first_process
from ptycho_backends.training.plan import TrainingPlan, complete_config, inference_groups, plan_training
from ptycho_backends.training.prediction import concatenated, prediction_batches
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH, ahead
from ptycho_backends.training.progress import passes_shown
from ptycho_backends.training.run_folder import one_writer
from ptycho_backends.values import (
    Batch,
    EpochCallback,
    PassCallback,
    Prediction,
    Reconstruction,
    TrainedModel,
    Weights,
)

AnyPath = str | os.PathLike[str]


def plan_for(
    backend: Backend,
    data: Scan | GroupedData | TrainingPlan,
    config: TrainingConfig | None,
    execution: ExecutionConfig | None = None,
    resume_from: AnyPath | TrainedModel | None = None,
) -> TrainingPlan:
    """The one plan of a training on `backend`; its `complete_config` refuses settings that it lacks.

    Parameters and errors as `plan_training`.
    """
    return plan_training(data, config, backend.name, execution, resume_from, complete=backend.complete_config)


class BackendBase(abc.ABC):
    """Everything that `protocol.Backend` promises, on top of a few methods of one framework.

    A subclass names itself and defines `train_plan`, `forward`, `loss`, `gradients` and `train_step`. Four
    more methods have defaults that work anywhere and that a framework can do better: `batches`,
    `object_patches`, `refine_plan` and `check_execution`; `predict_groups` and `infer_groups` are there for
    computing with several processes. No other method needs to be overridden. docs/backend.md has a complete example.

    Attributes
    ----------
    name : str
        Name in the registry, lower case.
    framework_formats : frozenset of str
        Formats that `export_model` writes, beside those that need no framework.
    """

    name: str
    framework_formats: frozenset[str] = frozenset()

    # --- defined by every backend

    @abc.abstractmethod
    def train_plan(
        self,
        plan: TrainingPlan,
        execution: ExecutionConfig,
        output_dir: AnyPath | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        """Train from `plan.start` until the schedule is over.

        Parameters
        ----------
        plan : TrainingPlan
        execution : ExecutionConfig
            Checked.
        output_dir : path, optional
            Gets checkpoints and logs. None writes nothing.
        on_epoch : callable, optional
            Called with each `EpochRecord`, in the first of several processes, after the checkpoints are written.
            Where it is a `training.following.Follower`, which `train` hands on, its `step` shows steps, too.

        Returns
        -------
        TrainedModel
            With `training_state`. Ctrl-C ends training after the current step and marks it `interrupted`.

        Raises
        ------
        DivergenceError
            At the first loss or gradient that is not finite; it carries the last good model.
        """

    @abc.abstractmethod
    def forward(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> Prediction:
        """Compute the three outputs for one batch."""

    @abc.abstractmethod
    def loss(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, float]:
        """Compute every term of the training loss, and their weighted sum as `total`."""

    @abc.abstractmethod
    def gradients(
        self,
        config: TrainingConfig,
        weights: Weights,
        batch: Batch,
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        """Compute the gradient of the total loss with respect to every weight."""

    @abc.abstractmethod
    def train_step(
        self,
        config: TrainingConfig,
        weights: Weights,
        batches: Sequence[Batch],
        *,
        execution: ExecutionConfig | None = None,
    ) -> dict[str, NDArray]:
        """Make one Adam step on each of `batches` in turn, from fresh moments; return the weights."""

    # --- with a default that a framework can do better

    def check_execution(self, execution: ExecutionConfig) -> None:  # noqa: B027 - many refuse nothing
        """Raise `ConfigError` for a valid setting that this framework, or this machine, does not have."""

    def survives_fork(self) -> bool:
        """True if a forked child can compute although its parent has done so; False where it would wait for threads."""
        return True

    def batches(self, plan: TrainingPlan, execution: ExecutionConfig) -> Any:
        """Training batches in the framework's own form, gathered from the scan when they are needed.

        Default: an iterator of `Batch` for each epoch, `batches(plan, execution)(epoch)`.
        """
        count = execution.prefetch_factor or DEFAULT_PREFETCH
        return lambda epoch: ahead((plan.gather(part, epoch) for part in plan.epoch_batches(epoch)), count)

    def object_patches(
        self, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
    ) -> Iterator[tuple[slice, NDArray[np.complex64]]]:
        """Predict the object of every group, batch by batch: numbers of the groups, (b, N, N, 1) patches."""
        for part, batch in prediction_batches(model, groups, execution, range(len(groups))):
            prediction = self.forward(model.config.model, model.weights, batch, execution=execution)
            yield part, prediction.object.astype(np.complex64, copy=False)

    def predict_groups(
        self, model: TrainedModel, groups: GroupedData, execution: ExecutionConfig
    ) -> Prediction:
        """Predict the three outputs for every group, in batches."""
        parts = [
            self.forward(model.config.model, model.weights, batch, execution=execution)
            for _, batch in prediction_batches(model, groups, execution, range(len(groups)))
        ]
        return concatenated(parts)

    def infer_groups(
        self,
        model: TrainedModel,
        groups: GroupedData,
        execution: ExecutionConfig,
        stitching_size: int,
        agree_on_phase: bool = False,
    ) -> Reconstruction:
        """Stitch the image from `object_patches`; `agree_on_phase` is passed only where it is True."""
        patches = self.object_patches(model, groups, execution)
        return reconstruct(
            patches,
            groups,
            model.config.model.N,
            stitching_size,
            self.name,
            agree_on_phase=agree_on_phase,
            patch_weights=trust_in_patches(model, stitching_size),
        )

    def refine_plan(
        self,
        plan: RefinementPlan,
        execution: ExecutionConfig,
        output_dir: AnyPath | None = None,
        on_pass: PassCallback | None = None,
    ) -> Reconstruction:
        """Make the passes of a refinement. Default: with NumPy in float64, which works anywhere and takes its time."""
        steps = reference.Refiner(plan.problem, plan.state.canvas, plan.state.probe)
        return Refinement(plan, steps, self.name).run(output_dir, on_pass)

    def export_model(self, model: TrainedModel, path: AnyPath, format: str, licence: str) -> Path:
        """Write `model` in one of `framework_formats`; overridden together with them."""
        raise NotImplementedError(format)

    # --- the protocol

    @property
    def export_formats(self) -> frozenset[str]:
        """Formats that this backend writes itself."""
        return WITHOUT_FRAMEWORK | self.framework_formats

    def checked(self, execution: ExecutionConfig | None) -> ExecutionConfig:
        """`execution`, or the default one, once it is found valid and possible here.

        Raises
        ------
        ConfigError
        BackendUnavailableError
            In a forked child that lacks the threads of its parent's framework.
        """
        require_unforked(self.name, self.survives_fork)
        execution = ExecutionConfig() if execution is None else execution
        validate(execution)
        self.check_execution(execution)
        return execution

    def checked_operands(
        self,
        config: ModelConfig | TrainingConfig,
        weights: Weights,
        batches: Sequence[Batch],
        execution: ExecutionConfig | None,
    ) -> tuple[dict[str, NDArray], list[Batch], ExecutionConfig]:
        """Arguments of `forward`, `loss`, `gradients` and `train_step`, once they are found sound.

        Raises
        ------
        ConfigError, ShapeError
        """
        execution = self.checked(execution)
        double = execution.precision == "64-true"
        return *operands.checked_operands(config, weights, batches, double=double), execution

    def complete_config(
        self,
        config: TrainingConfig,
        data: Scan | GroupedData,
        execution: ExecutionConfig | None = None,
    ) -> TrainingConfig:
        """Complete `config` for `data` and fill `params.cfg` from it; see `plan.complete_config`."""
        return complete_config(config, data, self.name, self.checked(execution))

    def prepare(
        self,
        data: Scan | GroupedData | TrainingPlan,
        config: TrainingConfig | None = None,
        *,
        execution: ExecutionConfig | None = None,
    ) -> Any:
        """Plan a training and return its `batches`."""
        execution = self.checked(execution)
        return self.batches(plan_for(self, data, config, execution), execution)

    def train(
        self,
        data: Scan | GroupedData | TrainingPlan,
        config: TrainingConfig | None = None,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: AnyPath | None = None,
        resume_from: AnyPath | TrainedModel | None = None,
        on_epoch: EpochCallback | None = None,
    ) -> TrainedModel:
        """Plan once, then `train_plan`; parameters as `protocol.Backend.train`."""
        execution = self.checked(execution)
        if resume_from is not None and not isinstance(resume_from, TrainedModel):
            resume_from = model_to_resume(Path(resume_from), self.load)
        plan = plan_for(self, data, config, execution, resume_from)
        operands.checked_weights(plan.config.model, plan.start.weights)

        is_first = is_first_process(execution, self.name)

        def trained(plan: TrainingPlan, execution: ExecutionConfig) -> TrainedModel:
            with followed(
                plan, execution, folder, on_epoch, self.object_patches, is_first=is_first
            ) as follower:
                follower.model = self.train_plan(plan, execution, output_dir, follower)
                return follower.model

        folder = self._written_folder(execution, output_dir)
        with one_writer(folder):
            return ending_in_order(lambda: with_retries(trained, plan, execution))

    def _written_folder(self, execution: ExecutionConfig, output_dir: AnyPath | None) -> Path | None:
        writes = output_dir is not None and is_first_process(execution, self.name)
        return output_directory(output_dir) if writes and output_dir is not None else None

    def predict(
        self, model: TrainedModel, data: GroupedData, *, execution: ExecutionConfig | None = None
    ) -> Prediction:
        """Predict the three outputs for every group of `data`."""
        operands.checked_weights(model.config.model, model.weights)
        groups = inference_groups(model, data)
        return self.predict_groups(with_room_for(model, groups), groups, self.checked(execution))

    def infer(
        self,
        model: TrainedModel,
        data: Scan | GroupedData,
        *,
        execution: ExecutionConfig | None = None,
        stitching_size: int | None = None,
        agree_on_phase: bool | None = None,
    ) -> Reconstruction:
        """Reconstruct the image of a scan; see `protocol.Backend.infer`."""
        operands.checked_weights(model.config.model, model.weights)
        if (
            isinstance(data, Scan)
            and works_on_scans(model)
            and stitching_size is None
            and agree_on_phase is None
        ):
            return self.refine(None, data, execution=execution, model=model)
        groups, network = inference_groups(model, data), model.config.model
        size = default_stitching_size(network) if stitching_size is None else stitching_size
        agree = wants_phase_agreement(network) if agree_on_phase is None else agree_on_phase
        # a backend may be older than the argument
        added = {"agree_on_phase": True} if agree else {}
        model = with_room_for(model, groups)
        return self.infer_groups(model, groups, self.checked(execution), size, **added)

    def refine(
        self,
        start: Start | None,
        scan: Scan,
        config: RefinementConfig | None = None,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: AnyPath | None = None,
        resume_from: AnyPath | RefinementState | None = None,
        on_pass: PassCallback | None = None,
        model: TrainedModel | None = None,
    ) -> Reconstruction:
        """Plan once, then `refine_plan`; parameters as `protocol.Backend.refine`."""
        execution = self.checked(execution)
        plan = plan_refinement(starting_image(start), scan, config, model)
        if resume_from is not None:
            state = resume_from if isinstance(resume_from, RefinementState) else load_state(resume_from)
            plan = resumed_plan(plan, state)
        shown = execution.enable_progress_bar and is_first_process(execution, self.name)
        passes = len(plan.batches), len(plan.state.passes), plan.problem.count
        with (
            one_writer(self._written_folder(execution, output_dir)),
            passes_shown(*passes, on_pass, shown=shown) as told,
        ):
            return ending_in_order(lambda: self.refine_plan(plan, execution, output_dir, told))

    def save(self, model: TrainedModel, path: AnyPath) -> Path:
        """Write the shared archive, without the optimiser's state; that is in the checkpoints."""
        return archive.save_archive(dataclasses.replace(model, training_state=None), path)

    def load(self, path: AnyPath) -> TrainedModel:
        """Read an archive or a checkpoint, of any backend."""
        return archive.load_archive(path)

    def export(
        self,
        source: TrainedModel | Reconstruction | Scan,
        path: AnyPath,
        format: str | None = None,
        *,
        scan: Scan | None = None,
        licence: str = LICENCE,
        origin: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a model, an image or a scan for another program; see `protocol.Backend.export`."""
        if format is not None and format in self.framework_formats:
            if not isinstance(source, TrainedModel):
                raise ExportError(
                    f"format: {format!r} is written from a model, got a {type(source).__name__}"
                )
            return self.export_model(source, path, format, licence)
        chosen = chosen_format(source, path, format)
        if chosen.name in self.framework_formats:
            return self.export(source, path, chosen.name, licence=licence)
        if chosen.writer is None:
            return write_without_framework(
                source, path, chosen.name, scan=scan, licence=licence, origin=origin
            )
        assert isinstance(source, TrainedModel)
        return write_with_framework(source, path, chosen.name, licence)
