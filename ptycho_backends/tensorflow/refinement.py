"""Mirror of `ptycho_backends.reference.refinement`: the steps of accelerated projections on a whole scan."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.config import ExecutionConfig
from ptycho_backends.refinement.plan import RefinementPlan
from ptycho_backends.refinement.refine import Refinement
from ptycho_backends.tensorflow import process_group
from ptycho_backends.tensorflow.arrays import complex_dtype, tensors_from_weights
from ptycho_backends.tensorflow.compiling import compiled
from ptycho_backends.tensorflow.correction import corrected_scan
from ptycho_backends.tensorflow.device import compute_dtype, computing, device_kind
from ptycho_backends.training.prefetch import DEFAULT_PREFETCH, ahead
from ptycho_backends.values import (
    REFINEMENT_CHUNK,
    ChunkSums,
    PassCallback,
    PassSettings,
    Reconstruction,
    RefinementProblem,
)

# Positions that are computed at once on a GPU, for N = 64: its cores are many, its launches slow.
GPU_CHUNK = 4096
# Measured amplitudes stay on the device if they take at most this much memory.
RESIDENT_BYTES = 1 << 30


def views(canvas: tf.Tensor, corners: tf.Tensor, fractions: tf.Tensor, N: int) -> tf.Tensor:
    """Mirror of `reference.refinement.views`."""
    right, down = _weights(fractions, canvas.dtype)
    window = _windows(canvas, corners, N)
    across = _between(window[..., :-1], window[..., 1:], right)
    return _between(across[:, :-1], across[:, 1:], down)


def view_slopes(
    canvas: tf.Tensor, corners: tf.Tensor, fractions: tf.Tensor, N: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mirror of `reference.refinement.view_slopes`."""
    right, down = _weights(fractions, canvas.dtype)
    window = _windows(canvas, corners, N)
    across = _between(window[..., :-1], window[..., 1:], right)
    change = window[..., 1:] - window[..., :-1]
    seen = _between(across[:, :-1], across[:, 1:], down)
    by_x = _between(change[:, :-1], change[:, 1:], down)
    return seen, by_x, across[:, 1:] - across[:, :-1]


