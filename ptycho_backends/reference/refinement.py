"""Refinement of a whole scan: the steps of accelerated projections, all of them explicit (docs/refinement.md).

Shapes: n positions of a chunk, K probe modes, N pixels on the side of a pattern, (H, W) pixels of the canvas.
Images are `[y, x]`, corners and fractions `[x, y]`. Patterns have their zero frequency in the corner `[0, 0]`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ptycho_backends import constants
from ptycho_backends.reference.correction import corrected_scan
from ptycho_backends.values import ChunkSums, PassSettings, RefinementProblem

# --- views of the canvas and their adjoint


def views(canvas: NDArray, corners: NDArray, fractions: NDArray, N: int) -> NDArray:
    """The canvas as seen from each position, bilinear.

    Parameters
    ----------
    canvas : (H, W) array, [y, x]
    corners : (n, 2) integer array, [x, y]
        First pixel of each view.
    fractions : (n, 2) real array, [x, y]
        Position between that pixel and the next, in 0 .. 1.
    N : int

    Returns
    -------
    (n, N, N) array, [y, x]
    """
    return view_slopes(canvas, corners, fractions, N)[0]


def view_slopes(
    canvas: NDArray, corners: NDArray, fractions: NDArray, N: int
) -> tuple[NDArray, NDArray, NDArray]:
    """`views`, and their derivatives by the position's x and y; three arrays (n, N, N)."""
    right, down = fractions[:, 0, None, None], fractions[:, 1, None, None]
    steps = np.arange(N + 1)
    window = canvas[corners[:, 1, None, None] + steps[:, None], corners[:, 0, None, None] + steps]
    across = window[..., :-1] + (window[..., 1:] - window[..., :-1]) * right
    change = window[..., 1:] - window[..., :-1]
    seen = across[:, :-1] + (across[:, 1:] - across[:, :-1]) * down
    by_x = change[:, :-1] + (change[:, 1:] - change[:, :-1]) * down
    return seen, by_x, across[:, 1:] - across[:, :-1]


def spread(images: NDArray, corners: NDArray, fractions: NDArray, canvas: NDArray) -> NDArray:
    """Adjoint of `views`: `canvas` (H, W) with the images (n, N, N) added to it; the argument may be changed."""
    right, down = fractions[:, 0, None, None], fractions[:, 1, None, None]
    N = images.shape[-1]
    rows = np.zeros((len(images), N + 1, N), images.dtype)
    rows[:, 1:] = images * down
    rows[:, :-1] += images - images * down
    window = np.zeros((len(images), N + 1, N + 1), images.dtype)
    window[..., 1:] = rows * right
    window[..., :-1] += rows - rows * right
    for image, (x, y) in zip(window, corners, strict=True):
        canvas[y : y + N + 1, x : x + N + 1] += image
    return canvas


def illumination(corners: NDArray, fractions: NDArray, probe: NDArray, shape: tuple[int, int]) -> NDArray:
    """Light on each pixel of the canvas: the probe's intensity, spread from each position; real (H, W).

    Computed as one convolution: the positions as points, with the summed intensity of the modes.
    """
    right, down = fractions[:, 0], fractions[:, 1]
    points = np.zeros(shape, fractions.dtype)
    for dx, dy, weight in (
        (0, 0, (1 - right) * (1 - down)),
        (1, 0, right * (1 - down)),
        (0, 1, (1 - right) * down),
        (1, 1, right * down),
    ):
        np.add.at(points, (corners[:, 1] + dy, corners[:, 0] + dx), weight)
    kernel = np.zeros(shape, fractions.dtype)
    N = probe.shape[-1]
    kernel[:N, :N] = np.sum(np.abs(probe) ** 2, axis=0)
    light = np.fft.irfft2(np.fft.rfft2(points) * np.fft.rfft2(kernel), s=shape)
    return np.maximum(light, 0.0)


# --- one chunk of positions


def pixel_weights(
    valid: NDArray, classes: NDArray | None, numbers: NDArray, class_count: int
) -> tuple[NDArray, NDArray]:
    """Weights of the pixels that move the object, and of those that are held out and only judge.

    Parameters
    ----------
    valid : (N, N) real array, [ky, kx]
    classes : (N, N) integer array, [ky, kx], optional
        As in `RefinementProblem`; None holds nothing out.
    numbers : (n,) integer array
        Of the positions.
    class_count : int

    Returns
    -------
    weights, held_out : (n, N, N) real arrays, or (1, N, N) where nothing is held out
    """
    if classes is None:
        return valid[None], np.zeros_like(valid)[None]
    held_out = valid * (classes == (numbers % class_count)[:, None, None])
    return valid - held_out, held_out


