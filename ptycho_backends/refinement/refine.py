"""The passes of a refinement: what happens between them, Ctrl-C, checkpoints, and the image that comes out."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from ptycho_backends import constants
from ptycho_backends.images.stitching import squares_over
from ptycho_backends.reference import refinement as reference
from ptycho_backends.reference.probe import orthogonal_modes
from ptycho_backends.reference.refinement import slow_gain
from ptycho_backends.refinement.checkpoint import NAME, save_state
from ptycho_backends.refinement.plan import (
    RefinementPlan,
    RefinementState,
    centre_of_mass_px,
    width_px,
)
from ptycho_backends.refinement.schedule import even_batches, pace_of
from ptycho_backends.training.interrupts import Interrupts, Processes, TrainingInterrupted
from ptycho_backends.training.launch import ProcessRank
from ptycho_backends.training.rescue import without_failure
from ptycho_backends.values import PassCallback, PassSettings, Reconstruction, RefinementRecord

log = logging.getLogger(__name__)

# A pass that ends so much worse than the best one has diverged.
DIVERGED = 1.5
# More misfit than this does not strengthen the smoothness prior any further.
LARGEST_MISFIT = 30.0
# First pass with the metric of slow phases.
SLOW_FROM = 2
# The held-out error has to rise by this over its least value, so many passes in a row, for passes to be too many.
OVERFIT, OVERFIT_PASSES = 0.003, 2
# Light below this fraction of the dose is no image.
LEAST_LIGHT = 0.02
# Positions whose held-out pixels judge a learned correction, and counts below which no pixel is expected.
JUDGED_BY, LEAST_COUNTS = 512, 1e-3
SECONDS_BETWEEN_CHECKPOINTS = 10.0


class Steps(Protocol):
    """Object and probe on a device, and the passes that move them: `reference.refinement.Refiner`, or its mirror."""

    def place(self, corners: NDArray, fractions: NDArray) -> None: ...
    def keep(self) -> None: ...
    def go_back(self) -> None: ...
    def mark(self) -> None: ...
    def return_to_mark(self) -> None: ...
    def canvas(self) -> NDArray: ...
    def velocities(self) -> tuple[NDArray, NDArray]: ...
    def set_velocities(self, velocity: NDArray, probe_velocity: NDArray) -> None: ...
    def probe(self) -> NDArray: ...
    def set_probe(self, probe: NDArray, object_factor: float) -> None: ...
    def light(self) -> NDArray: ...
    def sweep(
        self,
        batches: Sequence[NDArray],
        gain: NDArray | None,
        settings: PassSettings,
        after_batch: Callable[[], None] | None = None,
    ) -> tuple[NDArray, NDArray | None]: ...
    def evaluate(self) -> NDArray: ...
    def correct(self, weights: Mapping[str, NDArray]) -> None: ...


class ByItself(ProcessRank):
    """A process that works with no other."""

    def any(self, asked: bool) -> bool:
        """As `Processes.any`."""
        return asked


class Refinement:
    """Drives the passes of a plan on a backend's `Steps`.

    Parameters
    ----------
    plan : RefinementPlan
    steps : Steps
        Made with the plan's problem, canvas and probe.
    backend : str
        Name for the result.
    processes : Processes, optional
        That work together; the first one writes and calls back. Default: this one by itself.

    Attributes
    ----------
    held_out_deviances : (float, float), optional
        Without the learned correction and with it; None where none was tried, or no pixels are held out.
    """

    def __init__(
        self, plan: RefinementPlan, steps: Steps, backend: str, processes: Processes | None = None
    ) -> None:
        self._plan, self._steps, self._backend = plan, steps, backend
        self._processes = ByItself() if processes is None else processes
        self._state = plan.state
        self._pace = pace_of(plan.config.pace, plan.problem.count)
        self._best = self._least_held_out = np.inf
        self._rises = 0
        self._corrected = False
        self.held_out_deviances: tuple[float, float] | None = None
        self._gain_of_probe: NDArray[np.float64] | None = None
        steps.set_velocities(plan.state.velocity, plan.state.probe_velocity)
        steps.place(*plan.geometry(plan.state))
        if plan.state.dose is None:
            light = steps.light()
            plan.state.dose = float((light.astype(np.float64) ** 2).sum() / light.sum(dtype=np.float64))
        self._dose = plan.state.dose
        for record in plan.state.passes:
            self._best = min(self._best, record.error)
            self._is_overfitting(record)
        self._mark()

    def run(
        self, output_dir: str | os.PathLike[str] | None = None, on_pass: PassCallback | None = None
    ) -> Reconstruction:
        """Make the passes that the plan has left; Ctrl-C ends them after a step and keeps the image.

        Parameters
        ----------
        output_dir : path, optional
            Gets a checkpoint every ten seconds and at the end of interrupted refinements, of the last whole pass: going
            on from there gives the same numbers.
        on_pass : callable, optional
            Called with each `RefinementRecord`, in the first of several processes.
        """
        writes = output_dir is not None and self._processes.is_first
        # absolute: a callback may change the working directory
        checkpoint = Path(output_dir).absolute() / NAME if writes and output_dir is not None else None
        stopped: Reconstruction | None = None
        written = time.monotonic()
        with Interrupts(self._processes).listening() as interrupts:
            try:
                for record in self.passes(interrupts.raise_if_requested):
                    if on_pass is not None and self._processes.is_first:
                        self._call_back(on_pass, record, checkpoint)
                    if checkpoint is not None and time.monotonic() - written > SECONDS_BETWEEN_CHECKPOINTS:
                        self._save(checkpoint)
                        written = time.monotonic()
                self._correct()
            except TrainingInterrupted:
                stopped = self.image(interrupted=True)
                self._return_to_mark()
                if checkpoint is not None:
                    self._save(checkpoint)
                if self._processes.is_first:
                    log.warning("interrupted after %d passes; the image so far is kept", len(stopped.passes))
        if stopped is not None:
            return stopped
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return self.image()

    def _call_back(self, on_pass: PassCallback, record: RefinementRecord, checkpoint: Path | None) -> None:
        try:
            on_pass(record)
        except BaseException:
            # an error of the program's is no reason to lose the passes
            if checkpoint is not None:
                self._save(checkpoint)
            raise

    def _save(self, checkpoint: Path) -> None:
        without_failure(lambda: save_state(self.state(), checkpoint), f"checkpoint {checkpoint.name}")

    def passes(self, after_batch: Callable[[], None] | None = None) -> Iterator[RefinementRecord]:
        """Make the passes that the plan has left, one at a time; they end early where held-out pixels gain no more.

        Parameters
        ----------
        after_batch : callable, optional
            Called after each step; may raise.
        """
        for batches in self._plan.batches[len(self._state.passes) :]:
            record = self._pass(batches, after_batch)
            yield record
            if self._is_overfitting(record):
                log.info("refinement: the held-out pixels gain no more after %d passes", record.number)
                return

    def state(self) -> RefinementState:
        """Everything that has moved so far."""
        state = self._state
        state.canvas, state.probe = self._steps.canvas(), self._steps.probe()
        state.velocity, state.probe_velocity = self._steps.velocities()
        return state

    def _mark(self) -> None:
        """Remember the state between two passes: `_return_to_mark` undoes a part of a pass."""
        self._steps.mark()
        # what moves is replaced, not changed in place, but for the list
        self._before = dataclasses.replace(self._state, passes=list(self._state.passes))

    def _return_to_mark(self) -> None:
        self._steps.return_to_mark()
        self._state = self._before

    def _pass(self, batches: int, after_batch: Callable[[], None] | None) -> RefinementRecord:
        started = time.perf_counter()
        self._mark()
        plan, state, config = self._plan, self._state, self._plan.config
        pace = self._pace
        number = len(state.passes) + 1
        settings = PassSettings(
            damping=pace.damping,
            smoothness=config.smoothness
            * constants.SMOOTHNESS
            * float(np.sqrt(self._dose * min(state.misfit, LARGEST_MISFIT))),
            step=state.step,
            with_probe=bool(config.refine_probe) and number >= config.probe_from,
            with_positions=config.refine_positions and number >= config.positions_from,
        )
        gain = None
        if number >= SLOW_FROM:
            strength = pace.slow_strength * state.trust * self._dose / (self._dose + constants.SLOW_DOSE)
            gain = strength * self._unit_gain()
        parts = even_batches(plan.snake, batches, config.seed, number)
        if number == 1:
            self._steps.keep()
        residuals, equations = self._steps.sweep(parts, gain, settings, after_batch)
        if settings.with_probe:
            self._gain_of_probe = None
        error = float(residuals[0] / max(residuals[1], constants.REFINEMENT_FLOOR))
        if not error <= DIVERGED * self._best:
            log.info(
                "refinement: pass %d diverged (error %.3g); back to the best one, with half the step",
                number,
                error,
            )
            self._steps.go_back()
            state.step *= 0.5
        else:
            if error < self._best:
                self._best = error
                self._steps.keep()
            state.misfit, state.trust = _fit(residuals)
            if settings.with_probe:
                self._hold_probe()
            if equations is not None:
                self._move_positions(equations)
        record = RefinementRecord(
            number=number,
            batches=len(parts),
            error=error,
            r_factor=float(residuals[4] / max(residuals[5], constants.REFINEMENT_FLOOR)),
            held_out_error=_held_out_error(residuals),
            seconds=time.perf_counter() - started,
        )
        state.passes.append(record)
        return record

    def _unit_gain(self) -> NDArray[np.float64]:
        """`slow_gain` of strength 1, kept while the probe is: it is as large as the canvas."""
        if self._gain_of_probe is None:
            width = width_px(self._steps.probe().astype(np.complex128))
            floor = self._pace.slow_strength / self._pace.slow_gain_limit
            self._gain_of_probe = slow_gain(self._plan.problem.shape, width, 1.0, floor)
        return self._gain_of_probe

    def _correct(self) -> None:
        """Add the learned correction, unless the held-out pixels are then predicted worse."""
        if self._plan.correction is None:
            return
        started = time.perf_counter()
        self._mark()
        self._steps.keep()
        before = self._held_out_deviance()
        self._steps.correct(self._plan.correction)
        after = self._held_out_deviance()
        self.held_out_deviances = None if before is None or after is None else (before, after)
        self._corrected = after is None or before is None or after <= before
        if not self._corrected:
            self._steps.go_back()
        log.info(
            "refinement: the learned correction %s (deviance of held-out pixels %s, before %s, %.2f s)",
            "is taken" if self._corrected else "is left out, because it predicts held-out pixels worse",
            "unknown" if after is None else f"{after:.5g}",
            "unknown" if before is None else f"{before:.5g}",
            time.perf_counter() - started,
        )

    def _held_out_deviance(self) -> float | None:
        """Poisson deviance of a held-out pixel, half the mean over some positions; None where none are held out.

        Not the error of amplitudes: where there are few counts, the mean of their roots lies below the root of their
        mean, and a faint image would win.
        """
        plan, problem = self._plan, self._plan.problem
        if problem.classes is None:
            return None
        numbers = np.unique(np.linspace(0, problem.count - 1, min(problem.count, JUDGED_BY)).astype(int))
        corners, fractions = plan.geometry(self._state)
        canvas, probe = self._steps.canvas(), self._steps.probe()
        valid = problem.valid.astype(np.float64)
        deviance, pixels = 0.0, 0.0
        for part, measured in problem.chunks(numbers):
            seen = reference.views(canvas, corners[part], fractions[part], problem.side)
            far = np.fft.fft2(probe * seen[:, None], norm="ortho")
            expected = np.maximum(np.sum(np.abs(far) ** 2, axis=1), LEAST_COUNTS)
            counts = measured.astype(np.float64) ** 2
            _, held_out = reference.pixel_weights(valid, problem.classes, part, problem.class_count)
            loss = expected - counts - xlogy(counts, expected / np.where(counts > 0, counts, 1.0))
            deviance += float(np.sum(loss * held_out))
            pixels += float(np.sum(held_out))
        return deviance / pixels if pixels > 0 else None

    def _is_overfitting(self, record: RefinementRecord) -> bool:
        held_out = record.held_out_error
        if held_out is None:
            return False
        self._rises = self._rises + 1 if held_out > (1.0 + OVERFIT) * self._least_held_out else 0
        self._least_held_out = min(self._least_held_out, held_out)
        return self._rises >= OVERFIT_PASSES

    def _hold_probe(self) -> None:
        """Bring the probe's power and its centre of mass back to where they were; exit waves stay as they are.

        Power goes to the object, and the place to all positions together.
        """
        plan, state = self._plan, self._state
        probe = self._steps.probe().astype(np.complex128)
        factor = float(np.sqrt(plan.energy / np.sum(np.abs(probe) ** 2)))
        probe = probe * factor
        offset = centre_of_mass_px(probe) - plan.probe_centre_px
        limit = plan.margin_px - 1
        if np.all(np.abs(state.common_shift_px + offset) <= limit):
            frequency = 2 * np.pi * np.fft.fftfreq(plan.problem.side)
            ramp = np.exp(1j * (frequency * offset[0] + frequency[:, None] * offset[1]))
            probe = np.fft.ifft2(np.fft.fft2(probe) * ramp)
            state.common_shift_px = state.common_shift_px + offset
        self._steps.set_probe(probe, 1.0 / factor)
        self._steps.place(*plan.geometry(state))

    def _move_positions(self, equations: NDArray[np.float64]) -> None:
        """Damped normal equations of each position; the mean step is taken out, so that nothing drifts together."""
        plan, state = self._plan, self._state
        matrix = equations[:, [2, 3, 3, 4]].reshape(-1, 2, 2)
        trace = (matrix[:, 0, 0] + matrix[:, 1, 1]) / 2
        damping = constants.POSITION_DAMPING * trace + 1e-3 * trace.mean() + constants.REFINEMENT_FLOOR
        matrix = matrix + damping[:, None, None] * np.eye(2)
        step = constants.POSITION_STEP * np.linalg.solve(matrix, equations[:, :2, None])[..., 0]
        step = np.clip(step, -constants.POSITION_STEP_LIMIT_PX, constants.POSITION_STEP_LIMIT_PX)
        least, largest = plan.position_limits(state)
        state.positions_px = np.clip(state.positions_px + step - step.mean(axis=0), least, largest)
        self._steps.place(*plan.geometry(state))

    def image(self, interrupted: bool = False) -> Reconstruction:
        """The image so far, 0 where there is too little light."""
        plan, state, scan = self._plan, self._state, self._plan.scan
        light = np.asarray(self._steps.light(), np.float64)
        lit = light > LEAST_LIGHT * self._dose
        corners, fractions = plan.geometry(state)
        middles = np.rint(corners + fractions).astype(np.int64) + scan.N // 2
        covered = squares_over(middles, plan.problem.shape, min(constants.DEFAULT_STITCHING_SIZE, scan.N))
        coverage = np.where(lit, covered, 0.0).astype(np.float32)
        canvas = np.where(coverage > 0, self._steps.canvas(), 0).astype(np.complex64)
        modes = orthogonal_modes(self._steps.probe().astype(np.complex128)).astype(np.complex64)
        return Reconstruction(
            object=canvas,
            coverage=coverage,
            origin_px=plan.origin_px - state.common_shift_px,
            group_centres_px=state.positions_px,
            backend=self._backend,
            pixel_size_m=scan.pixel_size_m,
            timings_s={"refine": float(sum(record.seconds for record in state.passes))},
            probe_modes=modes,
            positions_px=state.positions_px,
            positions_used=plan.used,
            passes=tuple(state.passes),
            start=plan.start,
            interrupted=interrupted,
            corrected=self._corrected,
        )


def _held_out_error(residuals: NDArray[np.float64]) -> float | None:
    """Squared residuals of the held-out pixels over their energy; None where none are held out."""
    return float(residuals[6] / residuals[7]) if residuals[7] > 0 else None


def _fit(residuals: NDArray[np.float64]) -> tuple[float, float]:
    """Chi-square of the bright pixels, at least 1, and the trust in slow phases, at most 1, after a pass.

    A bright amplitude has the variance 1/4. A model that leaves more than that does not fit, and its slow phases are
    then as likely to be the model's error as the object's.
    """
    squared, count = float(residuals[2]), max(float(residuals[3]), 1.0)
    misfit = max(1.0, 4.0 * squared / count)
    excess = max(0.0, squared - count / 4.0) / max(float(residuals[1]), constants.REFINEMENT_FLOOR)
    doubt = min(excess / constants.TRUSTED_EXCESS, (misfit - 1.0) / constants.TRUSTED_MISFIT)
    return misfit, 1.0 / (1.0 + doubt**constants.TRUST_POWER)
