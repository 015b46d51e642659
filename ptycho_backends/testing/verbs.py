"""Measurements of what people call: `train`, its resuming, `predict`, `infer`, `refine`, against the reference's.

One training of a case serves all of them. The reference's trainer is driven by the backend's own gradients, which
other checks hold against the slopes of the reference's loss; everything around the gradient is the reference's.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.images.phase_agreement import agreed_phases
from ptycho_backends.images.reconstruct import (
    default_stitching_size,
    trust_in_patches,
    wants_phase_agreement,
)
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import inference
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import refinement as refining
from ptycho_backends.refinement.plan import plan_refinement
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.scans.grouping import GroupedData
from ptycho_backends.testing.agreement import ALLOWANCES, Disagreement, assert_within, deviation
from ptycho_backends.testing.measurements import DOUBLE, OUTPUTS, SINGLE, Measurement, Timings
from ptycho_backends.testing.replay import replayed_model, replayed_steps
from ptycho_backends.testing.verb_cases import VerbCase
from ptycho_backends.training.canvas import with_room_for
from ptycho_backends.training.plan import TrainingPlan, inference_groups, plan_training
from ptycho_backends.values import Batch, EpochRecord, Prediction, TrainedModel, Weights

# Replays of a float32 training, from gradients as they are and with reordered sums, if a few do not explain its error.
MOST_REPLAYS = 6

# What float32 is not judged more finely than, whatever reordering does: parts of the way that a training goes, and of
# a loss.
LEAST_OF_STEPS, LEAST_OF_LOSSES = 7e-3, 3e-4

LOSSES_OF_AN_EPOCH = ("train_loss", "val_loss")


@dataclasses.dataclass
class Shown:
    """What a report draws of one case: by backend, the losses of all epochs, and the image."""

    case: str
    curves: dict[str, Sequence[EpochRecord]] = dataclasses.field(default_factory=dict)
    images: dict[str, NDArray] = dataclasses.field(default_factory=dict)


def measure_verbs(
    case: VerbCase,
    backends: Mapping[str, Backend],
    timings: Timings | None = None,
    shown: Shown | None = None,
) -> Iterator[Measurement]:
    """Each backend against the reference; what is resumed was stopped on the backend before it.

    Parameters
    ----------
    case : VerbCase
    backends : mapping
        Names, for the report, to backends.
    timings : Timings, optional
        Receives the seconds.
    shown : Shown, optional
        Receives curves and images.
    """
    timings = Timings() if timings is None else timings
    case, refused = granted(case, backends)
    yield from refused
    begun: dict[str, TrainedModel] = {}
    for name, backend in backends.items():
        verbs = _Verbs(case, name, backend, timings)
        yield from verbs.train()
        begun[name] = verbs.begun
        if case.trains_in_single:
            yield from verbs.train_in_single()
        yield from verbs.small_steps_in_single()
        # of one model, so that images of several backends can be compared
        model = next(iter(begun.values()))
        yield from verbs.predict_and_infer(model, shown)
        yield from verbs.refine(model)
    names = list(backends)
    for number, name in enumerate(names):
        verbs = _Verbs(case, name, backends[name], timings)
        other = names[number - 1]
        start = begun[other] if not case.within else verbs.stopped_within(other, backends[other])
        yield from verbs.resume(start, other, shown)


TOSS_UP = 5e-3
"""Part of the deviance of held-out pixels: float32 moves it by as much, so where a learned correction changes it by
less, rounding decides whether the correction is taken."""

NEAR_CUT = 1e-4
"""Radians from plus or minus pi, at which losses of angles are not judged."""

OF_THE_RUN: Mapping[str, Any] = MappingProxyType({"accum_steps": 1, "clip": None, "staged": False})
"""Fields of a case that a backend may refuse, and what they are then."""


def granted(case: VerbCase, backends: Mapping[str, Backend]) -> tuple[VerbCase, list[Measurement]]:
    """`case` without the settings of `OF_THE_RUN` that a backend refuses; each refusal is not judged, and told."""
    refused = []
    data = case.data()
    for field, default in OF_THE_RUN.items():
        if getattr(case, field) == default:
            continue
        plain = {name: value for name, value in OF_THE_RUN.items() if name != field}
        execution = dataclasses.replace(case, **plain).execution(DOUBLE, after_the_stop=True)
        for name, backend in backends.items():
            try:
                backend.complete_config(case.config, data, execution)
            except ConfigError as error:
                case = dataclasses.replace(case, **{field: default})
                where = f"{field}: {error}"
                refused.append(
                    Measurement("settings refused, so not judged", "verbs, exactly", name, 0.0, where)
                )
                break
    return case, refused


class _Verbs:
    def __init__(self, case: VerbCase, name: str, backend: Backend, timings: Timings) -> None:
        self.case, self.name, self.backend, self._timings = case, name, backend, timings
        self._data = case.data()
        self._on_cut = False

    def _of(self, quantity: str, allowance: str, value: float | None, where: str = "") -> Measurement:
        if self._on_cut and "loss" in quantity:
            value, where = None, "phases on the cut of the angle, where rounding decides about 2 pi"
        return Measurement(quantity, allowance, self.name, value, where)

    def _look_for_the_cut(self, plan: TrainingPlan, *models: TrainedModel) -> None:
        """Supervised training compares angles, and a saturated network's lie at plus and minus pi."""
        if plan.config.model.model_type != "supervised":
            return
        for model in models:
            for indices in plan.epoch_batches(1):
                image = reference.predict(plan.config.model, model.weights, plan.gather(indices, 1)).object
                self._on_cut |= bool((np.abs(np.angle(image)) > np.pi - NEAR_CUT).any())

    # --- train

    def train(self) -> Iterator[Measurement]:
        """Up to the stop, in float64."""
        case, execution = self.case, self.case.execution(DOUBLE)
        self.plan = plan_training(self._data, case.config, self.backend.name, execution)
        told: list[EpochRecord] = []
        self.begun = self._timings.timed(
            self.name, "train", self.backend.train, self._data, case.config, execution=execution,
            on_epoch=told.append,
        )  # fmt: skip
        self.want = replayed_model(self.backend, self.plan, execution)
        self._look_for_the_cut(self.plan, self.plan.start, self.begun)
        yield from self._model("train", self.begun, self.want, self.plan.start)
        yield self._same("train: epochs told", [row.epoch for row in told],
                         [row.epoch for row in self.want.history])  # fmt: skip
        if case.within:
            # in the other cases a training that is resumed follows, which would not show what the first has left
            again = self.backend.train(self._data, case.config, execution=execution)
            yield from self._model("train again", again, self.want, self.plan.start)

    def _model(
        self, verb: str, got: TrainedModel, want: TrainedModel, start: TrainedModel
    ) -> Iterator[Measurement]:
        """Weights, history, scale and resume state in float64."""
        yield from self._history(verb, got, want)
        error, where = _farthest_step(got.weights, want.weights, start.weights)
        yield self._of(f"{verb}: weights", "training, float64", error, where)
        yield self._same(f"{verb}: intensity scale", got.intensity_scale, start.intensity_scale)
        yield self._same(f"{verb}: configuration", _told(got.config), _told(want.config))
        yield from self._state(verb, got, want)

    def _history(self, verb: str, got: TrainedModel, want: TrainedModel) -> Iterator[Measurement]:
        for field in LOSSES_OF_AN_EPOCH:
            yield self._of(f"{verb}: {field}", "training, float64", *_losses_apart(got, want, field))
        for field in ("epoch", "learning_rate"):
            yield self._same(
                f"{verb}: {field}s in the history",
                [getattr(row, field) for row in got.history],
                [getattr(row, field) for row in want.history],
            )

    def _state(self, verb: str, got: TrainedModel, want: TrainedModel) -> Iterator[Measurement]:
        state, wanted = got.training_state, want.training_state
        assert wanted is not None
        if state is None:
            yield self._of(f"{verb}: resume state", "verbs, exactly", math.inf, "got none")
            return
        for field in ("step", "epoch", "batches_done"):
            yield self._same(
                f"{verb}: {field} of the resume state", getattr(state, field), getattr(wanted, field)
            )
        for field in ("first_moments", "second_moments"):
            error, where = _apart(getattr(state, field), getattr(wanted, field))
            yield self._of(f"{verb}: {field.replace('_', ' ')}", "training, float64", error, where)
        for field, value in wanted.schedule.items():
            error = _between(state.schedule.get(field), value)
            where = f"{field}: got {state.schedule.get(field)}, want {value}"
            what = "best loss" if field == "best" else "schedule"
            yield self._of(f"{verb}: {what} of the resume state", "training, float64", error, where)

    # --- resume

    def stopped_within(self, other: str, backend: Backend) -> TrainedModel:
        """The reference's training with the gradients of `other`, stopped after its first step."""
        execution = self.case.execution(DOUBLE, after_the_stop=True)
        plan = plan_training(self._data, self.case.longer, backend.name, execution)
        model = replayed_model(backend, plan, execution, stop_after=1)
        assert model.training_state is not None
        return model

    def resume(self, start: TrainedModel, other: str, shown: Shown | None) -> Iterator[Measurement]:
        """From the stop to the end, in float64; `start` is of the backend `other`."""
        case, execution = self.case, self.case.execution(DOUBLE, after_the_stop=True)
        before = copy.deepcopy(start)
        got = self._timings.timed(
            self.name, "resume", self.backend.train, self._data, case.longer, execution=execution,
            resume_from=start,
        )  # fmt: skip
        yield self._of("resume: the model it was given", "verbs, exactly", *_changes(start, before))
        plan = plan_training(self._data, case.longer, self.backend.name, execution, before)
        want = replayed_model(self.backend, plan, execution)
        self._look_for_the_cut(plan, before, want)
        moved = dataclasses.replace(plan.start, weights=before.weights)
        for one in self._model("resume", got, want, moved):
            yield dataclasses.replace(one, where=f"begun on {other}, {one.where}")
        if shown is not None:
            shown.curves.setdefault("reference", want.history)
            shown.curves[self.name] = got.history

    # --- float32

    def train_in_single(self) -> Iterator[Measurement]:
        """Up to the stop in float32: errors over what reordered sums do to weights and losses."""
        case, execution = self.case, self.case.execution(SINGLE)
        got = self._timings.timed(
            self.name, "train, float32", self.backend.train, self._data, case.config, execution=execution
        )
        want, start = self.want, self.plan.start.weights
        yield self._same("train in float32: intensity scale", got.intensity_scale, want.intensity_scale)
        if len(got.history) != len(want.history) and case.patience < case.nepochs:
            yield self._of("train in float32: weights", "training, float32", None, "stopped early elsewhere")
            return
        yield self._same("train in float32: number of epochs", len(got.history), len(want.history))
        replays: list[TrainedModel] = []

        def others() -> Iterator[TrainedModel]:
            for number in range(MOST_REPLAYS):
                if number == len(replays):
                    order = self._order(number)
                    replays.append(replayed_model(self.backend, self.plan, execution, order=order))
                yield replays[number]

        for field in LOSSES_OF_AN_EPOCH:
            error, where = _losses_apart(got, want, field)
            changes = (_losses_apart(one, want, field)[0] for one in others())
            yield self._over(f"train in float32: {field}", error, LEAST_OF_LOSSES, changes, where)
        error = _steps_apart(got.weights, want.weights, start)
        changes = (_steps_apart(one.weights, want.weights, start) for one in others())
        yield self._over("train in float32: weights", error, LEAST_OF_STEPS, changes, "of the steps")

    def _order(self, number: int) -> int | None:
        """Order of the sums in a replay: first as they are, because a ReLU at its edge may show in one order only."""
        return self.case.seed + number if number else None

    def _over(
        self, quantity: str, error: float, least: float, changes: Iterator[float], where: str
    ) -> Measurement:
        """`error` over the largest of `changes`, as few of them as explain it, and of `least`."""
        allowance = "training, float32"
        change, most = least, ALLOWANCES[allowance].bound
        while error > change * most:
            one = next(changes, None)
            if one is None:
                break
            change = max(change, one)
        where = f"error {error:.1e} {where}, reordering {change:.1e}"
        return self._of(quantity, allowance, error / change, where)

    def small_steps_in_single(self) -> Iterator[Measurement]:
        """`forward`, `loss` and `train_step` in float32, on several batches."""
        plan, execution = self.plan, dataclasses.replace(SINGLE, learning_rate=self.case.learning_rate)
        batches = [plan.gather(indices, 1) for indices in plan.epoch_batches(1)][:2]
        for number, batch in enumerate(batches, 1):
            model = plan.config.model
            outputs = self.backend.forward(model, self.begun.weights, batch, execution=SINGLE)
            known = reference.predict(model, self.begun.weights, batch)
            for output in OUTPUTS:
                error, where = _of_groups(getattr(outputs, output), getattr(known, output))
                yield self._of(
                    f"forward in float32: {output}", "outputs, float32", error, f"batch {number}, {where}"
                )
            got = self.backend.loss(plan.config, self.begun.weights, batch, execution=SINGLE)
            terms = reference.loss(plan.config, self.begun.weights, batch)
            size = max(abs(value) for value in terms.values())
            if set(got) != set(terms):
                yield self._of("loss in float32", "losses, float32", math.inf, f"names {sorted(got)}")
                continue
            error, name = max((abs(got[name] - terms[name]) / (size or 1.0), name) for name in terms)
            where = f"batch {number}, {name}: got {got[name]:.9g}, want {terms[name]:.9g}"
            yield self._of("loss in float32", "losses, float32", error, where)
        step = self.backend.train_step(plan.config, plan.start.weights, batches, execution=execution)
        exact = dataclasses.replace(DOUBLE, learning_rate=self.case.learning_rate)
        want = replayed_steps(self.backend, plan.config, plan.start.weights, batches, exact)
        start = plan.start.weights

        changes = (
            _steps_apart(
                replayed_steps(
                    self.backend, plan.config, start, batches, execution, order=self._order(number)
                ),
                want,
                start,
            )
            for number in range(MOST_REPLAYS)
        )
        error = _steps_apart(step, want, start)
        yield self._over("train_step in float32: weights", error, LEAST_OF_STEPS, changes, "of the steps")

    # --- predict, infer, refine

    def predict_and_infer(self, model: TrainedModel, shown: Shown | None) -> Iterator[Measurement]:
        """Of a scan that is brighter than the one that was trained on, in batches, in both precisions."""
        case = self.case
        groups = inference_groups(model, case.shown_scan())
        fitted = with_room_for(model, groups)
        batch = groups.batch(intensity_scale=model.intensity_scale)
        want = reference.predict(fitted.config.model, model.weights, batch)
        for precision, run in (("float64", case.execution(DOUBLE)), ("float32", case.execution(SINGLE))):
            got = self._timings.timed(
                self.name, f"predict, {precision}", self.backend.predict, model, groups, execution=run
            )
            for output in OUTPUTS:
                error, where = _of_groups(getattr(got, output), getattr(want, output))
                quantity, allowance = f"predict in {precision}: {output}", f"outputs, {precision}"
                if run.precision == SINGLE.precision and error > ALLOWANCES[allowance].bound:
                    rounded = reference.predict(
                        fitted.config.model, _rounded_once(model.weights), _batch_rounded_once(batch)
                    )
                    quantity, allowance = f"{quantity}, over rounding", "outputs, inputs rounded"
                    error /= deviation(getattr(rounded, output), getattr(want, output))
                yield self._of(quantity, allowance, error, where)
        # nothing of the first model may be left in what a second one of its configuration predicts
        other = dataclasses.replace(model, weights=self.plan.start.weights)
        second = self.backend.predict(other, groups, execution=case.execution(DOUBLE))
        untrained = reference.predict(fitted.config.model, other.weights, batch)
        error, where = _of_groups(second.object, untrained.object)
        yield self._of("predict in float64: object, another model", "outputs, float64", error, where)
        yield from self._infer(model, groups, want, case.execution(DOUBLE), "float64",
                               case.stitching_size, case.agree, shown)  # fmt: skip
        yield from self._infer(model, groups, want, case.execution(SINGLE), "float32",
                               case.other_stitching_size, not case.agree, None)  # fmt: skip

    def _infer(
        self,
        model: TrainedModel,
        groups: GroupedData,
        want: Prediction,
        execution: ExecutionConfig,
        precision: str,
        stitching_size: int | None,
        agree: bool | None,
        shown: Shown | None,
    ) -> Iterator[Measurement]:
        got = self._timings.timed(
            self.name, f"infer, {precision}", self.backend.infer, model, groups, execution=execution,
            stitching_size=stitching_size, agree_on_phase=agree,
        )  # fmt: skip
        config = model.config.model
        size = default_stitching_size(config) if stitching_size is None else stitching_size
        agrees = wants_phase_agreement(config) if agree is None else agree
        trust = trust_in_patches(model, size)
        image, coverage, origin = inference.infer(
            want.object, groups.group_centres_px, size, patch_weights=trust,
            phases=agreed_phases if agrees else None,
        )  # fmt: skip
        verb, allowance = f"infer in {precision}", f"image, {precision}"
        if got.object.shape == image.shape and trust is not None:
            # pixels that are trusted are fewer than those that some patch covers
            image = np.where(got.coverage > 0, image, 0)
        said = f"stitching_size={stitching_size}, agree_on_phase={agree}"
        yield self._of(f"{verb}: image", allowance, *_pixels(got.object, image, said))
        if trust is None:
            yield self._of(f"{verb}: coverage", allowance, *_pixels(got.coverage, coverage, said))
        yield self._same(f"{verb}: origin", list(got.origin_px), list(origin))
        yield self._same(
            f"{verb}: centres of groups", got.group_centres_px.tolist(),
            groups.group_centres_px[:, 0, :, 0].tolist(),
        )  # fmt: skip
        if got.object_patches is not None and not agrees:
            error, where = _of_groups(got.object_patches, want.object)
            yield self._of(f"{verb}: patches", allowance, error, where)
        if shown is not None:
            shown.images.setdefault("reference", image)
            shown.images[self.name] = got.object

    def refine(self, model: TrainedModel) -> Iterator[Measurement]:
        """With the model's learned correction, where it has one."""
        if self.case.architecture != "unrolled":
            return
        scan, config = self.case.shown_scan(), self.case.refinement
        plan = plan_refinement(None, scan, config, model)
        steps = refining.Refiner(plan.problem, plan.state.canvas, plan.state.probe)
        refinement = Refinement(plan, steps, "reference")
        want = refinement.run()
        for precision, run in (("float64", DOUBLE), ("float32", SINGLE)):
            got = self._timings.timed(
                self.name, f"refine, {precision}", self.backend.refine, None, scan, config,
                execution=run, model=model,
            )  # fmt: skip
            error: float | None
            error, where = _pixels(got.object, want.object, "with a model")
            corrected = self._same(f"refine in {precision}: corrected", got.corrected, want.corrected)
            if got.corrected != want.corrected and run is SINGLE and _is_toss_up(refinement):
                error, where = (
                    None,
                    "the learned correction is a toss-up, and rounding decides whether it is taken",
                )
                corrected = dataclasses.replace(corrected, value=None, where=where)
            yield self._of(f"refine in {precision}: image", f"refined image, {precision}", error, where)
            yield corrected
            yield self._same(f"refine in {precision}: passes", len(got.passes), len(want.passes))

    def _same(self, quantity: str, got: Any, want: Any) -> Measurement:
        where = "" if got == want else f"got {_short(got)}, want {_short(want)}"
        return self._of(quantity, "verbs, exactly", 0.0 if got == want else math.inf, where)


