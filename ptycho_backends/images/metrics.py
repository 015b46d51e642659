"""Metrics of a reconstruction against the known object.

Ptychography leaves one complex factor free, and a stitched canvas may sit a fraction of a pixel beside
the truth. Both are removed and reported. Every comparison is made twice: of the image as it is, and without a linear
phase ramp, as the field compares. No larger shift is removed, and phases are not unwrapped (docs/metrics.md).
"""

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.images.ramp import linear_ramp, own_ramp, without_ramp
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Reconstruction

log = logging.getLogger(__name__)

# Pixels cut off around the covered region. Half the default stitching square (10) reaches beyond the
# outermost positions, where single patches lie; PtychoPINN's published figures also leave out 14.
DEFAULT_TRIM_PX = 14

# A shift beyond this is not registration but a wrong position, and stays in the figures.
MAX_SHIFT_PX = 3.0

# Fractions of a pixel that registration resolves, and passes it takes: the window holds the first back.
UPSAMPLING = 100
REGISTRATION_PASSES = 4

# Fewer pixels are too few for any metric.
MIN_PIXELS = 100

# SSIM looks at windows of this many pixels; a smaller overlap gets none.
SSIM_WINDOW_PX = 7

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Metrics:
    """Agreement of a reconstruction with the known object, after registration and one complex factor.

    Without a ramp means: the linear phase ramp between the two images is removed from the reconstruction, and the
    known object's own ramp from both. A blank image is 1 everywhere; its figures are those that the object's mean
    alone achieves.

    Attributes
    ----------
    phase_correlation_ramp_removed, phase_error_rad_ramp_removed : float
        As `phase_correlation` and `phase_error_rad`, without a ramp.
    amplitude_ssim_ramp_removed, phase_ssim_ramp_removed : float
        As `amplitude_ssim` and `phase_ssim`, without a ramp.
    phase_contrast : float
        Slope of the reconstruction's phase against the known one, by least squares, without a ramp: 1 is perfect, less
        is too flat. NaN where the known phase is flat.
    blank_phase_correlation : float
        0: a constant phase correlates with nothing.
    blank_phase_error_rad, blank_amplitude_ssim, blank_phase_ssim : float
        Of the blank image, without a ramp.
    ramp_rad_per_px : (float, float)
        `[x, y]`, of the reconstruction against the known object; removed for the figures without a ramp.
    phase_correlation : float
        Pearson correlation of the phases; NaN for a flat phase.
    phase_error_rad : float
        Mean absolute difference of the phases, radians.
    amplitude_psnr_db, phase_psnr_db : float
        Peak signal-to-noise ratio; the peak is the truth's range.
    amplitude_ssim, phase_ssim : float
        Structural similarity, window of 7 pixels.
    shift_px : (float, float)
        `[x, y]` by which the reconstruction had to be moved to lie on the truth.
    factor : complex
        Multiplied with the reconstruction before the comparison.
    pixels : int
        Number of compared pixels.
    trim_px : int
        Pixels cut off around the covered region.
    complex_correlation : float
        `|<a, b>| / (|a| |b|)`; 1 is perfect. A constant object already gives a high value.
    """

    phase_correlation_ramp_removed: float
    blank_phase_correlation: float
    phase_error_rad_ramp_removed: float
    blank_phase_error_rad: float
    amplitude_ssim_ramp_removed: float
    blank_amplitude_ssim: float
    phase_ssim_ramp_removed: float
    blank_phase_ssim: float
    phase_contrast: float
    ramp_rad_per_px: tuple[float, float]
    phase_correlation: float
    phase_error_rad: float
    amplitude_ssim: float
    phase_ssim: float
    amplitude_psnr_db: float
    phase_psnr_db: float
    shift_px: tuple[float, float]
    factor: complex
    pixels: int
    trim_px: int
    complex_correlation: float

    def as_dict(self) -> dict[str, float | int | list[float] | None]:
        """Plain numbers for JSON: the factor as amplitude and phase, None for values that are not finite.

        The figures that discriminate come first, each beside that of a blank image.
        """
        values = dataclasses.asdict(self)
        factor, last = values.pop("factor"), values.pop("complex_correlation")
        for name in ("shift_px", "ramp_rad_per_px"):
            values[name] = list(values[name])
        values |= {"factor_amplitude": abs(factor), "factor_phase_rad": math.atan2(factor.imag, factor.real)}
        values["complex_correlation"] = last
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    def __str__(self) -> str:
        dx, dy = self.shift_px
        px, py = self.ramp_rad_per_px
        rows = [
            (
                "phase correlation, ramp removed",
                f"{self.phase_correlation_ramp_removed:.4f}  (blank image {self.blank_phase_correlation:.4f})",
            ),
            (
                "mean absolute phase error, ramp removed",
                f"{self.phase_error_rad_ramp_removed:.4f} rad  (blank image {self.blank_phase_error_rad:.4f})",
            ),
            (
                "amplitude SSIM, ramp removed",
                f"{self.amplitude_ssim_ramp_removed:.3f}  (blank image {self.blank_amplitude_ssim:.3f})",
            ),
            (
                "phase SSIM, ramp removed",
                f"{self.phase_ssim_ramp_removed:.3f}  (blank image {self.blank_phase_ssim:.3f})",
            ),
            ("phase contrast, ramp removed", f"{self.phase_contrast:.4f}"),
            ("ramp (x, y)", f"{px:+.2g}, {py:+.2g} rad/px"),
            ("phase correlation", f"{self.phase_correlation:.4f}"),
            ("mean absolute phase error", f"{self.phase_error_rad:.4f} rad"),
            ("amplitude PSNR, SSIM", f"{self.amplitude_psnr_db:.2f} dB, {self.amplitude_ssim:.3f}"),
            ("phase PSNR, SSIM", f"{self.phase_psnr_db:.2f} dB, {self.phase_ssim:.3f}"),
            ("registration (x, y)", f"{dx:+.2f}, {dy:+.2f} px"),
            ("compared", f"{self.pixels} pixels, {self.trim_px} px trimmed at the edge"),
            ("complex correlation", f"{self.complex_correlation:.4f}"),
        ]
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)


