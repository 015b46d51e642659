"""Metrics of a reconstruction against the known object.

Ptychography leaves one complex factor free, and a stitched canvas may sit a fraction of a pixel beside
the truth. Both are removed and reported. No phase ramp and no larger shift is removed; phases are not unwrapped.
"""

import dataclasses
import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ptycho_backends.errors import ScanError
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

    Attributes
    ----------
    complex_correlation : float
        `|<a, b>| / (|a| |b|)`; 1 is perfect. A constant object already gives a high value.
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
    """

    complex_correlation: float
    phase_correlation: float
    phase_error_rad: float
    amplitude_psnr_db: float
    phase_psnr_db: float
    amplitude_ssim: float
    phase_ssim: float
    shift_px: tuple[float, float]
    factor: complex
    pixels: int
    trim_px: int

    def as_dict(self) -> dict[str, float | int | list[float] | None]:
        """Plain numbers for JSON: the factor as amplitude and phase, None for values that are not finite."""
        values = dataclasses.asdict(self)
        factor = values.pop("factor")
        values["shift_px"] = list(values["shift_px"])
        values |= {"factor_amplitude": abs(factor), "factor_phase_rad": math.atan2(factor.imag, factor.real)}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }

    def __str__(self) -> str:
        dx, dy = self.shift_px
        rows = [
            ("complex correlation", f"{self.complex_correlation:.4f}"),
            ("phase correlation", f"{self.phase_correlation:.4f}"),
            ("mean absolute phase error", f"{self.phase_error_rad:.4f} rad"),
            ("amplitude PSNR, SSIM", f"{self.amplitude_psnr_db:.2f} dB, {self.amplitude_ssim:.3f}"),
            ("phase PSNR, SSIM", f"{self.phase_psnr_db:.2f} dB, {self.phase_ssim:.3f}"),
            ("registration (x, y)", f"{dx:+.2f}, {dy:+.2f} px"),
            ("compared", f"{self.pixels} pixels, {self.trim_px} px trimmed at the edge"),
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
    """

    reconstruction: NDArray[np.complex128]
    truth: NDArray[np.complex128]
    region: NDArray[np.bool_]
    shift_px: tuple[float, float]
    factor: complex
    box: Box


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
    truth_image = scan.object_guess.astype(np.complex128)
    mask = np.ones(truth_image.shape, bool) if scan.object_mask is None else scan.object_mask
    trimmed = _trimmed(reconstruction.coverage, trim_px)
    shift = np.zeros(2)
    region = trimmed & _mask_at(mask, reconstruction, shift)
    if np.count_nonzero(region) < MIN_PIXELS:
        raise ScanError(
            f"{scan.name}: only {np.count_nonzero(region)} pixels of the reconstruction lie on the known "
            f"object after trimming {trim_px} px, want at least {MIN_PIXELS}; trim less, or check that "
            "the positions and objectGuess belong together"
        )
    shift = _registered(reconstruction, truth_image, region)
    region = trimmed & _mask_at(mask, reconstruction, shift)
    truth = _truth_at(truth_image, reconstruction, shift)
    if not (np.abs(reconstruction.object[region]).any() and np.abs(truth[region]).any()):
        raise ScanError(f"{scan.name}: the reconstruction or objectGuess is zero wherever they overlap")
    truth = truth * np.exp(-1j * np.angle(np.sum(_directions(truth[region]))))
    ours = reconstruction.object.astype(np.complex128)
    factor = complex(np.vdot(ours[region], truth[region]) / np.vdot(ours[region], ours[region]).real)
    box = covered_box(reconstruction)
    # adding 0.0 turns -0.0 into 0.0, which reads better
    shift_px = (float(shift[0]) + 0.0, float(shift[1]) + 0.0)
    return Alignment(factor * ours[box], truth[box], region[box], shift_px, factor, box)