def _is_toss_up(refinement: Refinement) -> bool:
    if refinement.held_out_deviances is None:
        return False
    before, after = refinement.held_out_deviances
    return abs(after - before) <= TOSS_UP * before


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _told(config: Any) -> dict[str, Any]:
    """The configuration, but for who computed."""
    return {**dataclasses.asdict(config), "backend": None}


def _between(got: Any, want: Any) -> float:
    """Relative difference of two numbers; of anything else, 0 if equal."""
    if got == want:
        return 0.0
    if not isinstance(got, float | int) or not isinstance(want, float | int) or not math.isfinite(got):
        return math.inf
    return abs(got - want) / abs(want) if want else math.inf


def _losses_apart(got: TrainedModel, want: TrainedModel, field: str) -> tuple[float, str]:
    """Largest relative difference of the losses `field` of all epochs."""
    pairs = [
        (getattr(one, field), getattr(other, field), other.epoch)
        for one, other in zip(got.history, want.history, strict=False)
    ]
    found = [(_between(one, other), f"epoch {epoch}: got {one}, want {other}") for one, other, epoch in pairs]
    return max(found, default=(0.0, ""))


def _farthest_step(got: Weights, want: Weights, start: Weights) -> tuple[float, str]:
    """Difference over the length of the way from `start`, worst array; and how far each has gone."""
    if set(got) != set(want):
        return math.inf, "names: " + ", ".join(sorted(set(got) ^ set(want)))
    found = []
    for name in want:
        moved, wanted = (_wide(one[name]) - _wide(start[name]) for one in (got, want))
        text = (
            f"{name}: moved by {np.linalg.norm(moved.ravel()):.3g}, want {np.linalg.norm(wanted.ravel()):.3g}"
        )
        found.append((deviation(moved, wanted), text))
    return max(found)


