"""The plan of a refinement: frames, pixels, canvas, probe and start, decided before a framework is touched."""

import dataclasses
import logging
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.config import RefinementConfig, validate
from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.reference import refinement as reference
from ptycho_backends.reference.initial_weights import PROBE, correction_weights
from ptycho_backends.reference.probe import probe_with_modes
from ptycho_backends.refinement.probe_start import guessed_probe
from ptycho_backends.refinement.schedule import along_a_snake, batches_of_passes, phases
from ptycho_backends.scans.extent import require_sane_canvas
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import (
    Reconstruction,
    RefinementProblem,
    RefinementRecord,
    TrainedModel,
    Weights,
)

log = logging.getLogger(__name__)

# Frames whose energy is outside these multiples of the median are no measurement of the object.
EMPTY_FRAME, BRIGHT_FRAME = 1e-3, 8.0
# Pixels around the scan that positions and the probe may move into.
MARGIN_PX, PROBE_MARGIN_PX, POSITION_MARGIN_PX = 2, 2, 6
# Stream of the random numbers that hold pixels out; passes, counted from 1, have their own.
HELD_OUT_STREAM = 0
# Positions whose predicted patterns give the start's scale.
SCALED_BY = 64


@dataclass(eq=False)
class RefinementState:
    """Everything that moves in a refinement, in double precision.

    Attributes
    ----------
    canvas, velocity : (H, W) complex128, [y, x]
        Object, and its last step, which is its momentum.
    probe, probe_velocity : (K, N, N) complex128, [y, x]
        In roots of counts: its power is the mean energy of a pattern.
    positions_px : (M, 2) float64, [x, y]
        Of the frames that are used.
    common_shift_px : (2,) float64, [x, y]
        By which all positions together have followed the probe.
    step : float
        Length of the object's steps; halved where they diverged.
    misfit : float
        Chi-square of the bright pixels, at least 1.
    trust : float
        In slow phases; at most 1.
    dose : float, optional
        Photons of an object pixel, where there is light, at the start; None before it, and in files of earlier
        versions.
    passes : list of RefinementRecord
    origin : (int, int), optional
        Seed, and a checksum of positions and counts: what the state is of. None in files of earlier versions.
    """

    canvas: NDArray[np.complex128]
    velocity: NDArray[np.complex128]
    probe: NDArray[np.complex128]
    probe_velocity: NDArray[np.complex128]
    positions_px: NDArray[np.float64]
    common_shift_px: NDArray[np.float64]
    step: float = 1.0
    misfit: float = 1.0
    trust: float = 1.0
    dose: float | None = None
    passes: list[RefinementRecord] = dataclasses.field(default_factory=list)
    origin: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class RefinementPlan:
    """A refinement before its first pass.

    Attributes
    ----------
    config : RefinementConfig
        Complete: `n_probe_modes` and `refine_probe` are settled.
    scan : Scan
    used : (M,) int64
        Numbers of the frames that are used.
    problem : RefinementProblem
    origin_px : (2,) float64
        `[x, y]` of the pixel `canvas[0, 0]`, in the coordinates of the positions.
    margin_px : int
        Pixels around the patches of the given positions.
    energy : float
        Mean energy of a whole pattern, in counts: the probe's power.
    probe_centre_px : (2,) float64
        Centre of mass of the first probe's intensity, `[x, y]` from its middle; held.
    batches : list of int
        Number of batches of each pass.
    snake : (M,) int64
        Order of the positions, for `even_batches`.
    state : RefinementState
    start : Reconstruction, optional
        The image that is refined; None for a flat object.
    correction : mapping of arrays, optional
        Weights of the network `unrolled` whose correction follows the last pass; None for no correction.
    """

    config: RefinementConfig
    scan: Scan
    used: NDArray[np.int64]
    problem: RefinementProblem
    origin_px: NDArray[np.float64]
    margin_px: int
    energy: float
    probe_centre_px: NDArray[np.float64]
    batches: list[int]
    snake: NDArray[np.int64]
    state: RefinementState
    start: Reconstruction | None = None
    correction: Weights | None = None

    def geometry(self, state: RefinementState) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Corners (M, 2) and fractions (M, 2) of the views, `[x, y]`."""
        corner = state.positions_px + state.common_shift_px - self.origin_px - self.problem.side // 2
        first = np.floor(corner)
        return first.astype(np.int64), corner - first

    def position_limits(self, state: RefinementState) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and largest positions `[x, y]` whose views lie on the canvas."""
        side, (height, width) = self.problem.side, self.problem.shape
        least = self.origin_px + side // 2 - state.common_shift_px
        return least + 0.01, least + np.array([width, height]) - side - 1.01


