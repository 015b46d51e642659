"""Simulated scans with a known object: a resolution target, a focused probe, positions off any grid.

Good enough for tests and for the demonstration; the forward model is docs/model.md, section 2, item 4, with
the absolute scale included: `|FFT2(probe * patch)|^2 / N^2` are the expected counts of each pixel.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ScanError
from ptycho_backends.reference.physics import diffraction_amplitude, extract_patches
from ptycho_backends.scans.scan import Scan

Measurement = Literal["intensity", "amplitude"]
Pattern = Literal["spiral", "raster"]

# Patterns computed at once: about 32 MB of complex128 at N = 64, 8 MB more for each temporary.
CHUNK = 256

# Blur of the targets, pixels: edges then rise over two pixels, so bilinear sampling changes them little.
EDGE_BLUR_PX = 0.8

# A pixel counts as lit when it got this fraction of the dose of the brightest one.
LIT_FRACTION = 0.1

GOLDEN_ANGLE = math.pi * (3.0 - math.sqrt(5.0))


def siemens_star(size: int, spokes: int = 12) -> NDArray[np.complex64]:
    """A resolution target: Siemens star, rings, three-bar groups, over smoothly varying thickness.

    Parameters
    ----------
    size : int
        Side of the image, pixels; at least 16.
    spokes : int
        Dark spokes of the star.

    Returns
    -------
    (size, size) complex64 array, [y, x]
        Amplitude 0.8 .. 1; the phase spans about 1 rad and runs against the amplitude.
    """
    if size < 16 or spokes < 1:
        raise ValueError(f"siemens_star: got size={size}, spokes={spokes}; want size >= 16, spokes >= 1")
    # in units of the image's half side, so that the target looks the same at every size
    axis = (np.arange(size) - (size - 1) / 2) / (size / 2)
    y, x = axis[:, None], axis[None, :]
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    star = (np.cos(spokes * angle) > 0) & (radius > 0.04) & (radius < 0.42)
    rings = (radius > 0.45) & (radius < 0.475) | (radius > 0.50) & (radius < 0.515)
    metal = (star | rings | _three_bars(x, y)).astype(np.float64)
    # thickness of a carrier film: low frequencies only, so every patch differs from its neighbours
    film = 0.5 + 0.25 * np.sin(2.3 * x + 1.1 * y + 0.4) + 0.25 * np.cos(1.7 * x - 2.9 * y)
    metal = scipy.ndimage.gaussian_filter(metal, EDGE_BLUR_PX)
    # mostly phase, as metal is to hard X-rays
    amplitude = 1.0 - 0.05 * film - 0.15 * metal
    phase = 0.25 * film + 0.75 * metal - 0.5
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def _three_bars(x: NDArray, y: NDArray) -> NDArray[np.bool_]:
    """Groups of three bars, upright and lying in turn, on a circle outside the star."""
    bars = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    widths = np.geomspace(0.03, 0.012, 12)
    for i, width in enumerate(widths):
        angle = 2 * math.pi * (i + 0.5) / len(widths)
        across, along = x - 0.61 * math.cos(angle), y - 0.61 * math.sin(angle)
        if i % 2:
            across, along = along, across
        for bar in (-1, 0, 1):
            bars |= (np.abs(across - 2 * width * bar) < width / 2) & (np.abs(along) < 2.5 * width)
    return bars


def focused_probe(
    N: int, radius_px: float | None = None, aperture_share: float = 0.35
) -> NDArray[np.complex64]:
    """The wave a little behind the focus of a round lens: curved wavefront, soft edge, slight astigmatism.

    Parameters
    ----------
    N : int
        Side, pixels.
    radius_px : float, optional
        Radius of the bright disk in the object plane, pixels. Default: `N / 6`, which keeps the light
        inside the central N/2 square, where the network predicts the object.
    aperture_share : float
        Radius of the bright field on the detector over half the detector's width.

    Returns
    -------
    (N, N) complex64 array, [y, x]
        Energy 1: `sum |probe|^2 = 1`.
    """
    radius_px = N / 6 if radius_px is None else radius_px
    if not 0 < radius_px < N / 2 or not 0 < aperture_share < 1:
        raise ValueError(
            f"focused_probe: got radius_px={radius_px}, aperture_share={aperture_share}; "
            f"want 0 < radius_px < {N / 2:g} and 0 < aperture_share < 1"
        )
    frequency = np.fft.fftfreq(N) * N
    ky, kx = frequency[:, None], frequency[None, :]
    edge = aperture_share * N / 2
    # a soft rim: a hard one would ring far beyond the bright disk
    pupil = 1.0 / (1.0 + np.exp((np.hypot(ky, kx) - edge) / (0.08 * edge)))
    # geometric optics: the slope of the phase at the rim sends a ray to radius_px
    bend = math.pi * radius_px / (N * edge)
    wave = pupil * np.exp(1j * bend * (1.08 * kx**2 + 0.92 * ky**2))
    probe = np.fft.fftshift(np.fft.ifft2(wave))
    return (probe / np.linalg.norm(probe)).astype(np.complex64)


def fermat_spiral(count: int, step_px: float) -> NDArray[np.float64]:
    """Positions on a Fermat spiral around (0, 0): even density, no period, as scanners use it.

    Parameters
    ----------
    count : int
    step_px : float
        Mean distance of neighbours: each position has `step_px**2` to itself.

    Returns
    -------
    (count, 2) float64 array, [x, y]
    """
    number = np.arange(count) + 0.5
    radius = step_px / math.sqrt(math.pi) * np.sqrt(number)
    angle = GOLDEN_ANGLE * np.arange(count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def jittered_raster(
    count: int, step_px: float, jitter_px: float | None = None, seed: int = 0
) -> NDArray[np.float64]:
    """Rows of positions around (0, 0), each moved at random, so that no grid artefact can form.

    Parameters
    ----------
    count : int
        The last row is left unfinished where `count` is not a product of rows and columns.
    step_px : float
    jitter_px : float, optional
        Largest displacement along each axis; default `0.3 * step_px`.
    seed : int

    Returns
    -------
    (count, 2) float64 array, [x, y]
    """
    jitter_px = 0.3 * step_px if jitter_px is None else jitter_px
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    number = np.arange(count)
    grid = np.stack([number % columns - (columns - 1) / 2, number // columns - (rows - 1) / 2], axis=-1)
    noise = np.random.default_rng(seed).uniform(-jitter_px, jitter_px, (count, 2))
    return grid * step_px + noise


def simulate_scan(
    object_image: NDArray,
    probe: NDArray,
    positions_px: ArrayLike,
    n_photons: float = 1e5,
    seed: int = 0,
    measurement: Measurement = "intensity",
    poisson: bool = True,
    *,
    pixel_size_m: float | None = None,
    name: str = "simulated",
) -> Scan:
    """Diffract `probe * patch` at every position and count photons; intensities of modes add up.

    Parameters
    ----------
    object_image : (H, W) complex array, [y, x]
        Zero outside.
    probe : (N, N) or (modes, N, N) complex array, [y, x]
        Its scale does not matter: it is set so that a pattern holds `n_photons` on average.
    positions_px : (M, 2) array, [x, y]
        Patch centres in object pixels, inside the image.
    n_photons : float
        Mean counts of a pattern.
    seed : int
        Of the noise; the same seed gives the same scan.
    measurement : {'intensity', 'amplitude'}
        Store counts, or their square root as float32.
    poisson : bool
        Draw counts; else store their expectation.
    pixel_size_m : float, optional
    name : str

    Returns
    -------
    Scan
        With the scaled probe, the object and the mask of its lit pixels.

    Raises
    ------
    ScanError, ShapeError
        If nothing is lit, a position lies outside the object, or an array has the wrong shape.

    References
    ----------
    docs/model.md, section 2, item 4.
    """
    if measurement not in ("intensity", "amplitude"):
        raise ScanError(f"measurement: got {measurement!r}, want 'intensity' or 'amplitude'")
    if not (n_photons > 0 and math.isfinite(n_photons)):
        raise ScanError(f"n_photons: got {n_photons!r}, want a finite number > 0")
    object_image = checks.complex_image("object_image", object_image)
    modes = checks.complex_modes("probe", probe)
    N = modes.shape[-1]
    positions = np.asarray(positions_px, np.float64)
    checks.require_shape("positions_px", positions, (None, 2), ("positions", "xy"))
    checks.require_finite("positions_px", positions)
    _require_inside(positions, object_image.shape)

    modes = _scaled_probe(object_image, modes, positions, n_photons)
    counts = poisson and measurement == "intensity"
    patterns = np.empty((len(positions), N, N), np.uint32 if counts else np.float32)
    generator = np.random.default_rng(seed)
    for part, waves in _exit_waves(object_image, modes, positions):
        values = np.sum(diffraction_amplitude(waves) ** 2, axis=1)
        if poisson:
            values = generator.poisson(values)
        patterns[part] = values if measurement == "intensity" else np.sqrt(values)
    return Scan(
        xcoords=positions[:, 0],
        ycoords=positions[:, 1],
        patterns=patterns,
        probe_guess=modes,
        object_guess=object_image,
        measurement=measurement,
        object_mask=lit_pixels(object_image.shape, modes, positions),
        pixel_size_m=pixel_size_m,
        name=name,
    )


def simulate_star(
    N: int = 64,
    positions: int = 400,
    *,
    step_px: float | None = None,
    pattern: Pattern = "spiral",
    n_photons: float = 1e5,
    seed: int = 0,
    measurement: Measurement = "intensity",
    poisson: bool = True,
) -> Scan:
    """A whole simulated scan of `siemens_star` with `focused_probe`.

    Parameters
    ----------
    N : int
        Side of a pattern, pixels.
    positions : int
    step_px : float, optional
        Mean distance of neighbouring positions; default `3 N / 32`, about 70 % overlap.
    pattern : {'spiral', 'raster'}
        `fermat_spiral` or `jittered_raster`.
    n_photons, seed, measurement, poisson
        As in `simulate_scan`; the seed also moves the raster's positions.

    Returns
    -------
    Scan
    """
    return simulate_target(
        siemens_star,
        focused_probe(N),
        positions,
        step_px=step_px,
        pattern=pattern,
        n_photons=n_photons,
        seed=seed,
        measurement=measurement,
        poisson=poisson,
        name=f"simulated_star_{N}",
    )


def simulate_target(
    target: Callable[[int], NDArray],
    probe: NDArray,
    positions: int = 400,
    *,
    step_px: float | None = None,
    pattern: Pattern = "spiral",
    n_photons: float = 1e5,
    seed: int = 0,
    measurement: Measurement = "intensity",
    poisson: bool = True,
    name: str = "simulated",
) -> Scan:
    """A whole simulated scan of an object that is made to measure.

    Parameters
    ----------
    target : callable
        Makes a (size, size) complex image of the size, pixels, that the scan needs.
    probe : (N, N) or (modes, N, N) complex array, [y, x]
    positions, step_px, pattern, n_photons, seed, measurement, poisson, name
        As in `simulate_star`.

    Returns
    -------
    Scan

    Raises
    ------
    ScanError, ShapeError
    """
    N = checks.complex_modes("probe", probe).shape[-1]
    if positions < 1:
        raise ScanError(f"positions: got {positions}, want at least 1")
    step_px = 3 * N / 32 if step_px is None else step_px
    if not step_px > 0:
        raise ScanError(f"step_px: got {step_px}, want a number > 0")
    if pattern not in ("spiral", "raster"):
        raise ScanError(f"pattern: got {pattern!r}, want 'spiral' or 'raster'")
    around_zero = (
        fermat_spiral(positions, step_px)
        if pattern == "spiral"
        else jittered_raster(positions, step_px, seed=seed)
    )
    # every patch lies within the object, with a pixel to spare for interpolation
    size = 2 * math.ceil(np.abs(around_zero).max()) + N + 2
    return simulate_scan(
        target(size),
        probe,
        around_zero + size / 2,
        n_photons,
        seed,
        measurement,
        poisson,
        name=name,
    )


def lit_pixels(
    shape: tuple[int, ...], probe: NDArray, positions_px: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """(H, W) mask of the object's pixels that got at least `LIT_FRACTION` of the largest dose.

    `probe` is (N, N), or has modes in front.
    """
    N = probe.shape[-1]
    dose = np.zeros((shape[0] + 2 * N, shape[1] + 2 * N))
    intensity = np.sum(np.abs(probe).astype(np.float64) ** 2, axis=tuple(range(probe.ndim - 2)))
    # whole pixels are enough for a mask; the frame of N pixels spares every patch its clipping
    corners = np.floor(positions_px + 0.5).astype(np.int64) + N - N // 2
    for column, row in corners:
        dose[row : row + N, column : column + N] += intensity
    return (dose >= LIT_FRACTION * dose.max())[N:-N, N:-N]


def _require_inside(positions_px: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    if len(positions_px) == 0:
        raise ScanError("positions_px: the scan is empty, want at least one position")
    limits = np.array([shape[1], shape[0]])
    outside = ((positions_px < 0) | (positions_px > limits)).any(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        x, y = positions_px[first]
        raise ScanError(
            f"positions_px: {outside.sum()} positions lie outside the object of {limits[0]} x {limits[1]} "
            f"pixels, number {first} at x={x:.1f}, y={y:.1f}; use a larger object or a smaller scan"
        )


def _exit_waves(
    object_image: NDArray, modes: NDArray, positions_px: NDArray
) -> Iterator[tuple[slice, NDArray]]:
    """(c, modes, N, N) `probe * patch`, `CHUNK` positions at a time, in double precision, so memory stays flat."""
    image, waves = object_image.astype(np.complex128), modes.astype(np.complex128)
    for start in range(0, len(positions_px), CHUNK):
        part = slice(start, start + CHUNK)
        yield part, waves * extract_patches(image, positions_px[part], modes.shape[-1])[:, None]


def _scaled_probe(
    object_image: NDArray, modes: NDArray, positions_px: NDArray, n_photons: float
) -> NDArray[np.complex64]:
    """`modes` times the factor that makes the mean pattern hold `n_photons`; diffraction keeps energies."""
    energy = sum(
        float(np.sum(np.abs(waves) ** 2)) for _, waves in _exit_waves(object_image, modes, positions_px)
    )
    if energy == 0.0:
        raise ScanError("object_image: no light passes it at any position, want an object that is lit")
    return (modes * math.sqrt(n_photons * len(positions_px) / energy)).astype(np.complex64)
