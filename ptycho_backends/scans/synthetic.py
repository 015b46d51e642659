"""Scans of synthetic objects, drawn as they are needed: the same probe, dose and step as an experiment, any sample.

The forward model is that of `simulate_scan`, in single precision; it takes half as long, mostly for the noise.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ScanError
from ptycho_backends.scans.extent import require_sane_canvas
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.simulate import fermat_spiral, lit_pixels
from ptycho_backends.scans.statistics import mean_photons, median_step_px
from ptycho_backends.scans.synthetic_object import Kind, synthetic_object

Arrangement = Literal["raster", "hexagonal", "spiral"]
ARRANGEMENTS: tuple[Arrangement, ...] = ("raster", "hexagonal", "spiral")

# Pixels of patterns that are computed at once: 2 MB of complex64, which stay in the cache.
CHUNK_PIXELS = 2**18

# Largest displacement of a position along each axis, in steps; drawn up to this for each scan.
MOST_JITTER = 0.2
# Rows and columns of a raster span areas of this ratio and its inverse.
MOST_ELONGATION = 1.6

# `SyntheticScans.like` draws photons and steps up to these factors above and below those measured.
PHOTONS_SPREAD = 2.0
STEP_SPREAD = 1.25

LEAST_PATTERNS = 2

Range = float | tuple[float, float]
"""A number, or the smallest and the largest of numbers that are drawn log-uniformly."""


def synthetic_positions(
    count: int,
    step_px: float,
    generator: np.random.Generator,
    *,
    jitter: float | None = None,
    arrangement: Arrangement | None = None,
) -> NDArray[np.float64]:
    """Positions of a scan around (0, 0), of a random arrangement.

    Parameters
    ----------
    count : int
        At least 2.
    step_px : float
        Median distance to the nearest neighbour, pixels; exactly, because positions are stretched to it.
    generator : numpy.random.Generator
    jitter : float, optional
        Largest displacement of a position along each axis, in steps. Default: drawn up to 0.2.
    arrangement : {'raster', 'hexagonal', 'spiral'}, optional
        Rows and columns, rows that are shifted against one another, or a Fermat spiral. Default: drawn.

    Returns
    -------
    (count, 2) float64 array, [x, y]

    Raises
    ------
    ScanError
    """
    if count < LEAST_PATTERNS:
        raise ScanError(f"count: got {count}, want at least {LEAST_PATTERNS} positions")
    _limits("step_px", step_px)
    jitter = generator.uniform(0.0, MOST_JITTER) if jitter is None else jitter
    if not 0 <= jitter < 0.5:
        raise ScanError(f"jitter: got {jitter!r}, want a number of steps in 0 .. 0.5")
    if arrangement is not None and arrangement not in ARRANGEMENTS:
        raise ScanError(f"arrangement: got {arrangement!r}, want one of {', '.join(ARRANGEMENTS)}")
    chosen = ARRANGEMENTS[generator.integers(len(ARRANGEMENTS))] if arrangement is None else arrangement
    if chosen == "spiral":
        positions = fermat_spiral(count, 1.0)
    else:
        elongation = math.exp(generator.uniform(-1.0, 1.0) * math.log(MOST_ELONGATION))
        columns = max(1, round(math.sqrt(count * elongation)))
        row, column = np.divmod(np.arange(count), columns)
        hexagonal = chosen == "hexagonal"
        positions = np.stack(
            [column + (row % 2) / 2 * hexagonal, row * (math.sqrt(0.75) if hexagonal else 1.0)], axis=-1
        )
    positions = positions + generator.uniform(-jitter, jitter, (count, 2))
    positions -= positions.mean(axis=0)
    return positions * (step_px / median_step_px(positions))


def synthetic_scan(
    probe: NDArray,
    positions_px: ArrayLike,
    photons: float,
    generator: np.random.Generator,
    *,
    kind: Kind | None = None,
    poisson: bool = True,
    valid_pixels: NDArray[np.bool_] | None = None,
    name: str = "synthetic",
) -> Scan:
    """Photon counts of a `synthetic_object` that all patches lie in.

    Parameters
    ----------
    probe : (N, N) or (modes, N, N) complex array, [y, x]
        Of any scale.
    positions_px : (M, 2) array, [x, y]
        Patch centres around any origin; those of the scan are moved, as a whole, into the object.
    photons : float
        Mean counts of a pattern.
    generator : numpy.random.Generator
        Of the object and of the noise; the same state gives the same scan.
    kind : {'leaves', 'texture', 'lines', 'mixed'}, optional
        As in `synthetic_object`.
    poisson : bool
        Draw counts, uint32; else keep their expectation, float32.
    valid_pixels : (N, N) bool array, [ky, kx], optional
        As in `Scan`.
    name : str

    Returns
    -------
    Scan
        `object_guess` is the truth, and `probe_modes` are scaled to it:
        `sum_p |FFT2_ortho(probe_p * patch)|^2` are the expected counts.

    Raises
    ------
    ScanError, ShapeError
        If photons are not positive, positions far apart, the probe is dark, or an array has the wrong shape.

    References
    ----------
    docs/model.md, section 2, item 4.
    """
    modes = checks.complex_modes("probe", probe)
    N = modes.shape[-1]
    photons, _ = _limits("photons", photons)
    positions = checks.as_array("positions_px", positions_px, "iuf", "real numbers").astype(np.float64)
    checks.require_shape("positions_px", positions, (None, 2), ("positions", "xy"))
    checks.require_finite("positions_px", positions)
    if len(positions) == 0:
        raise ScanError("positions_px: the scan is empty, want at least one position")
    require_sane_canvas(positions, N, name)
    # a pixel to spare at the rim, and another for the random fraction
    positions = positions - positions.min(axis=0) + N // 2 + 1 + generator.uniform(0.0, 1.0, 2)
    columns, rows = (math.ceil(reach) + N - N // 2 + 2 for reach in positions.max(axis=0))
    image = synthetic_object((rows, columns), generator, kind)
    values = _intensities(image, modes, positions)
    energy = float(values.sum(dtype=np.float64)) / len(positions)
    if not energy > 0:
        raise ScanError("probe: got one without any light")
    values *= photons / energy
    modes *= np.float32(math.sqrt(photons / energy))
    return Scan(
        xcoords=positions[:, 0],
        ycoords=positions[:, 1],
        patterns=generator.poisson(values).astype(np.uint32) if poisson else values,
        probe_guess=modes,
        object_guess=image,
        object_mask=lit_pixels(image.shape, modes, positions),
        measurement="intensity",
        valid_pixels=valid_pixels,
        name=name,
    )


def _intensities(
    image: NDArray[np.complex64], modes: NDArray[np.complex64], positions_px: NDArray[np.float64]
) -> NDArray[np.float32]:
    """(M, N, N) diffraction intensities in single precision; every patch lies within `image`."""
    N = modes.shape[-1]
    corner = positions_px - N // 2
    first = np.floor(corner).astype(np.int64)
    right, down = (corner - first).astype(np.float32).T[:, :, None, None]
    windows = np.lib.stride_tricks.sliding_window_view(image, (N + 1, N + 1))
    intensities = np.zeros((len(positions_px), N, N), np.float32)
    chunk = max(1, CHUNK_PIXELS // (N * N))
    for start in range(0, len(positions_px), chunk):
        part = slice(start, start + chunk)
        window = windows[first[part, 1], first[part, 0]]
        across = window[..., :-1] + right[part] * (window[..., 1:] - window[..., :-1])
        views = across[:, :-1] + down[part] * (across[:, 1:] - across[:, :-1])
        for mode in modes:
            waves = scipy.fft.fft2(mode * views, norm="ortho", overwrite_x=True)
            intensities[part] += waves.real**2 + waves.imag**2
    return np.fft.fftshift(intensities, axes=(-2, -1))


@dataclass(frozen=True, eq=False)
class SyntheticScans:
    """Any number of synthetic scans with one probe, each made when it is asked for.

    Attributes
    ----------
    probe_modes : (N, N) or (modes, N, N) complex array, [y, x]
        Of any scale; the attribute is (modes, N, N) complex64.
    photons : float or (float, float)
        Mean counts of a pattern; of two numbers, each scan draws its own between them, log-uniformly.
    step_px : float or (float, float)
        Median distance to the nearest neighbour, object pixels, at most N; drawn likewise.
    patterns : int
        Of each scan; at least 2.
    seed : int
        Not negative.
    kind : {'leaves', 'texture', 'lines', 'mixed'}, optional
        Of the objects. Default: drawn.
    valid_pixels : (N, N) bool array, [ky, kx], optional
        Mask of the detector, for every scan.

    Raises
    ------
    ScanError, ShapeError
    """

    probe_modes: NDArray[np.complex64]
    photons: Range
    step_px: Range
    patterns: int = 150
    seed: int = 0
    kind: Kind | None = None
    valid_pixels: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "probe_modes", checks.complex_modes("probe_modes", self.probe_modes))
        if not np.any(self.probe_modes):
            raise ScanError("probe_modes: got a probe without any light")
        _limits("photons", self.photons)
        _, largest = _limits("step_px", self.step_px)
        if largest > self.N:
            raise ScanError(
                f"step_px: got {largest:g}, want at most {self.N}, the side of a patch: patches overlap"
            )
        for field, least in (("patterns", LEAST_PATTERNS), ("seed", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ScanError(f"{field}: got {value!r}, want an integer >= {least}")

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return int(self.probe_modes.shape[-1])

    @classmethod
    def like(
        cls,
        scan: Scan,
        *,
        patterns: int = 150,
        seed: int = 0,
        kind: Kind | None = None,
        photons: Range | None = None,
        step_px: Range | None = None,
    ) -> Self:
        """Synthetic scans with the probe, the mask, and about the dose and the step of a measured one.

        Parameters
        ----------
        scan : Scan
            Must have a probe.
        patterns, seed, kind
            As in the class.
        photons : float or (float, float), optional
            Default: from half the scan's `mean_photons` to twice that.
        step_px : float or (float, float), optional
            Default: the scan's `median_step_px` over 1.25 to times 1.25.

        Raises
        ------
        ScanError
            If the scan has no probe, no light, a single position, or a step that does not let patches overlap.
        """
        if scan.probe_modes is None:
            raise ScanError(
                f"{scan.name}: has no probe, so no scan like it can be simulated; want probeGuess in it"
            )
        if photons is None:
            dose = mean_photons(scan)
            photons = (dose / PHOTONS_SPREAD, dose * PHOTONS_SPREAD)
        if step_px is None:
            step = median_step_px(scan.scan_positions_px)
            step_px = (step / STEP_SPREAD, min(step * STEP_SPREAD, max(step, scan.N)))
        return cls(scan.probe_modes, photons, step_px, patterns, seed, kind, scan.valid_pixels)

    def scan(self, epoch: int, number: int) -> Scan:
        """Scan `number` of an epoch, both from 0 on; the same arguments give the same scan.

        Raises
        ------
        ScanError
            If a number is negative.
        """
        if epoch < 0 or number < 0:
            raise ScanError(f"epoch, number: got {epoch}, {number}, want numbers >= 0")
        generator = np.random.default_rng([self.seed, epoch, number])
        photons = _drawn(_limits("photons", self.photons), generator)
        step_px = _drawn(_limits("step_px", self.step_px), generator)
        return synthetic_scan(
            self.probe_modes,
            synthetic_positions(self.patterns, step_px, generator),
            photons,
            generator,
            kind=self.kind,
            valid_pixels=self.valid_pixels,
            name=f"synthetic_{epoch}_{number}",
        )


def _limits(name: str, value: Range) -> tuple[float, float]:
    """Smallest and largest of the positive numbers that `value` stands for."""
    try:
        smallest, largest = (float(v) for v in (value if isinstance(value, tuple) else (value, value)))
    except (TypeError, ValueError):
        smallest, largest = math.nan, math.nan
    if not 0 < smallest <= largest < math.inf:
        raise ScanError(
            f"{name}: got {value!r}, want a finite number > 0, or the smallest and the largest of such numbers"
        )
    return smallest, largest


def _drawn(limits: tuple[float, float], generator: np.random.Generator) -> float:
    return math.exp(generator.uniform(*np.log(limits)))