def _steps_apart(got: Weights, want: Weights, start: Weights) -> float:
    """Root mean square over the weights of difference over way, so that every weight counts alike."""
    ratios = []
    for name in want:
        way = float(np.linalg.norm((_wide(want[name]) - _wide(start[name])).ravel()))
        apart = float(np.linalg.norm((_wide(got[name]) - _wide(want[name])).ravel()))
        if way > 0:
            ratios.append(apart / way)
        elif apart > 0:
            return math.inf
    return float(np.sqrt(np.mean(np.square(ratios)))) if ratios else 0.0


def _apart(got: Weights, want: Weights) -> tuple[float, str]:
    """The same for moments, which may be missing where they are zero; the farthest array."""
    ratios = [(0.0, "")]
    for name, value in want.items():
        there = got.get(name, np.zeros_like(value))
        size = float(np.linalg.norm(value.ravel()))
        apart = float(np.linalg.norm((_wide(there) - _wide(value)).ravel()))
        if apart > 0:
            text = f"{name}: got {np.linalg.norm(_wide(there).ravel()):.3g}, want {size:.3g}"
            ratios.append((apart / size if size else math.inf, text))
    total = float(np.sqrt(np.sum(np.square([ratio for ratio, _ in ratios])) / max(1, len(want))))
    return total, max(ratios)[1]


