"""A scan: positions, diffraction patterns, guesses of probe and object; from and to files."""

import copy
import dataclasses
import logging
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.stored_patterns import (
    ChosenPatterns,
    ClippedPatterns,
    StoredPatterns,
    chunks,
    is_file_backed,
    release_pages,
)
from ptycho_backends.scans.valid_pixels import (
    LEAST_FRAMES,
    MOST_INVALID,
    PixelStatistics,
    combined_statistics,
    invalid_pixels,
    pixel_statistics,
    require_mask,
    settled_mask,
)

log = logging.getLogger(__name__)

MEASUREMENTS = ("amplitude", "intensity", "auto")


PTYCHODUS_ANCHOR_PX = 0.5
"""Shift from positions of Ptychodus to those of a `Scan`. Ptychodus anchors a patch at the middle of its N pixels,
`(N - 1) / 2`, a `Scan` at its pixel `N // 2`."""


# Frames in which pixels without a use are looked for where not all frames are read.
SAMPLED_FRAMES = 64

# Positions in object pixels that span less than this are in another unit.
LEAST_SPAN_PX = 0.1

# Frames in which fractions are looked for.
COMPARED_FRAMES = 8

# Largest relative difference of a mode that is given twice.
SAME_MODE = 1e-5

# Patterns that are converted at once where a whole scan is walked through, if they are small.
CHUNK = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Scan:
    """Recorded data of a scan, checked and unchanged.

    Parameters
    ----------
    xcoords, ycoords : (M,) real array
        Patch centres on the object grid, in object pixels; x is the column, y the row.
    patterns : (M, N, N) real array or `StoredPatterns`, [ky, kx]
        Diffraction patterns with the zero frequency at `[N//2, N//2]`. Kept in their own dtype, and where they
        are: memory-mapped ones and those of `open_patterns` are read batch by batch.
    probe_guess : (N, N) or (modes, N, N) complex array, [y, x], optional
        Illumination; of several modes the attribute is the most intense one, (N, N) complex64.
    probe_modes : (modes, N, N) complex array, [y, x], optional
        Mutually incoherent modes of the illumination; the attribute has them by falling power, complex64.
        Default: those of `probe_guess`, also where that is not the most intense of them.
    valid_pixels : (N, N) bool array, [ky, kx], optional
        False for pixels that are dead, hot or hidden. Pixels that hold NaN, the largest value of their dtype, or
        in every frame one value that no count could have are invalid as well; the log states their number.
        The attribute is None where every pixel is valid. Measured amplitudes are 0 at invalid pixels, and
        energies leave them out.
    object_guess : (H, W) complex array, [y, x], optional
        Ground truth or an earlier reconstruction; the pixel `[i, j]` lies at `y = i, x = j`.
    measurement : {'auto', 'amplitude', 'intensity'}
        Content of `patterns`: photon counts (intensity) or their square root (amplitude). 'auto' takes
        an integer dtype for counts, and whole numbers in floating point; others for amplitude.
    scan_index : (M,) integer array, optional
        Number of each pattern in the source scan.
    xcoords_start, ycoords_start : (M,) real array, optional
        Positions before any refinement; default: the positions.
    object_mask : (H, W) bool array, optional
        Where `object_guess` was lit; images are compared only there.
    pixel_size_m : float, optional
        Side of an object pixel in metres.
    photon_energy_eV, detector_distance_m : float, optional
        Of the experiment; only files for Ptychodus ask for them.
    name : str
        For messages and pictures.
    notes : tuple of str
        Sources of the parts in a file, their units, and the changes made on reading.

    Raises
    ------
    ScanError, ShapeError
        Unequal lengths, no positions, NaN or negative patterns, non-square patterns, and the like.
    """

    xcoords: NDArray[np.float64]
    ycoords: NDArray[np.float64]
    patterns: NDArray | StoredPatterns
    probe_guess: NDArray[np.complex64] | None = None
    object_guess: NDArray[np.complex64] | None = None
    measurement: str = "auto"
    scan_index: NDArray[np.int64] | None = None
    xcoords_start: NDArray[np.float64] | None = None
    ycoords_start: NDArray[np.float64] | None = None
    object_mask: NDArray[np.bool_] | None = None
    pixel_size_m: float | None = None
    photon_energy_eV: float | None = None
    detector_distance_m: float | None = None
    name: str = field(default="scan")
    probe_modes: NDArray[np.complex64] | None = None
    valid_pixels: NDArray[np.bool_] | None = None
    guess_of_modes: NDArray[np.complex64] | None = field(default=None, repr=False)
    """The `probe_guess` that `probe_modes` belong to; set by the scan itself."""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731 - the class is frozen
        set_("xcoords", checks.real_vector("xcoords", self.xcoords))
        count = len(self.xcoords)
        if count == 0:
            raise ScanError("xcoords: the scan is empty, want at least one position")
        set_("ycoords", checks.real_vector("ycoords", self.ycoords, count))
        span = max(float(np.ptp(self.xcoords)), float(np.ptp(self.ycoords)))
        if 0 < span < LEAST_SPAN_PX:
            log.warning(
                "%s: %d positions within %.3g pixels; they are in object pixels here, so divide lengths by the side of "
                "an object pixel",
                self.name,
                count,
                span,
            )
        for name in ("xcoords_start", "ycoords_start"):
            given = getattr(self, name)
            here = getattr(self, name.removesuffix("_start"))
            set_(name, here if given is None else checks.real_vector(name, given, count))
        set_("patterns", _shaped_patterns(self.patterns, count))
        set_("measurement", resolved_measurement(self.measurement, self.patterns))
        given = self.valid_pixels
        given = None if given is None else require_mask("valid_pixels", given, self.N)
        given = None if given is None or given.all() else given
        set_("valid_pixels", given)
        found = self._checked_patterns()
        valid = settled_mask(self.name, given, self.patterns, found, self.measurement)
        set_("valid_pixels", valid)
        if valid is not None and (given is None or (valid != given).any()):
            # measured with pixels that are found to be invalid
            for values in self._known.values():
                values[:] = np.nan
        # a copy of a scan without its guess (`dataclasses.replace`) has no probe, whatever modes came with the guess
        without_guess = self.probe_guess is None and self.guess_of_modes is not None
        modes = None
        if self.probe_modes is not None and not without_guess:
            modes = _modes_by_power("probeModes", self.probe_modes, self.N)
        if self.probe_guess is not None:
            guessed = _modes_by_power("probeGuess", self.probe_guess, self.N)
            set_("probe_guess", guessed[0])
            # a copy of a scan with another guess (`dataclasses.replace`) has the modes of that guess
            modes = guessed if modes is None or not _is_same_mode(modes[0], guessed[0]) else modes
        elif modes is not None:
            set_("probe_guess", modes[0])
        set_("probe_modes", modes)
        set_("guess_of_modes", self.probe_guess)
        if self.object_guess is not None:
            set_("object_guess", checks.complex_image("objectGuess", self.object_guess))
        if self.object_mask is not None:
            mask = checks.as_array("objectMask", self.object_mask, "biu", "True and False").astype(bool)
            if self.object_guess is None or mask.shape != self.object_guess.shape:
                raise ShapeError(f"objectMask: got shape {mask.shape}, want that of objectGuess")
            set_("object_mask", mask)
        index = np.arange(count) if self.scan_index is None else self.scan_index
        set_("scan_index", checks.integer_vector("scan_index", index, count))
        for name in ("pixel_size_m", "photon_energy_eV", "detector_distance_m"):
            value = getattr(self, name)
            if value is not None and not _is_positive(value):
                raise ScanError(f"{name}: got {value!r}, want a finite number > 0, or None")

    def __len__(self) -> int:
        return len(self.xcoords)

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return int(self.patterns.shape[-1])

    @property
    def scan_positions_px(self) -> NDArray[np.float64]:
        """(M, 2) float64, `[x, y]` of each patch centre in object pixels."""
        return np.stack([self.xcoords, self.ycoords], axis=-1)

    def diffraction_amplitude(self, indices: ArrayLike | slice = slice(None)) -> NDArray[np.float32]:
        """Measured amplitude of the patterns `indices`, float32, shape `indices.shape + (N, N)`.

        The square root of the counts if the scan holds counts, else the patterns as they are; 0 at invalid
        pixels.
        """
        chosen = self.patterns[indices if isinstance(indices, slice) else np.asarray(indices)]
        amplitude = chosen.astype(np.float32)
        release_pages(self.patterns)
        if self.valid_pixels is not None:
            amplitude[..., ~self.valid_pixels] = 0.0
        return np.sqrt(amplitude, out=amplitude) if self.measurement == "intensity" else amplitude

    def positions_of(self, indices: ArrayLike) -> NDArray[np.float64]:
        """`indices.shape + (2,)` float64: `scan_positions_px[indices]`, without a copy of all the others."""
        chosen = np.asarray(indices)
        return np.stack([self.xcoords[chosen], self.ycoords[chosen]], axis=-1)

    @property
    def pattern_energies(self) -> NDArray[np.float64]:
        """(M,) float64, the sum of squared amplitudes (the photon count) of each pattern."""
        return self.energies_of(slice(None))

    @property
    def pattern_maxima(self) -> NDArray[np.float64]:
        """(M,) float64, the largest amplitude of each pattern."""
        return self.maxima_of(slice(None))

    @cached_property
    def _known(self) -> dict[str, NDArray[np.float64]]:
        """Measured properties of the patterns; NaN where a pattern has not been read yet."""
        return {name: np.full(len(self), np.nan) for name in ("energies", "maxima")}

    def energies_of(self, indices: ArrayLike | slice) -> NDArray[np.float64]:
        """`pattern_energies[indices]`; only those patterns are read, and each only once."""
        return self._measured("energies", indices)

    def maxima_of(self, indices: ArrayLike | slice) -> NDArray[np.float64]:
        """`pattern_maxima[indices]`; only those patterns are read, and each only once."""
        return self._measured("maxima", indices)

    def _measured(self, name: str, indices: ArrayLike | slice) -> NDArray[np.float64]:
        known = self._known[name]
        wanted = np.arange(len(self))[indices if isinstance(indices, slice) else np.asarray(indices)]
        missing = np.unique(wanted[np.isnan(known[wanted])])
        for part in chunks(len(missing), self.N, CHUNK):
            self._measure(name, missing[part], self.patterns[_as_slice(missing[part])])
            release_pages(self.patterns)
        return known[wanted]

    def _measure(self, name: str, which: NDArray[np.int64] | slice, chunk: NDArray) -> None:
        """Note energies or maxima of the patterns `which`, which are those of `chunk`."""
        if name == "maxima":
            valid = True if self.valid_pixels is None else self.valid_pixels
            largest = np.max(chunk, axis=(-2, -1), where=valid, initial=0).astype(np.float64)
            values = np.sqrt(largest) if self.measurement == "intensity" else largest
        else:
            # float64 before squaring: integers would overflow, float32 sums would lose counts
            numbers = chunk.astype(np.float64)
            if self.measurement == "amplitude":
                np.square(numbers, out=numbers)
            if self.valid_pixels is not None:
                numbers[..., ~self.valid_pixels] = 0.0
            values = numbers.sum(axis=(-2, -1))
        self._known[name][which] = values

    @cached_property
    def lit_fraction(self) -> float:
        """Fraction of the probe's far-field energy that falls on valid pixels; 1 where all are valid.

        The energy of a whole pattern is its measured energy over this. Without a probe it is not known, and 1.
        """
        if self.valid_pixels is None or self.probe_modes is None:
            return 1.0
        far_field = np.abs(np.fft.fft2(self.probe_modes.astype(np.complex128))) ** 2
        energy = np.fft.fftshift(far_field.sum(axis=0))
        total = float(energy.sum())
        return float(energy[self.valid_pixels].sum()) / total if total > 0 else 1.0

    def _checked_patterns(self) -> PixelStatistics:
        """Look for negative and unusable values, and note the extremes of each pixel.

        Counts without a sign that stay in a file are not read for this, but for a few frames.
        """
        if self.patterns.dtype.kind == "u" and is_file_backed(self.patterns):
            few = np.unique(np.linspace(0, len(self) - 1, SAMPLED_FRAMES).astype(int))
            return pixel_statistics(self.patterns[few])
        parts = []
        # what costs a pass over a file is measured on the same pass
        measured = tuple(self._known) if is_file_backed(self.patterns) else ()
        for part in chunks(len(self), self.N, CHUNK):
            chunk = self.patterns[part]
            parts.append(pixel_statistics(chunk))
            self._refuse_broken(chunk, parts[-1], part.start)
            for name in measured:
                self._measure(name, part, chunk)
            release_pages(self.patterns)
        found = combined_statistics(parts)
        invalid = np.zeros((self.N, self.N), bool) if self.valid_pixels is None else ~self.valid_pixels
        for pixels in invalid_pixels(found, self.patterns.dtype, self.measurement).values():
            invalid |= pixels
        if (found.smallest < 0)[~invalid].any():
            self._refuse_negatives(~invalid)
        return found

    def _refuse_broken(self, chunk: NDArray, found: PixelStatistics, start: int) -> None:
        """Raise `ScanError` for the first pattern of `chunk` in which most values are not finite."""
        if np.mean(found.not_finite) > MOST_INVALID:
            broken = np.mean(~np.isfinite(chunk), axis=(1, 2)) > MOST_INVALID
            if broken.any():
                raise ScanError(
                    f"diff3d: pattern {start + int(np.argmax(broken))} holds NaN or infinite values nearly "
                    "everywhere; leave it and its position out"
                )

    def _refuse_negatives(self, valid: NDArray[np.bool_]) -> None:
        """Raise `ScanError` for the first pattern with a negative value at a valid pixel."""
        for part in chunks(len(self), self.N, CHUNK):
            negative = (self.patterns[part][:, valid] < 0).any(axis=1)
            if negative.any():
                raise ScanError(
                    f"diff3d: pattern {part.start + int(np.argmax(negative))} holds negative values, want counts "
                    "or amplitudes >= 0; clip what background subtraction left"
                )

    def part(self, numbers: ArrayLike, name: str = "part") -> "Scan":
        """The scan of some of the positions; patterns in a file stay there.

        Parameters
        ----------
        numbers : (m,) integer array
            Of the positions, in the order wanted.
        name : str
            Added to the scan's.
        """
        chosen = np.asarray(numbers, np.int64)
        fields = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "scan_index")
        stays = is_file_backed(self.patterns)
        return dataclasses.replace(
            self,
            patterns=ChosenPatterns(self.patterns, chosen) if stays else self.patterns[chosen],
            name=f"{self.name}, {name}",
            **{field: getattr(self, field)[chosen] for field in fields},
        )

    def with_probe(self, probe_guess: NDArray) -> "Scan":
        """The same scan with another probe; its patterns are not checked a second time.

        Parameters
        ----------
        probe_guess : (N, N) or (modes, N, N) complex array, [y, x]

        Raises
        ------
        ShapeError
        """
        other = copy.copy(self)
        modes = _modes_by_power("probeGuess", probe_guess, self.N)
        object.__setattr__(other, "probe_modes", modes)
        object.__setattr__(other, "probe_guess", modes[0])
        # of the other probe
        vars(other).pop("lit_fraction", None)
        return other

    def __repr__(self) -> str:
        parts = [f"{len(self)} positions", f"{self.N} x {self.N} pixels", self.measurement]
        parts += ["probe"] if self.probe_guess is not None else []
        if self.object_guess is not None:
            parts.append(f"object {self.object_guess.shape[0]} x {self.object_guess.shape[1]}")
        return f"Scan({self.name!r}: {', '.join(parts)})"