@dataclass(frozen=True, eq=False)
class Alignment:
    """A reconstruction and the truth on the same pixels.

    Attributes
    ----------
    reconstruction : (h, w) complex128, [y, x]
        Times `factor`; cropped to `box` of the canvas.
    truth : (h, w) complex128, [y, x]
        The known object at the same places, registered. The common phase is set so that the truth's
        mean phase within `region` is zero.
    region : (h, w) bool
        Pixels that are compared.
    shift_px : (float, float)
        `[x, y]` by which the reconstruction has to be moved to lie on the truth.
    factor : complex
    box : (slice, slice)
        Its place on the canvas, `[y, x]`.
    ramp_rad_per_px : (float, float)
        `[x, y]`, the phase ramp of `reconstruction` against `truth`, in radians per pixel.
    ramp_removed : Alignment, optional
        The same without a ramp, registered anew; None in the alignment that is without one.
    """

    reconstruction: NDArray[np.complex128]
    truth: NDArray[np.complex128]
    region: NDArray[np.bool_]
    shift_px: tuple[float, float]
    factor: complex
    box: Box
    ramp_rad_per_px: tuple[float, float] = (0.0, 0.0)
    ramp_removed: "Alignment | None" = None


def compare(reconstruction: Reconstruction, scan: Scan, *, trim_px: int = DEFAULT_TRIM_PX) -> Metrics:
    """Compare a reconstruction with the known object of its scan.

    Parameters
    ----------
    reconstruction : Reconstruction
        In the coordinates of the scan's positions.
    scan : Scan
        With `object_guess`; `object_mask`, if present, limits the compared area.
    trim_px : int
        Pixels to leave out around the covered region, where few patches overlap.

    Returns
    -------
    Metrics

    Raises
    ------
    ScanError
        If the scan has no known object, or too little of it lies under the reconstruction.
    """
    return measure(align(reconstruction, scan, trim_px=trim_px), trim_px)