def modulus_change(
    waves: NDArray, measured: NDArray, weights: NDArray, likelihood: str
) -> tuple[NDArray, NDArray]:
    r"""Change of exit waves towards the measured modulus.

    .. math:: d_p = w \, F^{-1}[ (a / m - 1) F \psi_p ], \quad m^2 = \sum_p |F \psi_p|^2

    and for the Poisson likelihood :math:`(a^2 / m^2 - 1) / 2` in place of the bracket's factor.

    Parameters
    ----------
    waves : (n, K, N, N) complex array, [y, x]
    measured : (n, N, N) real array, [ky, kx]
        Roots of counts `a`.
    weights : (n, N, N) or (1, N, N) real array, [ky, kx]
        0 where a pixel takes no part: the model's own modulus stays there.
    likelihood : {'amplitude', 'poisson'}

    Returns
    -------
    change : (n, K, N, N) complex array, [y, x]
    amplitude : (n, N, N) real array, [ky, kx]
        Predicted `m`.
    """
    far = np.fft.fft2(waves, norm="ortho")
    intensity = np.sum(far.real**2 + far.imag**2, axis=1)
    amplitude = np.sqrt(intensity)
    if likelihood == "poisson":
        factor = 0.5 * (measured**2 / (intensity + constants.POISSON_FLOOR) - 1.0)
    else:
        factor = measured / (amplitude + constants.MODULUS_FLOOR) - 1.0
    change = np.fft.ifft2(far * (factor * weights)[:, None], norm="ortho")
    return change, amplitude


def residual_sums(measured: NDArray, amplitude: NDArray, weights: NDArray, held_out: NDArray) -> NDArray:
    """What is left between measured and predicted amplitudes of a chunk, as (8,) float64 sums.

    In this order, over the pixels that `weights` select: squared residuals, squared measured amplitudes; squared
    residuals and number of pixels where the prediction exceeds `BRIGHT_AMPLITUDE`; absolute residuals, measured
    amplitudes; then over `held_out` squared residuals and squared measured amplitudes.
    """
    residual = measured - amplitude
    squared = residual**2
    bright = weights * (amplitude > constants.BRIGHT_AMPLITUDE)
    return np.array(
        [
            np.sum(squared * weights),
            np.sum(measured**2 * weights),
            np.sum(squared * bright),
            np.sum(bright),
            np.sum(np.abs(residual) * weights),
            np.sum(measured * weights),
            np.sum(squared * held_out),
            np.sum(measured**2 * held_out),
        ],
        np.float64,
    )


def chunk_sums(
    canvas: NDArray,
    probe: NDArray,
    measured: NDArray,
    weights: NDArray,
    held_out: NDArray,
    corners: NDArray,
    fractions: NDArray,
    numerator: NDArray,
    likelihood: str,
    *,
    with_probe: bool,
    with_positions: bool,
) -> ChunkSums:
    """The sums over a chunk of positions that a step needs.

    Parameters
    ----------
    canvas : (H, W) complex array, [y, x]
        Object, `Y` of docs/refinement.md.
    probe : (K, N, N) complex array, [y, x]
    measured : (n, N, N) real array, [ky, kx]
    weights, held_out : (n, N, N) or (1, N, N) real arrays, [ky, kx]
        As `pixel_weights`.
    corners, fractions : (n, 2) arrays, [x, y]
    numerator : (H, W) complex array, [y, x]
        Sum of the chunks before, which this one's is added to.
    likelihood : {'amplitude', 'poisson'}
    with_probe, with_positions : bool
        Compute these sums as well; they are None otherwise.
    """
    seen, by_x, by_y = view_slopes(canvas, corners, fractions, probe.shape[-1])
    change, amplitude = modulus_change(probe * seen[:, None], measured, weights, likelihood)
    towards = np.sum(probe.conj() * change, axis=1)
    found: dict[str, NDArray] = {}
    if with_probe:
        found["probe_numerator"] = np.sum(seen.conj()[:, None] * change, axis=0)
        found["probe_denominator"] = np.sum(np.abs(seen) ** 2, axis=0)
    if with_positions:
        lit = np.sum(np.abs(probe) ** 2, axis=0)
        equations = (
            (by_x.conj() * towards).real,
            (by_y.conj() * towards).real,
            lit * np.abs(by_x) ** 2,
            lit * (by_x.conj() * by_y).real,
            lit * np.abs(by_y) ** 2,
        )
        found["position_sums"] = np.stack([np.sum(term, axis=(1, 2)) for term in equations], axis=-1)
    return ChunkSums(
        residual_sums(measured, amplitude, weights, held_out),
        spread(towards, corners, fractions, numerator),
        **found,
    )


# --- one step


def differences(canvas: NDArray) -> tuple[NDArray, NDArray]:
    """Forward differences along x and along y; zero at the far edge."""
    by_x, by_y = np.zeros_like(canvas), np.zeros_like(canvas)
    by_x[:, :-1] = canvas[:, 1:] - canvas[:, :-1]
    by_y[:-1] = canvas[1:] - canvas[:-1]
    return by_x, by_y


