"""A good backend with one fault planted into one of its verbs: what the kit and the parity command must notice.

`Planted(backend, faults.FAULTS["..."])` computes as `backend` does, but for the fault. A third party may try its own
tests on it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptycho_backends.config import ExecutionConfig, TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.training.plan import TrainingPlan, inference_groups, plan_training
from ptycho_backends.training.prediction import DEFAULT_BATCH
from ptycho_backends.values import Prediction, Reconstruction, TrainedModel

SINGLE_PRECISION = "32-true"

NORMALISED_BY_TRAINING = "infer: normalised by the training scan"
"""Name of the fault that needs to know an earlier call."""


@dataclass(frozen=True)
class Fault:
    """One mistake in a verb.

    Attributes
    ----------
    name, verb : str
    plan, execution : callable, optional
        Change the plan of a training; the `ExecutionConfig` of the verb.
    after : callable, optional
        Changes the result, from the verb's `Call` and the result.
    instead : callable, optional
        Takes the place of the verb: from the good backend's method and its arguments.
    """

    name: str
    verb: str
    plan: Callable[[TrainingPlan], TrainingPlan] | None = None
    execution: Callable[[ExecutionConfig], ExecutionConfig] | None = None
    after: Callable[["Call", Any], Any] | None = None
    instead: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Call:
    """What a verb was called with.

    Attributes
    ----------
    execution : ExecutionConfig
    plan : TrainingPlan, optional
        Of a training, without the fault.
    resumed : TrainedModel, optional
        Given by the caller.
    arguments : tuple
        Of other verbs.
    size : int, optional
        `stitching_size`.
    """

    execution: ExecutionConfig
    plan: TrainingPlan | None = None
    resumed: TrainedModel | None = None
    arguments: tuple[Any, ...] = ()
    size: int | None = None

    @property
    def is_single(self) -> bool:
        return self.execution.precision == SINGLE_PRECISION

    @property
    def batch(self) -> int:
        """Groups of a batch of inference."""
        return self.execution.inference_batch_size or DEFAULT_BATCH


class Planted:
    """`backend` with `fault`; everything else is the backend's own."""

    def __init__(self, backend: Backend, fault: Fault) -> None:
        self._good, self._fault = backend, fault
        self._trained_on: GroupedData | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._good, name)

    def _execution(self, execution: ExecutionConfig | None) -> ExecutionConfig:
        execution = ExecutionConfig() if execution is None else execution
        return execution if self._fault.execution is None else self._fault.execution(execution)

    def train(
        self,
        data: Any,
        config: TrainingConfig,
        *,
        execution: ExecutionConfig | None = None,
        output_dir: Any = None,
        resume_from: Any = None,
        on_epoch: Any = None,
    ) -> TrainedModel:
        """As `Backend.train`."""
        execution = ExecutionConfig() if execution is None else execution
        plan = plan_training(data, config, self._good.name, execution, resume_from)
        self._trained_on = plan.groups
        fault, changed, run = self._fault, plan, execution
        resumes = resume_from is not None
        if fault.verb == "train" or (fault.verb == "resume" and resumes):
            run = self._execution(execution)
            changed = plan if fault.plan is None else fault.plan(plan)
        model = self._good.train(
            changed, changed.config, execution=run, output_dir=output_dir, on_epoch=on_epoch
        )
        if changed is not plan:
            model = dataclasses.replace(model, config=plan.config)
        if fault.after is not None and (fault.verb == "train" or (fault.verb == "resume" and resumes)):
            model = fault.after(Call(execution, plan, resume_from), model)
        return model

    def predict(self, model: Any, data: Any, *, execution: ExecutionConfig | None = None) -> Prediction:
        """As `Backend.predict`."""
        return self._called("predict", (model, data), execution)

    def infer(
        self,
        model: TrainedModel,
        data: Any,
        *,
        execution: ExecutionConfig | None = None,
        stitching_size: int | None = None,
        agree_on_phase: bool | None = None,
    ) -> Reconstruction:
        """As `Backend.infer`."""
        groups = inference_groups(model, data)
        if self._fault.name == NORMALISED_BY_TRAINING and self._trained_on is not None:
            groups = dataclasses.replace(groups)
            groups.__dict__["normalisation"] = self._trained_on.normalisation
            groups.__dict__["group_normalisation"] = np.full(len(groups), self._trained_on.normalisation)
            data = groups
        options = {"stitching_size": stitching_size, "agree_on_phase": agree_on_phase}
        return self._called("infer", (model, data), execution, **options)

    def refine(self, *arguments: Any, execution: ExecutionConfig | None = None, **options: Any) -> Any:
        """As `Backend.refine`."""
        return self._called("refine", arguments, execution, **options)

    def forward(self, *arguments: Any, execution: ExecutionConfig | None = None) -> Any:
        """As `Backend.forward`."""
        return self._called("forward", arguments, execution)

    def loss(self, *arguments: Any, execution: ExecutionConfig | None = None) -> Any:
        """As `Backend.loss`."""
        return self._called("loss", arguments, execution)

    def train_step(self, *arguments: Any, execution: ExecutionConfig | None = None) -> Any:
        """As `Backend.train_step`."""
        return self._called("train_step", arguments, execution)

    def _called(
        self, verb: str, arguments: tuple[Any, ...], execution: ExecutionConfig | None, **options: Any
    ) -> Any:
        execution, good = ExecutionConfig() if execution is None else execution, getattr(self._good, verb)
        if self._fault.verb != verb:
            return good(*arguments, execution=execution, **options)
        run = self._execution(execution)
        if self._fault.instead is not None:
            return self._fault.instead(good, *arguments, execution=run, **options)
        result = good(*arguments, execution=run, **options)
        if self._fault.after is None:
            return result
        call = Call(execution, arguments=arguments, size=options.get("stitching_size"))
        return self._fault.after(call, result)
