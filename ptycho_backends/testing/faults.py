"""Single faults in a backend's verbs, to be planted around a good one (`planted.Planted`)."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig, FinetuneStage
from ptycho_backends.images.reconstruct import default_stitching_size, trust_in_patches
from ptycho_backends.reference import inference
from ptycho_backends.reference.initial_weights import LOG_SCALE, is_running_value
from ptycho_backends.testing.planted import NORMALISED_BY_TRAINING, SINGLE_PRECISION, Call, Fault
from ptycho_backends.training.plan import TrainingPlan, plan_training
from ptycho_backends.training.schedule import TrainingSchedule
from ptycho_backends.values import Batch, Prediction, Reconstruction, TrainedModel, TrainingState, Weights

# --- faults of training


def _run(**changes: Any) -> Callable[[ExecutionConfig], ExecutionConfig]:
    return lambda execution: dataclasses.replace(execution, **changes)


def _planned(**changes: Any) -> Callable[[TrainingPlan], TrainingPlan]:
    """Other fields of the configuration, in plan and start."""

    def change(plan: TrainingPlan) -> TrainingPlan:
        config = dataclasses.replace(plan.config, **changes)
        groups = plan.groups.as_configured(config)
        start = dataclasses.replace(plan.start, config=config)
        return dataclasses.replace(plan, config=config, start=start, groups=groups)

    return change


def _without_mae(plan: TrainingPlan) -> TrainingPlan:
    return _planned(mae_weight=0.0)(plan) if plan.config.nll_weight else plan


def _without_tv(plan: TrainingPlan) -> TrainingPlan:
    return _planned(tv_weight=0.0)(plan)


def _without_auxiliary(plan: TrainingPlan) -> TrainingPlan:
    return _planned(amp_loss=None, phase_loss=None)(plan) if plan.config.mae_weight else plan


def _batches(change: Callable[[TrainingPlan, int], list[NDArray]]) -> Callable[[TrainingPlan], TrainingPlan]:
    class Changed(TrainingPlan):
        def epoch_batches(self, epoch: int) -> list[NDArray[np.integer]]:
            return change(super(), epoch)  # type: ignore[arg-type]

    return lambda plan: _as(Changed, plan)


def _gathered(
    change: Callable[[TrainingPlan, Batch, Any, int], Batch],
) -> Callable[[TrainingPlan], TrainingPlan]:
    class Changed(TrainingPlan):
        def gather(self, indices: NDArray[np.integer], epoch: int = 0) -> Batch:
            return change(self, super().gather(indices, epoch), indices, epoch)

    return lambda plan: _as(Changed, plan)


def _as(cls: type[TrainingPlan], plan: TrainingPlan) -> TrainingPlan:
    return cls(*(getattr(plan, field.name) for field in dataclasses.fields(plan) if field.init))


def _whole_batches(plan: Any, epoch: int) -> list[NDArray]:
    batches = plan.epoch_batches(epoch)
    return [batch for batch in batches if len(batch) == len(batches[0])]


def _darker_later(plan: TrainingPlan, batch: Batch, indices: NDArray, epoch: int) -> Batch:
    if epoch and not np.array_equal(indices, plan.epoch_batches(epoch)[0]):
        return dataclasses.replace(
            batch, diffraction_amplitude=batch.diffraction_amplitude * np.float32(0.97)
        )
    return batch


def _conjugated(plan: TrainingPlan, batch: Batch, indices: NDArray, epoch: int) -> Batch:
    truth = batch.object_patches
    return batch if truth is None else dataclasses.replace(batch, object_patches=np.conj(truth))


def _groups(change: Callable[[NDArray], NDArray]) -> Callable[[TrainingPlan], TrainingPlan]:
    def changed(plan: TrainingPlan) -> TrainingPlan:
        members = np.ascontiguousarray(change(plan.groups.nn_indices))
        return dataclasses.replace(plan, groups=dataclasses.replace(plan.groups, nn_indices=members))

    return changed


def _judged_on_training(plan: TrainingPlan) -> TrainingPlan:
    count = len(plan.validation_indices)
    return dataclasses.replace(plan, validation_indices=plan.train_indices[:count])


def _trained_on_all(plan: TrainingPlan) -> TrainingPlan:
    return dataclasses.replace(plan, train_indices=np.arange(len(plan.groups)))


def _one_epoch_fewer(plan: TrainingPlan) -> TrainingPlan:
    return _planned(nepochs=max(1, plan.config.nepochs - 1))(plan)


def _one_rate(execution: ExecutionConfig) -> ExecutionConfig:
    stages = tuple(
        FinetuneStage(stage.epochs, dict.fromkeys(stage.rates, 1.0)) for stage in execution.finetune_stages
    )
    return dataclasses.replace(execution, finetune_stages=stages)


def _first_weights_in_single(call: Call, model: TrainedModel) -> TrainedModel:
    assert call.plan is not None
    return dataclasses.replace(model, weights=call.plan.start.weights) if call.is_single else model


def _running_values_stand_still(call: Call, model: TrainedModel) -> TrainedModel:
    assert call.plan is not None
    first = call.plan.start.weights
    weights = {
        name: first[name] if is_running_value(name) else value for name, value in model.weights.items()
    }
    return dataclasses.replace(model, weights=weights)


def _scale_of(model: TrainedModel) -> float:
    return float(np.exp(model.weights[LOG_SCALE]))


def _state(**changes: Any) -> Callable[[Call, TrainedModel], TrainedModel]:
    def after(call: Call, model: TrainedModel) -> TrainedModel:
        assert model.training_state is not None
        return dataclasses.replace(model, training_state=dataclasses.replace(model.training_state, **changes))

    return after


def _rates_of_the_next_epoch(call: Call, model: TrainedModel) -> TrainedModel:
    rates = [row.learning_rate for row in model.history[1:]] + [0.0]
    rows = [
        dataclasses.replace(row, learning_rate=rate) for row, rate in zip(model.history, rates, strict=True)
    ]
    return dataclasses.replace(model, history=tuple(rows))


def _larger_losses(call: Call, model: TrainedModel) -> TrainedModel:
    rows = [dataclasses.replace(row, train_loss=row.train_loss * 1.001) for row in model.history]
    return dataclasses.replace(model, history=tuple(rows))


def _without_validation(call: Call, model: TrainedModel) -> TrainedModel:
    return dataclasses.replace(
        model, history=tuple(dataclasses.replace(row, val_loss=None) for row in model.history)
    )


def _resumed(
    change: Callable[[TrainingState, TrainingPlan], TrainingState],
) -> Callable[[TrainingPlan], TrainingPlan]:
    """The resume state of the start, changed."""

    def changed(plan: TrainingPlan) -> TrainingPlan:
        if plan.start.training_state is None:
            return plan
        start = dataclasses.replace(plan.start, training_state=change(plan.start.training_state, plan))
        return dataclasses.replace(plan, start=start)

    return changed


def _zeros(moments: Weights) -> dict[str, NDArray]:
    return {name: np.zeros_like(value) for name, value in moments.items()}


def _from_first_weights(plan: TrainingPlan) -> TrainingPlan:
    first = plan_training(plan.groups, dataclasses.replace(plan.config), plan.config.backend).start
    return dataclasses.replace(plan, start=dataclasses.replace(plan.start, weights=first.weights))


def _scale_from_weights(plan: TrainingPlan) -> TrainingPlan:
    start = dataclasses.replace(plan.start, intensity_scale=_scale_of(plan.start))
    return dataclasses.replace(plan, start=start)


def _changes_what_it_was_given(call: Call, model: TrainedModel) -> TrainedModel:
    assert call.resumed is not None
    for name, value in call.resumed.weights.items():
        if value.flags.writeable:
            value[...] = model.weights[name]
    return model


def _forgotten_history(call: Call, model: TrainedModel) -> TrainedModel:
    assert call.resumed is not None
    return dataclasses.replace(model, history=model.history[len(call.resumed.history) :])


# --- faults of inference


def _restitched(
    change: Callable[[Call, NDArray, NDArray], tuple[NDArray, NDArray]],
) -> Callable[[Call, Reconstruction], Reconstruction]:
    """The image of other patches, or of patches elsewhere."""

    def after(call: Call, image: Reconstruction) -> Reconstruction:
        model, groups = call.arguments
        assert image.object_patches is not None
        size = default_stitching_size(model.config.model) if call.size is None else call.size
        centres = groups.group_centres_px
        patches, places = change(call, image.object_patches, centres)
        whole = _canvas(model, image.object_patches, centres, size)
        part = _canvas(model, patches, places, size)
        if part.shape != whole.shape:
            return dataclasses.replace(image, object=part)
        # what the fault changes, so that agreement of phases stays as it was
        return dataclasses.replace(image, object=image.object + part - whole)

    return after


def _canvas(model: TrainedModel, patches: NDArray, centres: NDArray, size: int) -> NDArray:
    return inference.infer(patches, centres, size, patch_weights=trust_in_patches(model, size))[0]


def _whole_batches_only(call: Call, patches: NDArray, centres: NDArray) -> tuple[NDArray, NDArray]:
    rest = len(patches) % call.batch
    if rest:
        patches = patches.copy()
        patches[-rest:] = 0
    return patches, centres


def _shifted_later(call: Call, patches: NDArray, centres: NDArray) -> tuple[NDArray, NDArray]:
    patches = patches.copy()
    patches[call.batch :] = np.roll(patches[call.batch :], 1, axis=2)
    return patches, centres


def _one_canvas_a_batch(call: Call, image: Reconstruction) -> Reconstruction:
    """Of 64 patches and more: every batch is an image of its own, and the mean of these is returned."""
    model, groups = call.arguments
    assert image.object_patches is not None
    if call.batch < 64 or len(groups) <= call.batch:
        return image
    size = default_stitching_size(model.config.model) if call.size is None else call.size
    parts = []
    for start in range(0, len(groups), call.batch):
        patches = np.zeros_like(image.object_patches)
        patches[start : start + call.batch] = image.object_patches[start : start + call.batch]
        parts.append(_canvas(model, patches, groups.group_centres_px, size))
    return dataclasses.replace(image, object=np.mean(parts, axis=0).astype(np.complex64))


def _in_single(change: Callable[[Any], Any]) -> Callable[[Call, Any], Any]:
    return lambda call, result: change(result) if call.is_single else result


def _later_groups(change: Callable[[NDArray], NDArray]) -> Callable[[Call, Prediction], Prediction]:
    def after(call: Call, prediction: Prediction) -> Prediction:
        image = prediction.object.copy()
        image[call.batch :] = change(image[call.batch :])
        return dataclasses.replace(prediction, object=image)

    return after


def _dimmer(prediction: Prediction) -> Prediction:
    return dataclasses.replace(prediction, amplitude=prediction.amplitude * np.float32(0.999))


def _ignoring(name: str) -> Callable[..., Any]:
    def instead(good: Any, *arguments: Any, **options: Any) -> Any:
        return good(*arguments, **{**options, name: None})

    return instead


def _one_pass(good: Any, start: Any, scan: Any, config: Any, **options: Any) -> Any:
    return good(start, scan, dataclasses.replace(config, passes=1), **options)


def _first_batch_only(good: Any, config: Any, weights: Any, batches: Any, **options: Any) -> Any:
    return good(config, weights, batches[:1], **options)


def _start_in_single(good: Any, config: Any, weights: Any, batches: Any, **options: Any) -> Any:
    if options["execution"].precision == SINGLE_PRECISION:
        return {name: np.array(value) for name, value in weights.items()}
    return good(config, weights, batches, **options)


def _off(call: Call, image: Reconstruction) -> Reconstruction:
    return dataclasses.replace(image, origin_px=image.origin_px + 0.5)


def _swapped_centres(call: Call, image: Reconstruction) -> Reconstruction:
    return dataclasses.replace(image, group_centres_px=image.group_centres_px[:, ::-1].copy())


_ALL = (
    Fault("train: learning rate ignored", "train", execution=_run(learning_rate=1e-3)),
    Fault("train: schedule ignored", "train", execution=_run(scheduler="Default")),
    Fault("train: warm-up ignored", "train", execution=_run(warmup_epochs=0)),
    Fault("train: smallest rate ignored", "train", execution=_run(min_lr_ratio=0.0)),
    Fault("train: clipping ignored", "train", execution=_run(gradient_clip_val=None)),
    Fault("train: accumulation ignored", "train", execution=_run(accum_steps=1)),
    Fault("train: early stop ignored", "train", execution=_run(early_stop_patience=10_000)),
    Fault("train: computed in float32", "train", execution=_run(precision=SINGLE_PRECISION)),
    Fault("resume: stages ignored", "resume", execution=_run(finetune_stages=())),
    Fault("resume: one rate for all parts in a stage", "resume", execution=_one_rate),
    Fault("train: MAE weight ignored", "train", plan=_without_mae),
    Fault("train: TV weight ignored", "train", plan=_without_tv),
    Fault("train: real-space error ignored", "train", plan=_planned(realspace_mae_weight=0.0)),
    Fault("train: auxiliary losses ignored", "train", plan=_without_auxiliary),
    Fault("train: scale trained though told not to", "train", plan=_planned(intensity_scale_trainable=True)),
    Fault("train: scale never trained", "train", plan=_planned(intensity_scale_trainable=False)),
    Fault("train: probe trained though told not to", "train", plan=_planned(probe_trainable=True)),
    Fault("train: probe never trained", "train", plan=_planned(probe_trainable=False)),
    Fault("train: batch size ignored", "train", plan=_planned(batch_size=16)),
    Fault("train: one epoch fewer", "train", plan=_one_epoch_fewer),
    Fault("train: scaling of the patterns ignored", "train", plan=_planned(data_scaling="Parseval")),
    Fault("train: one brightness for two scans", "train", plan=_planned(normalize="Batch")),
    Fault("train: phases of the labels not subtracted", "train", plan=_planned(phase_subtraction=False)),
    Fault("train: last, smaller batch dropped", "train", plan=_batches(_whole_batches)),
    Fault("train: the same order in every epoch", "train", plan=_batches(lambda plan, _: plan.epoch_batches(1))),
    Fault("train: batches in reverse", "train", plan=_batches(lambda plan, e: plan.epoch_batches(e)[::-1])),
    Fault("train: wrong for later batches", "train", plan=_gathered(_darker_later)),
    Fault("train: supervised by the conjugate", "train", plan=_gathered(_conjugated)),
    Fault("train: channels exchanged", "train", plan=_groups(lambda members: members[:, ::-1])),
    Fault("train: groups exchanged", "train", plan=_groups(lambda members: members[::-1])),
    Fault("train: validation judged on training groups", "train", plan=_judged_on_training),
    Fault("train: validation groups trained on", "train", plan=_trained_on_all),
    Fault("train: groups never drawn again", "train", plan=lambda plan: dataclasses.replace(plan, resample=None)),
    Fault("train: first weights returned in float32", "train", after=_first_weights_in_single),
    Fault("train: running statistics stand still", "train", after=_running_values_stand_still),
    Fault("train: scale from the trained log_scale", "train",
          after=lambda call, model: dataclasses.replace(model, intensity_scale=_scale_of(model))),
    Fault("train: rate of the next epoch in the history", "train", after=_rates_of_the_next_epoch),
    Fault("train: training loss a thousandth too large", "train", after=_larger_losses),
    Fault("train: no validation loss", "train", after=_without_validation),
    Fault("train: no resume state", "train",
          after=lambda call, model: dataclasses.replace(model, training_state=None)),
    Fault("train: steps not counted", "train", after=_state(step=0)),
    Fault("train: moments lost", "train", after=_state(first_moments={}, second_moments={})),
    Fault("resume: moments forgotten", "resume", plan=_resumed(lambda state, _: dataclasses.replace(
        state, first_moments=_zeros(state.first_moments), second_moments=_zeros(state.second_moments)))),
    Fault("resume: second moments forgotten", "resume", plan=_resumed(lambda state, _: dataclasses.replace(
        state, second_moments=_zeros(state.second_moments)))),
    Fault("resume: moments exchanged", "resume", plan=_resumed(lambda state, _: dataclasses.replace(
        state, first_moments=state.second_moments, second_moments=state.first_moments))),
    Fault("resume: steps counted anew", "resume",
          plan=_resumed(lambda state, _: dataclasses.replace(state, step=0))),
    Fault("resume: schedule begun anew", "resume", plan=_resumed(lambda state, plan: dataclasses.replace(
        state, schedule=TrainingSchedule(ExecutionConfig(), plan.config.nepochs).state()))),
    Fault("resume: epoch that had begun is begun anew", "resume",
          plan=_resumed(lambda state, _: dataclasses.replace(state, batches_done=0, loss_sum=0.0))),
    Fault("resume: losses before the stop forgotten", "resume",
          plan=_resumed(lambda state, _: dataclasses.replace(state, loss_sum=0.0))),
    Fault("resume: first weights drawn again", "resume", plan=_from_first_weights),
    Fault("resume: scale from the trained log_scale", "resume", plan=_scale_from_weights),
    Fault("resume: changes the model it was given", "resume", after=_changes_what_it_was_given),
    Fault("resume: history forgotten", "resume", after=_forgotten_history),
    Fault("predict: wrong in float32", "predict", after=_in_single(_dimmer)),
    Fault("predict: wrong for later batches", "predict", after=_later_groups(lambda image: 0.99 * image)),
    Fault("predict: later batches in reverse", "predict", after=_later_groups(lambda image: image[::-1])),
    Fault("predict: computed in float32", "predict", execution=_run(precision=SINGLE_PRECISION)),
    Fault("infer: last, smaller batch dropped", "infer", after=_restitched(_whole_batches_only)),
    Fault("infer: patches shifted after the first batch", "infer", after=_restitched(_shifted_later)),
    Fault("infer: one canvas for a batch of 64 and more", "infer", after=_one_canvas_a_batch),
    Fault("infer: stitching size ignored", "infer", instead=_ignoring("stitching_size")),
    Fault("infer: agreement of phases ignored", "infer", instead=_ignoring("agree_on_phase")),
    Fault(NORMALISED_BY_TRAINING, "infer"),
    Fault("infer: computed in float32", "infer", execution=_run(precision=SINGLE_PRECISION)),
    Fault("infer: wrong in float32", "infer",
          after=_in_single(lambda image: dataclasses.replace(image, object=image.object * np.float32(1.001)))),
    Fault("infer: origin half a pixel off", "infer", after=_off),
    Fault("infer: x and y of the centres swapped", "infer", after=_swapped_centres),
    Fault("infer: conjugate", "infer",
          after=lambda call, image: dataclasses.replace(image, object=np.conj(image.object))),
    Fault("forward: wrong in float32", "forward", after=_in_single(_dimmer)),
    Fault("loss: wrong in float32", "loss",
          after=_in_single(lambda terms: {name: 1.001 * value for name, value in terms.items()})),
    Fault("train_step: start returned in float32", "train_step", instead=_start_in_single),
    Fault("train_step: later batches ignored", "train_step", instead=_first_batch_only),
    Fault("train_step: learning rate ignored", "train_step", execution=_run(learning_rate=1e-4)),
    Fault("refine: model ignored", "refine", instead=_ignoring("model")),
    Fault("refine: passes ignored", "refine", instead=_one_pass),
    Fault("refine: wrong in float32", "refine",
          after=_in_single(lambda image: dataclasses.replace(image, object=image.object * np.float32(1.01)))),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in _ALL})
"""Every fault by its name."""