def covered_box(reconstruction: Reconstruction) -> Box:
    """The smallest rectangle of the canvas, `[y, x]`, that holds every covered pixel."""
    return _bounding_box(reconstruction.coverage > 0)


def align(reconstruction: Reconstruction, scan: Scan, *, trim_px: int = DEFAULT_TRIM_PX) -> Alignment:
    """Bring the known object onto the reconstruction's pixels; parameters and errors as in `compare`."""
    if scan.object_guess is None:
        raise ScanError(
            f"{scan.name}: no objectGuess, so there is nothing to compare the reconstruction with"
        )
    grid = _Grid(reconstruction, scan, trim_px)
    region = grid.region(np.zeros(2))
    if np.count_nonzero(region) < MIN_PIXELS:
        raise ScanError(
            f"{scan.name}: only {np.count_nonzero(region)} pixels of the reconstruction lie on the known "
            f"object after trimming {trim_px} px, want at least {MIN_PIXELS}; trim less, or check that "
            "the positions and objectGuess belong together"
        )
    image = reconstruction.object.astype(np.complex128)
    shift = _registered(grid, image, region)
    if np.abs(shift).max() > MAX_SHIFT_PX:
        log.warning(
            "registration: a shift of x %+.1f, y %+.1f px is more than %g px and is not removed",
            *shift, MAX_SHIFT_PX,
        )  # fmt: skip
        shift = np.zeros(2)
    as_it_is = _aligned(grid, image, shift, np.zeros(2))
    # with a ramp on it the image may have been registered badly
    image = without_ramp(image, _ramp(as_it_is))
    again = _registered(grid, image, grid.region(shift), shift)
    if np.abs(again).max() <= MAX_SHIFT_PX:
        shift = again
    level = _aligned(grid, image, shift, np.zeros(2))
    rest = _ramp(level)
    own = own_ramp(np.where(level.region, level.truth, 0))
    level = _aligned(grid, without_ramp(image, rest + own), shift, own)
    x, y = (rest + _ramp(as_it_is)).tolist()
    return dataclasses.replace(as_it_is, ramp_rad_per_px=(x, y), ramp_removed=level)


def measure(alignment: Alignment, trim_px: int = DEFAULT_TRIM_PX) -> Metrics:
    """Metrics of an alignment; `trim_px` is only recorded in them."""
    region = alignment.region
    level = alignment if alignment.ramp_removed is None else alignment.ramp_removed
    as_it_is, without = _agreement(alignment), _agreement(level)
    mean = np.full(level.truth.shape, level.truth[level.region].mean())
    blank = _agreement(dataclasses.replace(level, reconstruction=mean))
    ours, truth = alignment.reconstruction[region], alignment.truth[region]
    norms = np.linalg.norm(ours) * np.linalg.norm(truth)
    return Metrics(
        phase_correlation_ramp_removed=without.phase_correlation,
        blank_phase_correlation=0.0,
        phase_error_rad_ramp_removed=without.phase_error_rad,
        blank_phase_error_rad=blank.phase_error_rad,
        amplitude_ssim_ramp_removed=without.amplitude_ssim,
        blank_amplitude_ssim=blank.amplitude_ssim,
        phase_ssim_ramp_removed=without.phase_ssim,
        blank_phase_ssim=blank.phase_ssim,
        phase_contrast=without.phase_contrast,
        ramp_rad_per_px=alignment.ramp_rad_per_px,
        phase_correlation=as_it_is.phase_correlation,
        phase_error_rad=as_it_is.phase_error_rad,
        amplitude_ssim=as_it_is.amplitude_ssim,
        phase_ssim=as_it_is.phase_ssim,
        amplitude_psnr_db=as_it_is.amplitude_psnr_db,
        phase_psnr_db=as_it_is.phase_psnr_db,
        shift_px=alignment.shift_px,
        factor=alignment.factor,
        pixels=int(np.count_nonzero(region)),
        trim_px=trim_px,
        complex_correlation=float(np.abs(np.vdot(ours, truth)) / norms),
    )