def _between(first: tf.Tensor, second: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    return first + (second - first) * weight


def _windows(canvas: tf.Tensor, corners: tf.Tensor, N: int) -> tf.Tensor:
    """(n, N + 1, N + 1) pixels from each corner on."""
    return tf.gather(tf.reshape(canvas, [-1]), _window_index(corners, N, tf.shape(canvas, tf.int64)[1]))


def _window_index(corners: tf.Tensor, N: int, width: tf.Tensor) -> tf.Tensor:
    """(n, N + 1, N + 1) int64, places of the pixels of each window in a canvas without its rows."""
    steps = tf.range(N + 1, dtype=tf.int64)
    rows = (corners[:, 1, None] + steps) * width
    return rows[:, :, None] + (corners[:, 0, None] + steps)[:, None]


def _weights(fractions: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    weights = tf.cast(fractions, dtype)[:, :, None, None]
    return weights[:, 0], weights[:, 1]


def spread(images: tf.Tensor, corners: tf.Tensor, fractions: tf.Tensor, canvas: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.refinement.spread`."""
    right, down = _weights(fractions, images.dtype)
    below = images * down
    rows = tf.pad(below, [[0, 0], [1, 0], [0, 0]]) + tf.pad(images - below, [[0, 0], [0, 1], [0, 0]])
    beside = rows * right
    window = tf.pad(beside, [[0, 0], [0, 0], [1, 0]]) + tf.pad(rows - beside, [[0, 0], [0, 0], [0, 1]])
    height, width = tf.unstack(tf.shape(canvas, tf.int64))
    index = _window_index(corners, images.shape[-1], width)
    added = tf.math.unsorted_segment_sum(window, index, height * width)
    return canvas + tf.reshape(added, tf.shape(canvas))


def illumination(
    corners: tf.Tensor, fractions: tf.Tensor, probe: tf.Tensor, shape: tuple[int, int]
) -> tf.Tensor:
    """Mirror of `reference.refinement.illumination`."""
    right, down = fractions[:, 0], fractions[:, 1]
    height, width = tf.unstack(tf.cast(shape, tf.int64))
    first = corners[:, 1] * width + corners[:, 0]
    index = tf.concat([first, first + 1, first + width, first + width + 1], axis=0)
    weight = tf.concat(
        [(1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down], axis=0
    )
    points = tf.reshape(tf.math.unsorted_segment_sum(weight, index, height * width), shape)
    N = probe.shape[-1]
    kernel = tf.pad(tf.reduce_sum(_power(probe), axis=0), [[0, shape[0] - N], [0, shape[1] - N]])
    light = tf.signal.irfft2d(tf.signal.rfft2d(points) * tf.signal.rfft2d(kernel), shape)
    return tf.nn.relu(light)


def _power(waves: tf.Tensor) -> tf.Tensor:
    """Squared modulus, without the root that `abs` takes."""
    return tf.square(tf.math.real(waves)) + tf.square(tf.math.imag(waves))


def _scaled(waves: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Complex waves times real factors."""
    return waves * tf.cast(factor, waves.dtype)


def pixel_weights(
    valid: tf.Tensor, classes: tf.Tensor | None, numbers: tf.Tensor, class_count: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror of `reference.refinement.pixel_weights`."""
    if classes is None:
        return valid[None], tf.zeros_like(valid)[None]
    held_out = valid * tf.cast(classes == (numbers % class_count)[:, None, None], valid.dtype)
    return valid - held_out, held_out


def modulus_change(
    waves: tf.Tensor, measured: tf.Tensor, weights: tf.Tensor, likelihood: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror of `reference.refinement.modulus_change`."""
    side = waves.shape[-1]
    far = tf.signal.fft2d(waves)
    intensity = tf.reduce_sum(_power(far), axis=1) / side**2
    amplitude = tf.sqrt(intensity)
    if likelihood == "poisson":
        factor = 0.5 * (tf.square(measured) / (intensity + constants.POISSON_FLOOR) - 1.0)
    else:
        factor = measured / (amplitude + constants.MODULUS_FLOOR) - 1.0
    # `fft2d` leaves the division by the number of pixels to `ifft2d`: the pair is the unitary one's
    change = tf.signal.ifft2d(_scaled(far, (factor * weights)[:, None]))
    return change, amplitude


def residual_sums(
    measured: tf.Tensor, amplitude: tf.Tensor, weights: tf.Tensor, held_out: tf.Tensor
) -> tf.Tensor:
    """Mirror of `reference.refinement.residual_sums`."""
    residual = measured - amplitude
    squared, power = tf.square(residual), tf.square(measured)
    bright = weights * tf.cast(amplitude > constants.BRIGHT_AMPLITUDE, weights.dtype)
    sums = (
        tf.reduce_sum(squared * weights),
        tf.reduce_sum(power * weights),
        tf.reduce_sum(squared * bright),
        tf.reduce_sum(bright),
        tf.reduce_sum(tf.abs(residual) * weights),
        tf.reduce_sum(measured * weights),
        tf.reduce_sum(squared * held_out),
        tf.reduce_sum(power * held_out),
    )
    return tf.cast(tf.stack(sums), tf.float64)


def chunk_sums(
    canvas: tf.Tensor,
    probe: tf.Tensor,
    measured: tf.Tensor,
    weights: tf.Tensor,
    held_out: tf.Tensor,
    corners: tf.Tensor,
    fractions: tf.Tensor,
    numerator: tf.Tensor,
    likelihood: str,
    *,
    with_probe: bool,
    with_positions: bool,
) -> ChunkSums:
    """Mirror of `reference.refinement.chunk_sums`."""
    N = probe.shape[-1]
    if with_positions:
        seen, by_x, by_y = view_slopes(canvas, corners, fractions, N)
    else:
        seen = views(canvas, corners, fractions, N)
    change, amplitude = modulus_change(probe * seen[:, None], measured, weights, likelihood)
    towards = tf.reduce_sum(tf.math.conj(probe) * change, axis=1)
    found: dict[str, tf.Tensor] = {}
    if with_probe:
        found["probe_numerator"] = tf.reduce_sum(tf.math.conj(seen)[:, None] * change, axis=0)
        found["probe_denominator"] = tf.reduce_sum(_power(seen), axis=0)
    if with_positions:
        lit = tf.reduce_sum(_power(probe), axis=0)
        equations = (
            tf.math.real(tf.math.conj(by_x) * towards),
            tf.math.real(tf.math.conj(by_y) * towards),
            lit * _power(by_x),
            lit * tf.math.real(tf.math.conj(by_x) * by_y),
            lit * _power(by_y),
        )
        found["position_sums"] = tf.stack([tf.reduce_sum(term, axis=(1, 2)) for term in equations], axis=-1)
    return ChunkSums(
        residual_sums(measured, amplitude, weights, held_out),
        spread(towards, corners, fractions, numerator),
        **found,
    )


def differences(canvas: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirror of `reference.refinement.differences`."""
    by_x = tf.pad(canvas[:, 1:] - canvas[:, :-1], [[0, 0], [0, 1]])
    by_y = tf.pad(canvas[1:] - canvas[:-1], [[0, 1], [0, 0]])
    return by_x, by_y


def differences_adjoint(by_x: tf.Tensor, by_y: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.refinement.differences_adjoint`."""
    before_x = tf.pad(by_x[:, :-1], [[0, 0], [1, 0]])
    before_y = tf.pad(by_y[:-1], [[1, 0], [0, 0]])
    return before_x - by_x + before_y - by_y


def roughness(canvas: tf.Tensor, edge: float) -> tf.Tensor:
    """Mirror of `reference.refinement.roughness`."""
    by_x, by_y = differences(canvas)
    weight = tf.math.rsqrt(1.0 + (_power(by_x) + _power(by_y)) / edge**2)
    return differences_adjoint(_scaled(by_x, weight), _scaled(by_y, weight))


def slow_gain(shape: tuple[int, int], width_px: float, strength: float, floor: float) -> tf.Tensor:
    """Mirror of `reference.refinement.slow_gain`, in float64."""
    rows = tf.constant(np.fft.fftfreq(shape[0]), tf.float64)
    columns = tf.constant(np.fft.rfftfreq(shape[1]), tf.float64)
    squared = (2 * math.pi * width_px) ** 2 * (tf.square(rows)[:, None] + tf.square(columns))
    gain = strength / (squared + floor)
    return tf.where(squared == 0.0, tf.zeros_like(gain), gain)


def object_step(
    canvas: tf.Tensor,
    numerator: tf.Tensor,
    light: tf.Tensor,
    gain: tf.Tensor | None,
    fraction: float,
    settings: PassSettings,
) -> tf.Tensor:
    """Mirror of `reference.refinement.object_step`."""
    brightest = tf.reduce_max(light)
    smoothness = settings.smoothness * fraction
    towards = numerator - _scaled(roughness(canvas, constants.EDGE), smoothness)
    # 8 is the largest eigenvalue of the differences' normal matrix
    metric = light + settings.damping * brightest + 8.0 * smoothness
    change = _scaled(towards, settings.step / metric)
    moved = canvas + change
    if gain is None:
        return moved
    trusted = light / (light + constants.LOW_LIGHT * brightest)
    turn = tf.math.imag(change * tf.math.conj(canvas)) / (_power(canvas) + constants.DARK_OBJECT) * trusted
    slow = tf.signal.irfft2d(_scaled(tf.signal.rfft2d(turn), gain), tf.shape(turn))
    return moved * tf.complex(tf.cos(slow), tf.sin(slow))


def probe_step(probe: tf.Tensor, numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """Mirror of `reference.refinement.probe_step`."""
    metric = denominator + constants.PROBE_DAMPING * tf.reduce_max(denominator)
    return probe + _scaled(numerator, constants.PROBE_STEP / metric)


class _Graphs:
    """The compiled parts of a pass, for patterns of `side` pixels and any number of positions, modes and pixels."""

    def __init__(self, side: int, dtype: tf.DType, likelihood: str) -> None:
        self._side, self._dtype, self._complex = side, dtype, complex_dtype(dtype)
        self._likelihood = likelihood
        self._chunks: dict[tuple[bool, bool], tf.types.experimental.PolymorphicFunction] = {}
        scalar, real = tf.TensorSpec((), dtype), tf.TensorSpec((None, None), dtype)
        canvas = tf.TensorSpec((None, None), self._complex)
        modes, image = tf.TensorSpec((None, side, side), self._complex), tf.TensorSpec((side, side), dtype)
        places = tf.TensorSpec((None, 2), tf.int64), tf.TensorSpec((None, 2), dtype)
        numbers = scalar, scalar, scalar, scalar
        self.plain_step = compiled(
            functools.partial(self._step, gain=None), canvas, canvas, modes, *places, *numbers
        )
        self.step = compiled(self._step, canvas, canvas, modes, *places, *numbers, real)
        self.probe_step = compiled(probe_step, modes, modes, image)
        patterns = tf.TensorSpec((None, side, side), dtype)
        self._chunk = canvas, modes, patterns, patterns, patterns, *places, canvas
        self.residuals = compiled(self._residuals, canvas, modes, patterns, patterns, patterns, *places)

    def chunk(self, with_probe: bool, with_positions: bool) -> tf.types.experimental.PolymorphicFunction:
        """`chunk_sums` as a tuple of tensors, empty ones for the sums that are not asked for."""
        key = with_probe, with_positions
        if key not in self._chunks:

            def sums(
                canvas: tf.Tensor, probe: tf.Tensor, measured: tf.Tensor, weights: tf.Tensor, held_out: tf.Tensor,
                corners: tf.Tensor, fractions: tf.Tensor, numerator: tf.Tensor,
            ) -> tuple[tf.Tensor, ...]:  # fmt: skip
                found = chunk_sums(
                    canvas, probe, measured, weights, held_out, corners, fractions, numerator, self._likelihood,
                    with_probe=with_probe, with_positions=with_positions,
                )  # fmt: skip
                probe = (found.probe_numerator, found.probe_denominator) if with_probe else ()
                positions = (found.position_sums,) if with_positions else ()
                return found.residuals, found.numerator, *probe, *positions

            self._chunks[key] = compiled(sums, *self._chunk)
        return self._chunks[key]

    def _step(
        self,
        canvas: tf.Tensor,
        numerator: tf.Tensor,
        probe: tf.Tensor,
        corners: tf.Tensor,
        fractions: tf.Tensor,
        part: tf.Tensor,
        damping: tf.Tensor,
        smoothness: tf.Tensor,
        step: tf.Tensor,
        gain: tf.Tensor | None,
    ) -> tf.Tensor:
        light = illumination(corners, fractions, probe, tf.shape(canvas))
        return object_step(canvas, numerator, light, gain, part, PassSettings(damping, smoothness, step))

    def _residuals(
        self,
        canvas: tf.Tensor,
        probe: tf.Tensor,
        measured: tf.Tensor,
        weights: tf.Tensor,
        held_out: tf.Tensor,
        corners: tf.Tensor,
        fractions: tf.Tensor,
    ) -> tf.Tensor:
        far = tf.signal.fft2d(probe * views(canvas, corners, fractions, self._side)[:, None])
        amplitude = tf.sqrt(tf.reduce_sum(_power(far), axis=1)) / self._side
        return residual_sums(measured, amplitude, weights, held_out)


@functools.lru_cache(maxsize=8)
def _graphs(side: int, dtype: tf.DType, likelihood: str) -> _Graphs:
    """Graphs hold no numbers, so that refinements of one shape share them."""
    return _Graphs(side, dtype, likelihood)


class Refiner:
    """Mirror of `reference.refinement.Refiner` on the device and in the precision of `execution`.

    Measured amplitudes are on the device if they fit, else gathered chunk by chunk during the computation of
    the one before.
    """

    def __init__(
        self,
        problem: RefinementProblem,
        canvas: NDArray,
        probe: NDArray,
        execution: ExecutionConfig,
        processes: process_group.ProcessGroup | None = None,
    ) -> None:
        self._problem, self._execution = problem, execution
        self._processes = processes or process_group.ProcessGroup()
        self._dtype = compute_dtype(execution)
        self._complex = complex_dtype(self._dtype)
        self._graphs = _graphs(problem.side, self._dtype, problem.likelihood)
        on_host = device_kind(execution) == "CPU"
        self._chunk = REFINEMENT_CHUNK if on_host else max(1, GPU_CHUNK * 64**2 // problem.side**2)
        with computing(execution):
            self._canvas, self._probe = self._waves(canvas), self._waves(probe)
            self._velocity, self._probe_velocity = tf.zeros_like(self._canvas), tf.zeros_like(self._probe)
            self._valid = tf.constant(problem.valid, self._dtype)
            self._classes = None if problem.classes is None else tf.constant(problem.classes, tf.int64)
            self._measured = self._resident()
        self.keep()

    def _waves(self, array: NDArray) -> tf.Tensor:
        return tf.constant(np.asarray(array).astype(self._complex.as_numpy_dtype))

    def _resident(self) -> tf.Variable | None:
        """(M, N, N) amplitudes on the device, in float32; None if they take too much of its memory."""
        problem = self._problem
        if 4 * problem.count * problem.side**2 > RESIDENT_BYTES:
            return None
        measured = tf.Variable(tf.zeros((problem.count, problem.side, problem.side)), trainable=False)
        for part, amplitude in problem.chunks(np.arange(problem.count), 1024):
            measured[part[0] : part[-1] + 1].assign(amplitude)
        return measured

    def _chunks(self, batch: NDArray) -> Iterator[tuple[NDArray, tf.Tensor, tf.Tensor]]:
        """Numbers of the positions of each chunk, as an array and as a tensor, and their measured amplitudes."""
        if self._measured is None:
            gathered = ahead(self._problem.chunks(batch, self._chunk), DEFAULT_PREFETCH)
            for part, amplitude in gathered:
                yield part, tf.constant(part, tf.int64), tf.constant(amplitude, self._dtype)
            return
        for start in range(0, len(batch), self._chunk):
            part = batch[start : start + self._chunk]
            index = tf.constant(part, tf.int64)
            yield part, index, tf.cast(tf.gather(self._measured, index), self._dtype)

    def _own(self, batch: NDArray) -> NDArray:
        """The positions of `batch` that this process computes."""
        shard = self._processes.shard(len(batch))
        return batch[shard.start : shard.stop]

    def _of_all(self, sums: ChunkSums, settings: PassSettings) -> ChunkSums:
        """The sums of all processes."""
        if self._processes.size == 1:
            return sums
        # a shard without positions has no sums of the probe
        if settings.with_probe and sums.probe_numerator is None:
            empty = tf.zeros_like(self._probe)
            sums = dataclasses.replace(sums, probe_numerator=empty, probe_denominator=tf.math.real(empty[0]))
        found = {}
        for name in ("residuals", "numerator", "probe_numerator", "probe_denominator"):
            value = getattr(sums, name)
            if value is not None:
                array = value.numpy()
                wide = np.complex128 if array.dtype.kind == "c" else np.float64
                added = np.ascontiguousarray(array, wide)
                self._processes.add_up(added.view(np.float64))
                found[name] = tf.constant(added, value.dtype)
        return dataclasses.replace(sums, **found)

    def _given(self, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Weights, held-out pixels, corners and fractions of a chunk."""
        weights = pixel_weights(self._valid, self._classes, index, self._problem.class_count)
        return *weights, *self._places(index)

    def _places(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(self._corners, index), tf.gather(self._fractions, index)

    def place(self, corners: NDArray, fractions: NDArray) -> None:
        """As the mirrored method."""
        with computing(self._execution):
            self._corners = tf.constant(corners, tf.int64)
            self._fractions = tf.constant(fractions, self._dtype)

    def keep(self) -> None:
        """As the mirrored method."""
        self._kept = self._canvas, self._probe

    def go_back(self) -> None:
        """As the mirrored method."""
        self._canvas, self._probe = self._kept
        with computing(self._execution):
            self._velocity, self._probe_velocity = tf.zeros_like(self._canvas), tf.zeros_like(self._probe)

    def mark(self) -> None:
        """As the mirrored method."""
        self._marked = self._canvas, self._velocity, self._probe, self._probe_velocity

    def return_to_mark(self) -> None:
        """As the mirrored method."""
        self._canvas, self._velocity, self._probe, self._probe_velocity = self._marked

    def canvas(self) -> NDArray:
        """As the mirrored method."""
        return self._canvas.numpy()

    def velocities(self) -> tuple[NDArray, NDArray]:
        """As the mirrored method."""
        return self._velocity.numpy(), self._probe_velocity.numpy()

    def set_velocities(self, velocity: NDArray, probe_velocity: NDArray) -> None:
        """As the mirrored method."""
        with computing(self._execution):
            self._velocity, self._probe_velocity = self._waves(velocity), self._waves(probe_velocity)

    def probe(self) -> NDArray:
        """As the mirrored method."""
        return self._probe.numpy()

    def set_probe(self, probe: NDArray, object_factor: float) -> None:
        """As the mirrored method."""
        with computing(self._execution):
            self._probe = self._waves(probe)
            self._canvas = self._canvas * object_factor
            self._velocity = self._velocity * object_factor

    def light(self) -> NDArray:
        """As the mirrored method."""
        with computing(self._execution):
            return illumination(self._corners, self._fractions, self._probe, self._problem.shape).numpy()

    def sweep(
        self,
        batches: Sequence[NDArray],
        gain: NDArray | None,
        settings: PassSettings,
        after_batch: Callable[[], None] | None = None,
    ) -> tuple[NDArray, NDArray | None]:
        """As the mirrored method."""
        problem = self._problem
        residuals = np.zeros(8)
        position_sums = np.zeros((problem.count, 5)) if settings.with_positions else None
        for batch in batches:
            with computing(self._execution):
                self._batch(batch, gain, settings, residuals, position_sums)
            if after_batch is not None:
                after_batch()
        if position_sums is not None:
            self._processes.add_up(position_sums)
        return residuals, position_sums

    def _batch(
        self,
        batch: NDArray,
        gain: NDArray | None,
        settings: PassSettings,
        residuals: NDArray,
        position_sums: NDArray | None,
    ) -> None:
        """One step; adds to `residuals`, and writes the `position_sums` of the batch."""
        canvas = self._canvas + constants.REFINEMENT_MOMENTUM * self._velocity
        probe = self._probe
        if settings.with_probe:
            probe = probe + constants.PROBE_MOMENTUM * self._probe_velocity
        chunk = self._graphs.chunk(settings.with_probe, settings.with_positions)
        total = ChunkSums(tf.zeros(8, tf.float64), tf.zeros_like(canvas))
        of_positions = []
        for part, index, measured in self._chunks(self._own(batch)):
            found = chunk(canvas, probe, measured, *self._given(index), total.numerator)
            names = ["probe_numerator", "probe_denominator"] * settings.with_probe
            names += ["position_sums"] * settings.with_positions
            sums = ChunkSums(found[0], found[1], **dict(zip(names, found[2:], strict=True)))
            total = total.plus(sums)
            of_positions.append((part, sums.position_sums))
        total = self._of_all(total, settings)
        numbers = (len(batch) / self._problem.count, settings.damping, settings.smoothness, settings.step)
        given = (
            canvas,
            total.numerator,
            self._probe,
            *self._places(tf.constant(batch, tf.int64)),
            *(tf.constant(number, self._dtype) for number in numbers),
        )
        if gain is None:
            moved = self._graphs.plain_step(*given)
        else:
            moved = self._graphs.step(*given, tf.constant(gain, self._dtype))
        self._velocity, self._canvas = moved - self._canvas, moved
        if settings.with_probe:
            moved = self._graphs.probe_step(probe, total.probe_numerator, total.probe_denominator)
            self._probe_velocity, self._probe = moved - self._probe, moved
        residuals += total.residuals.numpy()
        if position_sums is not None:
            for part, sums in of_positions:
                position_sums[part] = sums.numpy()

    def correct(self, weights: Mapping[str, NDArray]) -> None:
        """As the mirrored method."""
        with computing(self._execution):
            there = tensors_from_weights(weights, self._dtype)
            light = illumination(self._corners, self._fractions, self._probe, self._problem.shape)
            self._canvas = corrected_scan(self._canvas, light, there)
            self._velocity = tf.zeros_like(self._canvas)

    def evaluate(self) -> NDArray:
        """As the mirrored method."""
        residuals = tf.zeros(8, tf.float64)
        with computing(self._execution):
            for _, index, measured in self._chunks(self._own(np.arange(self._problem.count))):
                residuals += self._graphs.residuals(self._canvas, self._probe, measured, *self._given(index))
        found = np.array(residuals.numpy())
        self._processes.add_up(found)
        return found


def refine(
    plan: RefinementPlan,
    execution: ExecutionConfig,
    output_dir: str | os.PathLike[str] | None = None,
    on_pass: PassCallback | None = None,
) -> Reconstruction:
    """The refined image; several processes each compute their shard of every batch."""
    processes = process_group.process_group_of(execution)
    steps = Refiner(plan.problem, plan.state.canvas, plan.state.probe, execution, processes)
    return Refinement(plan, steps, "tensorflow", processes).run(output_dir, on_pass)