def differences_adjoint(by_x: NDArray, by_y: NDArray) -> NDArray:
    """Adjoint of `differences`, for values that are zero at the far edges as theirs are."""
    canvas = -by_x - by_y
    canvas[:, 1:] += by_x[:, :-1]
    canvas[1:] += by_y[:-1]
    return canvas


def roughness(canvas: NDArray, edge: float) -> NDArray:
    """Gradient of the smoothness prior: squared differences, but linear beyond `edge`; (H, W) complex."""
    by_x, by_y = differences(canvas)
    weight = 1.0 / np.sqrt(1.0 + (np.abs(by_x) ** 2 + np.abs(by_y) ** 2) / edge**2)
    return differences_adjoint(weight * by_x, weight * by_y)


def slow_gain(shape: tuple[int, int], width_px: float, strength: float, floor: float) -> NDArray:
    """Gain of the second metric, for slow variations of the phase, per frequency of the real FFT; zero at zero.

    .. math:: g(k) = s / (k^2 w^2 + f)

    Parameters
    ----------
    shape : (H, W)
    width_px : float
        Root-mean-square radius of the probe `w`, along one axis.
    strength : float
        `s`; less than the pace's where slow phases are not to be trusted.
    floor : float
        `f`, which holds the gain of the slowest variations at `s / f`.
    """
    rows, columns = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    squared = (2 * np.pi * width_px) ** 2 * (rows[:, None] ** 2 + columns**2)
    gain = strength / (squared + floor)
    gain[0, 0] = 0.0
    return gain


def object_step(
    canvas: NDArray,
    numerator: NDArray,
    light: NDArray,
    gain: NDArray | None,
    fraction: float,
    settings: PassSettings,
) -> NDArray:
    """The object after one step, in the metric of the illumination and in that of slow phases.

    Parameters
    ----------
    canvas : (H, W) complex array, [y, x]
        `Y`, the object with its momentum.
    numerator : (H, W) complex array, [y, x]
        Sum over the batch of conj(P) d, spread.
    light : (H, W) real array, [y, x]
        `illumination` of the batch.
    gain : (H, W // 2 + 1) real array, optional
        `slow_gain`.
    fraction : float
        Positions of the batch over those of the scan.
    settings : PassSettings
    """
    brightest = np.max(light)
    smoothness = settings.smoothness * fraction
    towards = numerator - smoothness * roughness(canvas, constants.EDGE)
    # 8 is the largest eigenvalue of the differences' normal matrix
    change = settings.step * towards / (light + settings.damping * brightest + 8.0 * smoothness)
    moved = canvas + change
    if gain is None:
        return moved
    trusted = light / (light + constants.LOW_LIGHT * brightest)
    turn = np.imag(change * canvas.conj()) / (np.abs(canvas) ** 2 + constants.DARK_OBJECT) * trusted
    slow = np.fft.irfft2(np.fft.rfft2(turn) * gain, s=turn.shape)
    return moved * np.exp(1j * slow)


def probe_step(probe: NDArray, numerator: NDArray, denominator: NDArray) -> NDArray:
    """The probe modes (K, N, N) after one step in the metric of the object's intensity."""
    metric = denominator + constants.PROBE_DAMPING * np.max(denominator)
    return probe + constants.PROBE_STEP * numerator / metric