class _Agreement(NamedTuple):
    phase_correlation: float
    phase_contrast: float
    phase_error_rad: float
    amplitude_psnr_db: float
    amplitude_ssim: float
    phase_psnr_db: float
    phase_ssim: float


def _agreement(alignment: Alignment) -> _Agreement:
    region = alignment.region
    ours, truth = alignment.reconstruction[region], alignment.truth[region]
    return _Agreement(
        _pearson(np.angle(ours), np.angle(truth)),
        _slope(np.angle(ours), np.angle(truth)),
        float(np.mean(np.abs(np.angle(ours * truth.conj())))),
        *_similarity(np.abs(alignment.reconstruction), np.abs(alignment.truth), region),
        *_similarity(np.angle(alignment.reconstruction), np.angle(alignment.truth), region),
    )


class _Grid:
    """The canvas of a reconstruction, and the known object on it, moved by shifts (2,) `[x, y]` in pixels."""

    def __init__(self, reconstruction: Reconstruction, scan: Scan, trim_px: int) -> None:
        assert scan.object_guess is not None
        self.name = scan.name
        self.box = covered_box(reconstruction)
        self._origin_px = np.asarray(reconstruction.origin_px, np.float64)
        self._trimmed = _trimmed(reconstruction.coverage, trim_px)
        self._truth = scan.object_guess.astype(np.complex128)
        self._mask = np.ones(self._truth.shape, bool) if scan.object_mask is None else scan.object_mask

    def region(self, shift_px: NDArray) -> NDArray[np.bool_]:
        """(H, W), the pixels that are compared."""
        return self._trimmed & _mask_at(self._mask, *self._coordinates(shift_px))

    def truth(self, shift_px: NDArray) -> NDArray[np.complex128]:
        """(H, W), the known object; cubic splines, because linear ones blur at half pixels."""
        rows, columns = np.meshgrid(*self._coordinates(shift_px), indexing="ij")
        return scipy.ndimage.map_coordinates(self._truth, (rows, columns), order=3, mode="nearest")

    def _coordinates(self, shift_px: NDArray) -> tuple[NDArray, NDArray]:
        """Rows and columns of the known object under the canvas' rows and columns."""
        height, width = self._trimmed.shape
        x, y = self._origin_px + shift_px
        return np.arange(height) + y, np.arange(width) + x


def _aligned(grid: _Grid, ours: NDArray, shift: NDArray, truth_ramp: NDArray) -> Alignment:
    """`ours` (H, W) beside the known object without `truth_ramp`."""
    region, box = grid.region(shift), grid.box
    truth = without_ramp(grid.truth(shift), truth_ramp)
    if not (np.abs(ours[region]).any() and np.abs(truth[region]).any()):
        raise ScanError(f"{grid.name}: the reconstruction or objectGuess is zero wherever they overlap")
    truth = truth * np.exp(-1j * np.angle(np.sum(_directions(truth[region]))))
    factor = complex(np.vdot(ours[region], truth[region]) / np.vdot(ours[region], ours[region]).real)
    # adding 0.0 turns -0.0 into 0.0, which reads better
    shift_px = (float(shift[0]) + 0.0, float(shift[1]) + 0.0)
    return Alignment(factor * ours[box], truth[box], region[box], shift_px, factor, box)


def _ramp(alignment: Alignment) -> NDArray[np.float64]:
    return linear_ramp(np.where(alignment.region, alignment.reconstruction * alignment.truth.conj(), 0))


def _directions(values: NDArray) -> NDArray:
    """`values / |values|`, zero where zero."""
    modulus = np.abs(values)
    return np.divide(values, modulus, out=np.zeros_like(values), where=modulus > 0)