def _wide(array: NDArray) -> NDArray:
    return np.asarray(array, np.complex128 if np.iscomplexobj(array) else np.float64)


def _of_groups(got: NDArray, want: NDArray) -> tuple[float, str]:
    """Deviation, and the group that is farthest off."""
    error = deviation(got, want)
    if got.shape != want.shape:
        return error, f"got shape {got.shape}, want {want.shape}"
    apart = np.linalg.norm((_wide(got) - _wide(want)).reshape(len(want), -1), axis=1)
    return error, f"group {int(np.argmax(apart))} of {len(want)}"


def _rounded_once(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Each number moved by up to half a unit of the last place of float32, in float64; always by the same."""
    draw = np.random.default_rng(0)
    return {
        name: _wide(array) * (1.0 + 2.0**-24 * draw.uniform(-1, 1, np.shape(array)))
        for name, array in arrays.items()
    }


def _batch_rounded_once(batch: Batch) -> Batch:
    (patterns,) = _rounded_once({"": batch.diffraction_amplitude}).values()
    return dataclasses.replace(batch, diffraction_amplitude=patterns)


def _pixels(got: NDArray, want: NDArray, said: str) -> tuple[float, str]:
    if got.shape != want.shape:
        return math.inf, f"{said}: got {got.shape} pixels, want {want.shape}"
    return deviation(got, want), said


def _changes(got: TrainedModel, want: TrainedModel) -> tuple[float, str]:
    """Infinite where a verb has changed the model that it was given."""
    pairs = [("weights", got.weights, want.weights)]
    if got.training_state is not None and want.training_state is not None:
        pairs += [
            (field, getattr(got.training_state, field), getattr(want.training_state, field))
            for field in ("first_moments", "second_moments")
        ]
    for what, one, other in pairs:
        for name, value in other.items():
            if not np.array_equal(one[name], value):
                return math.inf, f"{what}: {name} was changed"
    return (0.0, "") if got.config == want.config else (math.inf, "its configuration was changed")


def require_verbs(case: VerbCase, measurements: Iterable[Measurement]) -> None:
    """Raise `Disagreement` for the first of `measurements` beyond its allowance, with the way to run it alone."""
    for one in measurements:
        if one.value is None:
            continue
        try:
            assert_within(f"{one.subject}: {one.quantity}", one.value, one.allowance, one.where)
        except Disagreement as error:
            raise Disagreement(f"{error}\n  case: {case!r}\n  {alone(one.subject, repr(case))}") from None


def alone(backend: str, case: str) -> str:
    """The command that measures one case again."""
    name = backend.partition(" ")[0].rstrip(",")
    return f'alone: ptycho-backends parity {name} --case "{case}"'


__all__ = ["Shown", "alone", "measure_verbs", "require_verbs"]