def measure(alignment: Alignment, trim_px: int = DEFAULT_TRIM_PX) -> Metrics:
    """Metrics of an alignment; `trim_px` is only recorded in them."""
    region = alignment.region
    ours, truth = alignment.reconstruction[region], alignment.truth[region]
    norms = np.linalg.norm(ours) * np.linalg.norm(truth)
    amplitude_psnr, amplitude_ssim = _similarity(
        np.abs(alignment.reconstruction), np.abs(alignment.truth), region
    )
    phase_psnr, phase_ssim = _similarity(
        np.angle(alignment.reconstruction), np.angle(alignment.truth), region
    )
    return Metrics(
        complex_correlation=float(np.abs(np.vdot(ours, truth)) / norms),
        phase_correlation=_pearson(np.angle(ours), np.angle(truth)),
        phase_error_rad=float(np.mean(np.abs(np.angle(ours * truth.conj())))),
        amplitude_psnr_db=amplitude_psnr,
        phase_psnr_db=phase_psnr,
        amplitude_ssim=amplitude_ssim,
        phase_ssim=phase_ssim,
        shift_px=alignment.shift_px,
        factor=alignment.factor,
        pixels=int(np.count_nonzero(region)),
        trim_px=trim_px,
    )


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
    outline = np.pad(ndimage.binary_fill_holes(covered), 1)
    depth = ndimage.distance_transform_cdt(outline, metric="chessboard")[1:-1, 1:-1]
    return covered & (depth > trim_px)


def _truth_coordinates(reconstruction: Reconstruction, shift_px: NDArray) -> tuple[NDArray, NDArray]:
    """Rows and columns of the known object under the canvas' rows and columns."""
    height, width = reconstruction.object.shape
    x, y = np.asarray(reconstruction.origin_px, np.float64) + shift_px
    return np.arange(height) + y, np.arange(width) + x


def _truth_at(truth_image: NDArray, reconstruction: Reconstruction, shift_px: NDArray) -> NDArray:
    """The known object on the canvas' pixels; cubic splines, because linear ones blur at half pixels."""
    rows, columns = np.meshgrid(*_truth_coordinates(reconstruction, shift_px), indexing="ij")
    return ndimage.map_coordinates(truth_image, (rows, columns), order=3, mode="nearest")


def _mask_at(mask: NDArray[np.bool_], reconstruction: Reconstruction, shift_px: NDArray) -> NDArray[np.bool_]:
    """Canvas pixels all of whose neighbours in the known object are inside it and lit."""
    rows, columns = _truth_coordinates(reconstruction, shift_px)
    framed = np.pad(mask, 1)
    result = np.ones((len(rows), len(columns)), bool)
    for row in (np.floor(rows), np.ceil(rows)):
        for column in (np.floor(columns), np.ceil(columns)):
            row_index = np.clip(row.astype(np.int64) + 1, 0, framed.shape[0] - 1)
            column_index = np.clip(column.astype(np.int64) + 1, 0, framed.shape[1] - 1)
            result &= framed[row_index[:, None], column_index[None, :]]
    return result


def _registered(reconstruction: Reconstruction, truth_image: NDArray, region: NDArray[np.bool_]) -> NDArray:
    """`[x, y]` by which to move the reconstruction; zero where no small shift brings the images closer."""
    from skimage.registration import phase_cross_correlation

    box = _bounding_box(region)
    inside = region[box]
    ours = _windowed(reconstruction.object[box], inside)
    start = _truth_at(truth_image, reconstruction, np.zeros(2))[box]
    if not (np.any(ours) and np.any(_windowed(start, inside))):
        return np.zeros(2)
    shift = np.zeros(2)
    for _ in range(REGISTRATION_PASSES):
        truth = _windowed(_truth_at(truth_image, reconstruction, shift)[box], inside)
        # plain cross-correlation: its maximum over shifts ignores a global phase, and is robust to noise
        step, _, _ = phase_cross_correlation(truth, ours, upsample_factor=UPSAMPLING, normalization=None)
        shift = shift + step[::-1]
        if np.abs(shift).max() > MAX_SHIFT_PX:
            log.warning(
                "registration: a shift of x %+.1f, y %+.1f px is more than %g px and is not removed",
                *shift, MAX_SHIFT_PX,
            )  # fmt: skip
            return np.zeros(2)
        if np.abs(step).max() <= 1.0 / UPSAMPLING:
            break
    moved = _truth_at(truth_image, reconstruction, shift)[box]
    before = _coherence(reconstruction.object[box][inside], start[inside])
    after = _coherence(reconstruction.object[box][inside], moved[inside])
    return shift if after > before else np.zeros(2)


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