def plan_refinement(
    start: Reconstruction | None,
    scan: Scan,
    config: RefinementConfig | None = None,
    model: TrainedModel | None = None,
) -> RefinementPlan:
    """Decide everything about a refinement of `scan`.

    Parameters
    ----------
    start : Reconstruction, optional
        Image to refine, on any canvas; None for a flat object.
    scan : Scan
        Without a probe, one is guessed from the mean pattern and refined.
    config : RefinementConfig, optional
    model : TrainedModel, optional
        Of the architecture `unrolled`: its correction follows the passes, and its probe lights a scan that has none.

    Raises
    ------
    ConfigError, ScanError
        Before anything is computed: invalid settings, stray positions, an odd size, no light.
    """
    config = RefinementConfig() if config is None else dataclasses.replace(config)
    validate(config)
    if model is not None and model.config.model.architecture != "unrolled":
        raise ConfigError(
            f"model: got the architecture {model.config.model.architecture!r}, want 'unrolled', whose correction works "
            "on any canvas; start from the image of this model instead"
        )
    if scan.N % 2 or scan.N < 16:
        raise ScanError(f"{scan.name}: got patterns of {scan.N} pixels, want an even number from 16 up")
    require_sane_canvas(scan.scan_positions_px, scan.N, scan.name)
    used = _used_frames(scan)
    known = _known_modes(scan, model)
    guessed = known is None
    modes = guessed_probe(scan, used)[None] if known is None else known
    count = config.n_probe_modes or len(modes)
    if config.refine_probe is None:
        config.refine_probe = guessed or count > len(modes)
    config.n_probe_modes = count
    if count > len(modes):
        log.info("%s: %d probe modes made from the main one", scan.name, count - len(modes))
    energy = float(scan.energies_of(used).mean()) / scan.lit_fraction
    probe = probe_with_modes(modes.astype(np.complex128), count)
    probe = probe * np.sqrt(energy / np.sum(np.abs(probe) ** 2))
    margin = MARGIN_PX + (POSITION_MARGIN_PX if config.refine_positions else 0)
    margin += PROBE_MARGIN_PX if config.refine_probe else 0
    positions = scan.positions_of(used)
    origin = np.floor(positions.min(axis=0) - scan.N // 2) - margin
    width, height = (np.ceil(positions.max(axis=0) - origin + scan.N // 2) + margin + 2).astype(int)
    problem = _problem(scan, used, (int(height), int(width)), config)
    empty = np.zeros(problem.shape, np.complex128)
    state = RefinementState(
        empty + 1.0,
        empty,
        probe,
        np.zeros_like(probe),
        positions,
        np.zeros(2),
        origin=_origin_of(scan, used, config),
    )
    plan = RefinementPlan(
        config, scan, used, problem, origin, margin, energy, centre_of_mass_px(probe),
        batches_of_passes(phases(config.passes, config.pace)), along_a_snake(positions), state, start,
        None if model is None else correction_weights(model.weights),
    )  # fmt: skip
    if start is not None:
        state.canvas = _scaled(plan, on_canvas(start, origin, problem.shape))
    return plan


def _origin_of(scan: Scan, used: NDArray[np.int64], config: RefinementConfig) -> tuple[int, int]:
    """`RefinementState.origin`."""
    numbers = np.stack([*scan.positions_of(used).T, scan.energies_of(used)])
    return config.seed, zlib.crc32(numbers.astype(np.float32).tobytes())


def _known_modes(scan: Scan, model: TrainedModel | None) -> NDArray[np.complexfloating] | None:
    """Probe modes (K, N, N) of the scan, else those of the model; None where neither has any of that side."""
    if scan.probe_modes is not None or model is None:
        return scan.probe_modes
    probe = np.asarray(model.weights[PROBE])
    probe = probe[0] if probe.ndim == 4 else probe
    return probe.reshape(-1, *probe.shape[-2:]) if probe.shape[-1] == scan.N else None


def centre_of_mass_px(probe: NDArray[np.complex128]) -> NDArray[np.float64]:
    """(2,) float64, centre of mass of the summed intensity of modes (K, N, N), `[x, y]` from pixel `N // 2`."""
    intensity = np.sum(np.abs(probe) ** 2, axis=0)
    axis = np.arange(len(intensity)) - len(intensity) // 2
    total = intensity.sum()
    return np.array([(intensity * axis).sum(), (intensity * axis[:, None]).sum()]) / total


def width_px(probe: NDArray[np.complex128]) -> float:
    """Root-mean-square radius of the summed intensity of modes (K, N, N), along one axis."""
    intensity = np.sum(np.abs(probe) ** 2, axis=0)
    axis = np.arange(len(intensity)) - len(intensity) // 2
    x, y = centre_of_mass_px(probe)
    squared = (axis - x) ** 2 + (axis[:, None] - y) ** 2
    return float(np.sqrt((intensity * squared).sum() / intensity.sum() / 2))


def on_canvas(
    image: Reconstruction, origin_px: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.complex128]:
    """`image` on another canvas, bilinear; 1 where it is not known."""
    known = np.asarray(image.coverage) > 0
    values = np.where(known, image.object, 0).astype(np.complex128)
    corner = (origin_px - image.origin_px)[None]
    first = np.floor(corner).astype(np.int64)
    fraction = corner - first
    weight = _window(known.astype(np.float64), first[0], fraction[0], shape)
    moved = _window(values, first[0], fraction[0], shape)
    # a constant phase is free, and 1 is where nothing is known
    mean = np.sum(moved[weight > 0.5]) if (weight > 0.5).any() else 1.0
    turn = np.exp(-1j * np.angle(mean)) if mean != 0 else 1.0
    return np.where(weight > 0.5, turn * moved / np.where(weight > 0.5, weight, 1.0), 1.0)


def _window(
    image: NDArray, first: NDArray[np.int64], fraction: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray:
    """A window of `shape` into `image` from the pixel `first` `[x, y]` on, moved by `fraction`; 0 outside."""
    rows, columns = first[1] + np.arange(shape[0] + 1), first[0] + np.arange(shape[1] + 1)
    inside = np.ix_((rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1]))
    window = np.zeros((shape[0] + 1, shape[1] + 1), image.dtype)
    window[inside] = image[np.ix_(rows[inside[0][:, 0]], columns[inside[1][0]])]
    across = window[:, :-1] * (1 - fraction[0]) + window[:, 1:] * fraction[0]
    return across[:-1] * (1 - fraction[1]) + across[1:] * fraction[1]


def _scaled(plan: RefinementPlan, canvas: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """`canvas` times the factor that gives predicted patterns the measured energy."""
    count = plan.problem.count
    few = np.unique(np.linspace(0, count - 1, min(count, SCALED_BY)).astype(int))
    corners, fractions = plan.geometry(plan.state)
    seen = reference.views(canvas, corners[few], fractions[few], plan.problem.side)
    predicted = float(np.sum(np.abs(plan.state.probe * seen[:, None]) ** 2))
    measured = float(plan.scan.energies_of(plan.used[few]).sum()) / plan.scan.lit_fraction
    if predicted == 0.0:
        raise ScanError(
            f"{plan.scan.name}: the start is empty (all zeros) where the scan is; start from another image"
        )
    return canvas * np.sqrt(measured / predicted)


def _used_frames(scan: Scan) -> NDArray[np.int64]:
    """Numbers of the frames that measure something; the log states which are left out, and why."""
    energies = scan.pattern_energies
    median = float(np.median(energies[energies > 0])) if (energies > 0).any() else 0.0
    if median == 0.0:
        raise ScanError(f"{scan.name}: every pattern is empty (all zeros)")
    for numbers, why in (
        (np.flatnonzero(energies < EMPTY_FRAME * median), "empty"),
        (
            np.flatnonzero(energies > BRIGHT_FRAME * median),
            f"more than {BRIGHT_FRAME:g} times as bright as most",
        ),
    ):
        if len(numbers):
            listed = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
            log.warning("%s: %d frames are left out (%s): %s", scan.name, len(numbers), why, listed)
    return np.flatnonzero((energies >= EMPTY_FRAME * median) & (energies <= BRIGHT_FRAME * median))


def _problem(
    scan: Scan, used: NDArray[np.int64], shape: tuple[int, int], config: RefinementConfig
) -> RefinementProblem:
    valid = np.ones((scan.N, scan.N), bool) if scan.valid_pixels is None else scan.valid_pixels
    classes, class_count = None, 0
    if config.held_out_fraction > 0:
        # every pixel is held out of some patterns, so that nothing goes unmeasured
        class_count = max(2, round(1 / config.held_out_fraction))
        classes = np.random.default_rng([config.seed, HELD_OUT_STREAM]).integers(
            class_count, size=valid.shape
        )
    return RefinementProblem(
        count=len(used),
        side=scan.N,
        shape=shape,
        valid=np.fft.ifftshift(valid).astype(np.float32),
        classes=classes,
        class_count=class_count,
        likelihood=config.likelihood,
        gather=MeasuredAmplitudes(scan, used),
    )


@dataclass(frozen=True, eq=False)
class MeasuredAmplitudes:
    """Gathers the measured amplitudes of used frames, zero frequency in the corner; travels to other processes."""

    scan: Scan
    used: NDArray[np.int64]

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        amplitude = self.scan.diffraction_amplitude(self.used[numbers])
        return np.fft.ifftshift(amplitude, axes=(-2, -1))


def resumed_plan(plan: RefinementPlan, state: RefinementState) -> RefinementPlan:
    """`plan`, going on from `state`.

    Raises
    ------
    ConfigError
        If `state` is of another scan, of another set-up, or has no passes left.
    """
    for name in ("canvas", "probe", "positions_px"):
        got, want = getattr(state, name).shape, getattr(plan.state, name).shape
        if got != want:
            raise ConfigError(
                f"resume_from: its {name} has shape {got}, want {want} as this scan and these settings give; "
                "refine with the settings it was made with, or from the start"
            )
    made, here = state.origin or plan.state.origin, plan.state.origin
    if made is not None and here is not None and made[1] != here[1]:
        raise ConfigError(
            f"resume_from: it is of another scan than {plan.scan.name}, of other positions or another mask; refine "
            "from the start"
        )
    if made is not None and here is not None and made[0] != here[0]:
        raise ConfigError(
            f"seed: got {here[0]}, want {made[0]} as in the refinement that is resumed: another one would use the "
            "pixels held out so far; or refine from the start"
        )
    if len(state.passes) >= len(plan.batches):
        raise ConfigError(
            f"passes: got {len(plan.batches)}, but {len(state.passes)} are done already; ask for more, or refine "
            "from its image"
        )
    return dataclasses.replace(plan, state=state)