def _shaped_patterns(values: ArrayLike | StoredPatterns, count: int) -> NDArray | StoredPatterns:
    patterns: Any = values
    if not isinstance(values, StoredPatterns):
        patterns = checks.as_array("diff3d", values, "iuf", "real numbers")
    elif values.dtype.kind not in "iuf":
        raise ShapeError(f"diff3d: got dtype {values.dtype}, want real numbers")
    checks.require_shape("diff3d", patterns, (None, None, None), ("positions", "ky", "kx"))
    if len(patterns) != count:
        raise ScanError(f"diff3d: got {len(patterns)} patterns for {count} positions; want one for each")
    if patterns.shape[1] != patterns.shape[2] or patterns.shape[1] == 0:
        raise ShapeError(f"diff3d: got patterns of {patterns.shape[1:]} pixels, want square ones")
    return patterns


def _as_slice(indices: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Ascending different numbers as a slice, if they follow one another: that copies nothing."""
    first, last = int(indices[0]), int(indices[-1])
    return slice(first, last + 1) if last - first + 1 == len(indices) else indices


def resolved_measurement(measurement: str, patterns: NDArray | StoredPatterns, *, quiet: bool = False) -> str:
    """'amplitude' or 'intensity'; 'auto' is decided by the dtype, and by a few patterns if that is floating point."""
    if measurement not in MEASUREMENTS:
        raise ScanError(f"measurement: got {measurement!r}, want one of {', '.join(map(repr, MEASUREMENTS))}")
    if measurement != "auto":
        return measurement
    decided, why = "intensity", "of integers"
    if patterns.dtype.kind == "f":
        whole = _are_whole(patterns)
        decided = "intensity" if whole else "amplitude"
        why = "of whole numbers in floating point" if whole else "of fractions"
    if not quiet:
        log.info(
            "measurement: patterns %s (%s) are taken for %s; measurement='%s' overrules that",
            why,
            patterns.dtype,
            decided,
            "amplitude" if decided == "intensity" else "intensity",
        )
    return decided


def _are_whole(patterns: NDArray | StoredPatterns) -> bool:
    """True where a few patterns hold whole numbers only, some of them above 1, as counts do and their roots do not."""
    few = np.unique(np.linspace(0, len(patterns) - 1, COMPARED_FRAMES).astype(int))
    sample = np.asarray(patterns[few])
    release_pages(patterns)
    sample = sample[np.isfinite(sample)]
    return bool(sample.size and sample.max() > 1 and (sample == np.rint(sample)).all())


def _modes_by_power(name: str, values: ArrayLike, side: int) -> NDArray[np.complex64]:
    """One image or several as (modes, N, N) complex64, the most intense first."""
    modes = checks.complex_modes(name, values, side)
    power = np.sum(np.abs(modes.astype(np.complex128)) ** 2, axis=(1, 2))
    falling = np.argsort(-power, kind="stable")
    return modes[falling]


def _is_same_mode(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> bool:
    return bool(np.linalg.norm(one - other) <= SAME_MODE * np.linalg.norm(other))


def _is_positive(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.number) and not isinstance(
        value, bool | np.complexfloating
    )
    return bool(is_number and 0 < value < math.inf)


def without_negatives(patterns: NDArray, name: str) -> NDArray | StoredPatterns:
    """Set negative values of `patterns` to zero, and log their number: filling bad pixels may undershoot.

    A pixel with one negative value in every frame keeps it, because it marks a pixel that counts nothing.
    """
    if patterns.dtype.kind not in "if" or patterns.ndim != 3 or len(patterns) == 0:
        return patterns
    negative, marked = 0, np.ones(patterns.shape[1:], bool)
    first = np.asarray(patterns[0])
    for part in chunks(len(patterns), patterns.shape[-1]):
        below = patterns[part] < 0
        negative += int(np.count_nonzero(below))
        if marked.any():
            marked &= below.all(axis=0) & (patterns[part] == first).all(axis=0)
        release_pages(patterns)
    if len(patterns) < LEAST_FRAMES:
        marked[...] = False
    negative -= len(patterns) * int(np.count_nonzero(marked))
    if negative == 0:
        return patterns
    log.warning("%s: %d negative counts are set to 0", name, negative)
    clipped = ClippedPatterns(patterns, marked)
    return clipped if is_file_backed(patterns) else np.asarray(clipped)


def known_object(image: NDArray | None) -> NDArray | None:
    """`image`, or None where it is 1 everywhere: Ptychodus writes unknown objects so."""
    if image is not None and image.size and image.dtype.kind in "iufc" and bool(np.all(image == 1)):
        log.info("objectGuess: 1 everywhere, as Ptychodus writes it where the object is not known; left out")
        return None
    return image