class Refiner:
    """Object and probe of a refinement, and the passes that move them.

    Parameters
    ----------
    problem : RefinementProblem
    canvas : (H, W) complex array, [y, x]
    probe : (K, N, N) complex array, [y, x]
    """

    def __init__(self, problem: RefinementProblem, canvas: NDArray, probe: NDArray) -> None:
        self._problem = problem
        self._canvas = np.asarray(canvas, np.complex128)
        self._probe = np.asarray(probe, np.complex128)
        self._velocity, self._probe_velocity = np.zeros_like(self._canvas), np.zeros_like(self._probe)
        self.keep()

    def _weights(self, numbers: NDArray) -> tuple[NDArray, NDArray]:
        problem = self._problem
        valid = np.asarray(problem.valid, np.float64)
        return pixel_weights(valid, problem.classes, numbers, problem.class_count)

    def place(self, corners: NDArray, fractions: NDArray) -> None:
        """Set the positions: corners (M, 2) int64 and fractions (M, 2) float64, `[x, y]`."""
        self._corners, self._fractions = corners, np.asarray(fractions, np.float64)

    def keep(self) -> None:
        """Remember object and probe, for `go_back`."""
        self._kept = self._canvas, self._probe

    def go_back(self) -> None:
        """Return to the object and the probe that were kept, without momentum."""
        self._canvas, self._probe = self._kept
        self._velocity, self._probe_velocity = np.zeros_like(self._canvas), np.zeros_like(self._probe)

    def mark(self) -> None:
        """Remember object, probe and momenta, for `return_to_mark`."""
        self._marked = self._canvas, self._velocity, self._probe, self._probe_velocity

    def return_to_mark(self) -> None:
        """Return to the object, the probe and the momenta of `mark`."""
        self._canvas, self._velocity, self._probe, self._probe_velocity = self._marked

    def canvas(self) -> NDArray:
        """(H, W) complex, the object."""
        return self._canvas

    def velocities(self) -> tuple[NDArray, NDArray]:
        """Momenta of object (H, W) and probe (K, N, N)."""
        return self._velocity, self._probe_velocity

    def set_velocities(self, velocity: NDArray, probe_velocity: NDArray) -> None:
        """Restore momenta."""
        self._velocity = np.asarray(velocity, np.complex128)
        self._probe_velocity = np.asarray(probe_velocity, np.complex128)

    def probe(self) -> NDArray:
        """(K, N, N) complex, the probe modes."""
        return self._probe

    def set_probe(self, probe: NDArray, object_factor: float) -> None:
        """Replace the probe, and multiply the object and its momentum by `object_factor`."""
        self._probe = np.asarray(probe, np.complex128)
        self._canvas = self._canvas * object_factor
        self._velocity = self._velocity * object_factor

    def light(self) -> NDArray:
        """(H, W) real, the illumination of the whole scan."""
        return illumination(self._corners, self._fractions, self._probe, self._problem.shape)

    def correct(self, weights: Mapping[str, NDArray]) -> None:
        """Add the learned correction of the network `unrolled` to the object, and stop its momentum."""
        self._canvas = corrected_scan(
            self._canvas,
            self.light(),
            {name: np.asarray(value, np.float64) for name, value in weights.items()},
        )
        self._velocity = np.zeros_like(self._canvas)

    def sweep(
        self,
        batches: Sequence[NDArray],
        gain: NDArray | None,
        settings: PassSettings,
        after_batch: Callable[[], None] | None = None,
    ) -> tuple[NDArray, NDArray | None]:
        """One pass: a step for each batch of position numbers.

        Parameters
        ----------
        batches : sequence of integer arrays
        gain : (H, W // 2 + 1) real array, optional
            `slow_gain`.
        settings : PassSettings
        after_batch : callable, optional
            Called after each step; it may raise, and the object is then that of the last whole step.

        Returns
        -------
        residuals : (8,) float64
            As `residual_sums`, each batch before its step.
        position_sums : (M, 5) float64, optional
            Normal equations of each position: right-hand sides by x and y, and the matrix entries xx, xy, yy.
        """
        problem = self._problem
        residuals = np.zeros(8)
        position_sums = np.zeros((problem.count, 5)) if settings.with_positions else None
        for batch in batches:
            canvas = self._canvas + constants.REFINEMENT_MOMENTUM * self._velocity
            probe = self._probe
            if settings.with_probe:
                probe = probe + constants.PROBE_MOMENTUM * self._probe_velocity
            total = ChunkSums(np.zeros(8), np.zeros_like(canvas))
            for part, measured in problem.chunks(batch):
                sums = chunk_sums(
                    canvas, probe, measured.astype(np.float64), *self._weights(part), self._corners[part],
                    self._fractions[part], total.numerator, problem.likelihood,
                    with_probe=settings.with_probe, with_positions=settings.with_positions,
                )  # fmt: skip
                total = total.plus(sums)
                if position_sums is not None:
                    position_sums[part] = sums.position_sums
            residuals += total.residuals
            light = illumination(self._corners[batch], self._fractions[batch], self._probe, problem.shape)
            moved = object_step(canvas, total.numerator, light, gain, len(batch) / problem.count, settings)
            self._velocity, self._canvas = moved - self._canvas, moved
            if settings.with_probe:
                moved = probe_step(probe, total.probe_numerator, total.probe_denominator)
                self._probe_velocity, self._probe = moved - self._probe, moved
            if after_batch is not None:
                after_batch()
        return residuals, position_sums

    def evaluate(self) -> NDArray:
        """Sums of `residual_sums` (8,) over the whole scan, without a step."""
        residuals = np.zeros(8)
        problem = self._problem
        for part, measured in problem.chunks(np.arange(problem.count)):
            seen = views(self._canvas, self._corners[part], self._fractions[part], problem.side)
            far = np.fft.fft2(self._probe * seen[:, None], norm="ortho")
            amplitude = np.sqrt(np.sum(far.real**2 + far.imag**2, axis=1))
            residuals += residual_sums(measured.astype(np.float64), amplitude, *self._weights(part))
        return residuals
