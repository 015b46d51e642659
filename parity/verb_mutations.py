"""Mistakes in whole verbs, one list for both backends: the edit of the one, of the other, or of what both share."""

# ruff: noqa: E501 - an edit reads best on one line
from dataclasses import dataclass

from mutant import Mutant

Edit = tuple[str, str, str]
"""File, relative to the backend's package or, for shared code, to `ptycho_backends`; old text; new text."""


@dataclass(frozen=True)
class VerbMutant:
    """One mistake in a verb, made in each backend; or in `shared` code, which is judged with each of them."""

    name: str
    torch: Edit | None = None
    tensorflow: Edit | None = None
    shared: Edit | None = None


VERB_MUTANTS = (
    # --- resume
    VerbMutant("resume: first moments forgotten",
               ("module.py", '"exp_avg": first[name].to(parameter.device),', '"exp_avg": torch.zeros_like(parameter),'),
               ("adam.py", "self._first, {} if state is None else state.first_moments", "self._first, {}")),
    VerbMutant("resume: second moments forgotten",
               ("module.py", '"exp_avg_sq": second[name].to(parameter.device),', '"exp_avg_sq": torch.zeros_like(parameter),'),
               ("adam.py", "self._second, {} if state is None else state.second_moments", "self._second, {}")),
    VerbMutant("resume: steps counted anew",
               ("module.py", "self._count_steps(optimizer, state.step)", "self._count_steps(optimizer, 1)"),
               ("adam.py", "self._step.assign(0 if state is None else state.step)", "self._step.assign(0)")),
    VerbMutant("resume: epoch that had begun is begun anew",
               ("data.py", "0 if state is None else state.batches_done", "0"),
               ("data.py", "self.plan.epoch_batches(epoch)[skipped:]", "self.plan.epoch_batches(epoch)")),
    VerbMutant("resume: losses before the stop forgotten",
               ("module.py", "self._loss_sum = start.training_state.loss_sum", "self._loss_sum = 0.0"),
               ("module.py", "self._loss_sum.assign(0.0 if state is None else state.loss_sum)", "self._loss_sum.assign(0.0)")),
    VerbMutant("resume: history forgotten", shared=("training/epochs.py", "list(start.history)", "[]")),
    VerbMutant("resume: nothing is resumed", shared=(
        "backend_base.py", "plan_for(self, data, config, execution, resume_from)", "plan_for(self, data, config, execution)")),
    # --- train
    VerbMutant("train: validation judged on training groups",
               ("data.py", "batches = self.plan.validation_batches()",
                "batches = [self.plan.train_indices[: len(one)] for one in self.plan.validation_batches()]"),
               ("data.py", "self._batches(self.plan.validation_batches(), epoch=0)",
                "self._batches([self.plan.train_indices[: len(one)] for one in self.plan.validation_batches()], epoch=0)")),
    VerbMutant("train: validation batches weigh alike",
               ("module.py", 'self.log("val_loss", loss, on_epoch=True, prog_bar=True, batch_size=groups)',
                'self.log("val_loss", loss, on_epoch=True, prog_bar=True, batch_size=1)'),
               ("training.py", "count = int(shard_sizes(batch)[1])", "count = 1")),
    VerbMutant("train: last, smaller batch dropped",
               ("data.py", "batches = self._plan.epoch_batches(self._epoch)",
                "batches = [one for one in self._plan.epoch_batches(self._epoch) if len(one) == self._plan.config.batch_size]"),
               ("data.py", "self._batches(self.plan.epoch_batches(epoch)[skipped:], epoch)",
                "self._batches([one for one in self.plan.epoch_batches(epoch) if len(one) == self.plan.config.batch_size][skipped:], epoch)")),
    VerbMutant("train: the same order in every epoch",
               ("data.py", "batches = self._plan.epoch_batches(self._epoch)", "batches = self._plan.epoch_batches(1)"),
               ("data.py", "self.plan.epoch_batches(epoch)[skipped:]", "self.plan.epoch_batches(1)[skipped:]")),
    VerbMutant("train: groups of the first epoch in every epoch",
               ("data.py", "tensors_from_batch(self._plan.gather(part, epoch))", "tensors_from_batch(self._plan.gather(part, 0))"),
               ("data.py", "self.plan.gather(indices[first : max(own.stop, first + 1)], epoch)",
                "self.plan.gather(indices[first : max(own.stop, first + 1)], 0)")),
    VerbMutant("train: part of the gradient clipped",
               ("training.py", "gradient_clip_val=execution.gradient_clip_val,",
                'gradient_clip_val=execution.gradient_clip_val, gradient_clip_algorithm="value",'),
               ("module.py", "tf.linalg.global_norm(list(gradients.values()))", "tf.linalg.global_norm(list(gradients.values())[:1])")),
    VerbMutant("train: another number of batches gathered",
               ("training.py", "accumulate_grad_batches=execution.accum_steps,", "accumulate_grad_batches=max(1, execution.accum_steps - 1),"),
               ("module.py", "self._batches_gathered == self._accum_steps", "self._batches_gathered > self._accum_steps")),
    VerbMutant("train: rates within an epoch ignored",
               ("module.py", "if self.schedule.changes_within_epoch and", "if False and"),
               ("module.py", "if self.between_steps and self.schedule.changes_within_epoch:", "if False:")),
    VerbMutant("train: nothing moves in float32",
               ("module.py", "            weights=self.model.weights(),",
                "            weights=self._start.weights if next(self.model.parameters()).dtype == torch.float32 else self.model.weights(),"),
               ("adam.py", "tf.cast(rate, dtype) * (first / root)", "tf.cast(rate, dtype) * (first / root) * tf.cast(dtype == tf.float64, dtype)")),
    VerbMutant("train: computed in float32",
               ("training.py", "precision=execution.precision,  # type: ignore[arg-type]", 'precision="32-true",'),
               ("training.py", "dtypes = compute_dtype(execution), network_dtype(execution)", "dtypes = (tf.float32,)")),
    VerbMutant("train: epochs not told",
               ("module.py", "if self.on_epoch is not None and self.trainer.is_global_zero:", "if False:"),
               ("training.py", "if self._on_epoch is not None and self._on_epoch(record) is True:", "if False:")),
    VerbMutant("train: scale from the trained log_scale", shared=(
        "training/epochs.py", "intensity_scale=self.intensity_scale,",
        'intensity_scale=float(__import__("numpy").exp(weights["log_scale"])),')),
    VerbMutant("train: twice the rate in the history", shared=(
        "training/epochs.py", "learning_rate=self.schedule.learning_rate,", "learning_rate=2 * self.schedule.learning_rate,")),
    VerbMutant("train: imaginary part of the probe lost", shared=(
        "training/epochs.py", "value.astype(weight_dtype(name))", "value.real.astype(weight_dtype(name))")),
    VerbMutant("train: schedule follows the training loss", shared=(
        "training/epochs.py", "finish_epoch(train_loss if val_loss is None else val_loss)", "finish_epoch(train_loss)")),
    VerbMutant("train: no resume state of the schedule", shared=(
        "training/epochs.py", "schedule=self.schedule.state(),", "schedule={**self.schedule.state(), 'epoch': 0},")),
    # --- graphs that are used again
    VerbMutant("train: moments of the training before kept", tensorflow=(
        "adam.py", "values = {name: tf.zeros_like(one) for name, one in self._parts[part].items()}",
        "values = self._pieces(tf.convert_to_tensor(vector), part)")),
    VerbMutant("train: graphs of another configuration used", tensorflow=("training.py", "        repr(config),\n", "")),
    VerbMutant("infer: weights of the model before kept", tensorflow=(
        "inference.py", "            runner.model.set_weights(model.weights)", "            pass")),
    # --- predict, forward, loss, train_step
    VerbMutant("predict: intensity wrong in float32",
               ("inference.py", "intensity=np.square(predicted)", "intensity=np.square(predicted) * np.float32(1.001 if predicted.dtype == np.float32 else 1)"),
               ("inference.py", "intensity=np.square(amplitude)", "intensity=np.square(amplitude) * np.float32(1.001 if amplitude.dtype == np.float32 else 1)")),
    VerbMutant("loss: wrong in float32",
               ("inference.py", "{name: float(value) for name", "{name: float(value) * (1.001 if value.dtype == torch.float32 else 1) for name"),
               ("inference.py", "{name: float(value) for name", "{name: float(value) * (1.001 if value.dtype == tf.float32 else 1) for name")),
    VerbMutant("train_step: start returned in float32",
               ("inference.py", "optimizer = adam(runner.model, execution.learning_rate)",
                'optimizer = adam(runner.model, execution.learning_rate if execution.precision == "64-true" else 1e-12)'),
               ("inference.py", '{"all": execution.learning_rate}',
                '{"all": execution.learning_rate if execution.precision == "64-true" else 1e-12}')),
    VerbMutant("train_step: later batches ignored",
               ("inference.py", "        for batch in batches:", "        for batch in batches[:1]:"),
               ("inference.py", "        for batch in batches:", "        for batch in batches[:1]:")),
    VerbMutant("predict, infer: fed with the trained scale", shared=(
        "training/prediction.py", "groups.batch(part, intensity_scale=model.intensity_scale)",
        'groups.batch(part, intensity_scale=float(np.exp(model.weights["log_scale"])))')),
    VerbMutant("predict, infer: last, smaller batch dropped", shared=(
        "training/prediction.py", "range(shard.start, shard.stop, size)", "range(shard.start, shard.stop - size + 1, size)")),
    # --- infer, refine
    VerbMutant("infer: stitching size ignored",
               ("inference.py", '        stitching_size,\n        "torch",', '        model.config.model.N // 2,\n        "torch",'),
               ("inference.py", '        stitching_size,\n        "tensorflow",', '        model.config.model.N // 2,\n        "tensorflow",')),
    VerbMutant("infer: agreement of phases ignored",
               ("inference.py", "agree_on_phase=agree_on_phase,", "agree_on_phase=False,"),
               ("inference.py", "agree_on_phase=agree_on_phase,", "agree_on_phase=False,")),
    VerbMutant("infer: all pixels trusted alike",
               ("inference.py", "patch_weights=trust_in_patches(model, stitching_size),", "patch_weights=None,"),
               ("inference.py", "patch_weights=trust_in_patches(model, stitching_size),", "patch_weights=None,")),
    VerbMutant("infer: patches shifted after the first batch",
               ("inference.py", "under_way.append((part, work(batch)))",
                "later = work(batch)\n"
                "            under_way.append((part, lambda: np.roll(later(), 1, axis=2) if part.start else later()))"),
               ("inference.py", "yield part, patches", "yield part, (np.roll(patches, 1, axis=2) if part.start else patches)")),
    VerbMutant("infer: conjugate in float32",
               ("inference.py", "return array_later(image[..., None])",
                "image = image if image.dtype == torch.complex128 else image.conj().resolve_conj()\n"
                "        return array_later(image[..., None])"),
               ("inference.py", "return results.numpy()[..., None]", "found = results.numpy()[..., None]\n        return found.conj() if found.dtype == np.complex64 else found")),
    VerbMutant("infer: default stitching size for every request", shared=(
        "backend_base.py", "size = default_stitching_size(network) if stitching_size is None else stitching_size", "size = default_stitching_size(network)")),
    VerbMutant("infer: one patch of a batch of 64 and more", shared=(
        "images/reconstruct.py", "        else:\n            stitcher.add(patches, centres[part])\n",
        "        else:\n            few = 1 if len(patches) >= 64 else len(patches)\n            stitcher.add(patches[:few], centres[part][:few])\n")),
    VerbMutant("refine: model ignored", shared=(
        "backend_base.py", "plan_refinement(starting_image(start), scan, config, model)", "plan_refinement(starting_image(start), scan, config)")),
)  # fmt: skip

SHARED_FROM = {"torch": "../../ptycho_backends/", "tensorflow": "../"}


def of_backend(name: str) -> tuple[Mutant, ...]:
    """The mutants of one backend, those of shared code among them."""
    mutants = []
    for mutant in VERB_MUTANTS:
        own: Edit | None = getattr(mutant, name)
        if own is not None:
            mutants.append(Mutant(mutant.name, *own, of_verbs=True))
        elif mutant.shared is not None:
            file, old, new = mutant.shared
            mutants.append(Mutant(mutant.name, SHARED_FROM[name] + file, old, new, of_verbs=True))
    return tuple(mutants)