def _bounding_box(mask: NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        raise ScanError("reconstruction: nothing is covered, so there is no image")
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _trimmed(coverage: NDArray, trim_px: int) -> NDArray[np.bool_]:
    """Covered pixels at least `trim_px` pixels inside the outline; holes have no outline of their own."""
    # half a patch: less is the interpolated rim of a single one
    covered = coverage >= 0.5
    if trim_px <= 0:
        return covered
    outline = np.pad(scipy.ndimage.binary_fill_holes(covered), 1)
    depth = scipy.ndimage.distance_transform_cdt(outline, metric="chessboard")[1:-1, 1:-1]
    return covered & (depth > trim_px)


def _mask_at(mask: NDArray[np.bool_], rows: NDArray, columns: NDArray) -> NDArray[np.bool_]:
    """Places all of whose neighbours in the known object are inside it and lit."""
    framed = np.pad(mask, 1)
    result = np.ones((len(rows), len(columns)), bool)
    for row in (np.floor(rows), np.ceil(rows)):
        for column in (np.floor(columns), np.ceil(columns)):
            row_index = np.clip(row.astype(np.int64) + 1, 0, framed.shape[0] - 1)
            column_index = np.clip(column.astype(np.int64) + 1, 0, framed.shape[1] - 1)
            result &= framed[row_index[:, None], column_index[None, :]]
    return result


def _registered(
    grid: _Grid, image: NDArray, region: NDArray[np.bool_], start_px: NDArray | None = None
) -> NDArray[np.float64]:
    """`[x, y]` by which to move `image`; `start_px` where no shift brings it closer, over `MAX_SHIFT_PX` if lost."""
    from skimage.registration import phase_cross_correlation

    start_px = np.zeros(2) if start_px is None else start_px
    box = _bounding_box(region)
    inside = region[box]
    image = image[box]
    ours = _windowed(image, inside)
    start = grid.truth(start_px)[box]
    if not (np.any(ours) and np.any(_windowed(start, inside))):
        return start_px
    shift = start_px
    for _ in range(REGISTRATION_PASSES):
        truth = _windowed(grid.truth(shift)[box], inside)
        # plain cross-correlation: its maximum over shifts ignores a global phase, and is robust to noise
        step, _, _ = phase_cross_correlation(truth, ours, upsample_factor=UPSAMPLING, normalization=None)
        shift = shift + step[::-1]
        if np.abs(shift).max() > MAX_SHIFT_PX:
            return shift
        if np.abs(step).max() <= 1.0 / UPSAMPLING:
            break
    moved = grid.truth(shift)[box]
    before, after = (_coherence(image[inside], truth[inside]) for truth in (start, moved))
    return shift if after > before else start_px


def _windowed(image: NDArray, inside: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """`image` without its mean, zero outside `inside`: a constant would hold every shift at zero."""
    image = image.astype(np.complex128)
    return np.where(inside, image - image[inside].mean(), 0)


def _coherence(a: NDArray, b: NDArray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.abs(np.vdot(a, b))) / norms if norms > 0 else 0.0


def _pearson(a: NDArray, b: NDArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    # rounding alone gives a flat image some variance
    return float(np.dot(a, b)) / norms if norms > 1e-12 * a.size else math.nan


def _slope(a: NDArray, b: NDArray) -> float:
    """Of `a` against `b`, by least squares."""
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.dot(b, b))
    return float(np.dot(a, b)) / spread if spread > 1e-12 * b.size else math.nan


def _similarity(ours: NDArray, truth: NDArray, region: NDArray[np.bool_]) -> tuple[float, float]:
    """(PSNR in dB, SSIM) within `region`; NaN where the truth is flat, SSIM also where it is too small."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    span = float(np.ptp(truth[region]))
    if span < 1e-9:
        return math.nan, math.nan
    error = ours[region] - truth[region]
    psnr = math.inf if not error.any() else float(
        peak_signal_noise_ratio(truth[region], ours[region], data_range=span)
    )  # fmt: skip
    box = _bounding_box(region)
    if min(region[box].shape) < SSIM_WINDOW_PX:
        return psnr, math.nan
    # pixels outside the region must not count through the windows at its rim
    same = np.where(region, ours, truth)
    _, local = structural_similarity(
        same[box], truth[box], win_size=SSIM_WINDOW_PX, data_range=span, full=True
    )
    return psnr, float(local[region[box]].mean())
