"""From a file's units, axes and frames to those of a `Scan`: object pixels, square patterns, centred far field.

`ScanOptions` are the wishes of whoever reads a scan, and `scan_from_raw` carries them out. Each step leaves a line in
`Scan.notes`.
"""

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_backends import checks
from ptycho_backends.errors import ScanError, ShapeError
from ptycho_backends.files.mapped_npz import mapped_npy
from ptycho_backends.files.stored_patterns import chunks, is_file_backed
from ptycho_backends.scans.detector_frames import FrameSteps, SteppedPatterns, centre_of_mass
from ptycho_backends.scans.raw_scan import HC_EV_M, POSITION_UNITS, Positions, RawScan
from ptycho_backends.scans.resampling import cropped_far_field, resampled_image, scaled_mask
from ptycho_backends.scans.scan import (
    LEAST_SPAN_PX,
    SAMPLED_FRAMES,
    Scan,
    resolved_measurement,
    without_negatives,
)
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions, as_pair
from ptycho_backends.scans.valid_pixels import (
    combined_statistics,
    invalid_pixels,
    pixel_statistics,
    require_mask,
)

log = logging.getLogger(__name__)

# Two sides of a pixel that differ by less are one length.
SQUARE = 1e-6


def with_options(scan: Scan, options: ScanOptions, name: str | None = None) -> Scan:
    """`scan` with units, axes, frames and centre changed as `options` want; see `scan_from_raw`.

    Raises
    ------
    ScanError, ShapeError
    """
    raw = RawScan(
        format="Scan",
        name=scan.name if name is None else name,
        patterns=scan.patterns,
        positions=scan.scan_positions_px,
        positions_unit="px",
        positions_start=(np.asarray(scan.xcoords_start), np.asarray(scan.ycoords_start)),
        measurement=scan.measurement,
        energy_eV=scan.photon_energy_eV,
        distance_m=scan.detector_distance_m,
        pixel_size_m=scan.pixel_size_m,
        probe=scan.probe_guess,
        probe_modes=scan.probe_modes,
        object=scan.object_guess,
        object_mask=scan.object_mask,
        valid_pixels=scan.valid_pixels,
        scan_index=scan.scan_index,
        notes=list(scan.notes),
    )
    return scan_from_raw(raw, options)


def scan_from_raw(
    raw: RawScan,
    options: ScanOptions = NO_OPTIONS,
    *,
    measurement: str = "auto",
    valid_pixels: ArrayLike | None = None,
    clip_negative: bool = False,
) -> Scan:
    """Make a `Scan` of a file's content.

    Parameters
    ----------
    raw : RawScan
    options : ScanOptions
    measurement : {'auto', 'amplitude', 'intensity'}
        'auto' takes that of `raw`.
    valid_pixels : (N, N) or (H, W) array, [ky, kx], optional
        Mask of the patterns as they become, or of the frames as they are in the file.
    clip_negative : bool
        Set negative counts to 0.

    Returns
    -------
    Scan
        Its probe and its pixel size follow the patterns: a part of the detector makes larger object pixels, binned
        pixels make a smaller field of view. Positions are scaled with the pixel.

    Raises
    ------
    ScanError, ShapeError
        If a length cannot be converted to pixels, or `Scan` refuses the values.
    """
    if raw.positions is None:
        raise ScanError(
            f"{raw.format}: {len(raw.patterns)} patterns of {raw.shape[0]} x {raw.shape[1]} pixels without "
            "positions; name a file of them with --positions-from FILE (CSV, text, NPY, or HDF5 as FILE:DATASET)"
        )
    found = conversion_of(raw, options, measurement=measurement, valid_pixels=valid_pixels)
    notes, steps, shape = found.notes, found.steps, _turned(raw.shape, options)
    measured, pixels, padded_mask = found.measurement, found.pixels, found.valid_pixels
    positions, start = found.positions(raw.positions, notes), None
    if raw.positions_start is not None:
        convert = _Positions(raw, options, pixels, steps, shape, notes)
        start = convert(raw.positions_start, "_start", len(positions))
    probe, modes = found.probe(raw.probe, notes), found.probe(raw.probe_modes, [])
    if options.transpose and probe is not None:
        notes.append("probe: as in the file, for only the patterns are transposed")
    image, object_mask = _object(raw, shape, steps, pixels.growth, notes)
    patterns: Any = raw.patterns
    if steps.is_needed(raw.shape):
        patterns = SteppedPatterns(patterns, steps)
        patterns = patterns if is_file_backed(raw.patterns) else np.asarray(patterns)
    if clip_negative or raw.clip_negative:
        patterns = without_negatives(patterns, raw.name)
    for line in notes:
        log.info("%s: %s", raw.name, line)
    return Scan(
        xcoords=positions[:, 0],
        ycoords=positions[:, 1],
        patterns=patterns,
        probe_guess=probe,
        object_guess=image,
        measurement=measured,
        scan_index=raw.scan_index,
        xcoords_start=None if start is None else start[:, 0],
        ycoords_start=None if start is None else start[:, 1],
        object_mask=object_mask,
        pixel_size_m=pixels.size_m,
        photon_energy_eV=_either(options.energy_eV, raw.energy_eV),
        detector_distance_m=_either(options.distance_m, raw.distance_m),
        name=raw.name,
        valid_pixels=padded_mask,
        probe_modes=modes,
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class Conversion:
    """Conversion of a file's frames and positions, settled once; further frames of the same scan follow it.

    Attributes
    ----------
    raw : RawScan
        That it was settled with.
    options : ScanOptions
    measurement : {'auto', 'amplitude', 'intensity'}
    steps : FrameSteps
        From frames to patterns.
    valid_pixels : (N, N) bool array, [ky, kx], optional
        Of the patterns.
    pixels : _ObjectPixels
    notes : list of str
    """

    raw: RawScan
    options: ScanOptions
    measurement: str
    steps: FrameSteps
    valid_pixels: NDArray[np.bool_] | None
    pixels: "_ObjectPixels"
    notes: list[str]

    def patterns(self, frames: NDArray) -> NDArray:
        """Patterns (n, N, N) of frames (n, H, W)."""
        return self.steps.pattern(frames) if self.steps.is_needed(self.raw.shape) else frames

    def positions(self, given: Positions, notes: list[str] | None = None) -> NDArray[np.float64]:
        """Positions (M, 2), `[x, y]` in object pixels, of those in the file's unit; `notes` are added to.

        Raises
        ------
        ScanError, ShapeError
        """
        shape = _turned(self.raw.shape, self.options)
        notes = [] if notes is None else notes
        return _Positions(self.raw, self.options, self.pixels, self.steps, shape, notes)(given)

    def probe(self, given: NDArray | None, notes: list[str]) -> NDArray | None:
        """Probe or modes (..., h, w) of the file on the pixels of the patterns."""
        shape = _turned(self.raw.shape, self.options)
        return _probe(self.raw, given, shape, self.steps, self.pixels.growth, notes)


def conversion_of(
    raw: RawScan,
    options: ScanOptions = NO_OPTIONS,
    *,
    measurement: str = "auto",
    valid_pixels: ArrayLike | None = None,
) -> Conversion:
    """Settle the conversion of the frames of `raw`, and of those that follow; parameters as `scan_from_raw`.

    Raises
    ------
    ScanError, ShapeError
    """
    checks.require_shape("diff3d", raw.patterns, (None, None, None), ("positions", "ky", "kx"))  # type: ignore[arg-type]
    if len(raw.patterns) == 0 or 0 in raw.shape:
        if len(raw.patterns) == 0:
            raise ScanError("diff3d: the scan is empty, want at least one pattern")
        raise ShapeError(f"diff3d: got patterns of {raw.shape} pixels, want square ones")
    if options.size is None and raw.shape[0] != raw.shape[1]:
        raise ShapeError(
            f"diff3d: got patterns of {raw.shape} pixels, want square ones; --size N takes those around the centre"
        )
    notes = list(raw.notes)
    measured = raw.measurement if measurement == "auto" else measurement
    steps, mask = _steps(raw, options, measured, valid_pixels, notes)
    pixels = _ObjectPixels.of(raw, options, _turned(raw.shape, options), steps, notes)
    return Conversion(raw, options, measured, steps, mask, pixels, notes)


# --- frames


def _turned(shape: tuple[int, int], options: ScanOptions) -> tuple[int, int]:
    return shape[::-1] if options.transpose else shape


def _steps(
    raw: RawScan, options: ScanOptions, measured: str, given: ArrayLike | None, notes: list[str]
) -> tuple[FrameSteps, NDArray[np.bool_] | None]:
    """Steps from frames to patterns, and the mask of the patterns."""
    height, width = _turned(raw.shape, options)
    side = min(height, width)
    if options.size is None and side % options.bin:
        side -= side % options.bin
    window = side if options.size is None else options.size * options.bin
    shift = raw.corner if options.shift is None else options.shift
    mask = None if raw.valid_pixels is None else np.asarray(raw.valid_pixels, bool)
    summed = options.bin > 1 or options.background is not None or options.centre == "auto"
    is_amplitude = summed and _is_amplitude(raw, measured)
    steps = FrameSteps(
        background=_background(options.background, raw.shape),
        threshold=options.threshold,
        shift=shift,
        transpose=options.transpose,
        centre=(height // 2, width // 2),
        window=window,
        bin=options.bin,
        is_amplitude=is_amplitude,
    )
    of_frames = given is not None and np.shape(given)[-2:] == raw.shape and np.shape(given)[-1] != steps.side
    if of_frames:
        own = np.asarray(given).reshape(raw.shape) != 0
        mask, given = own if mask is None else mask & own, None
    centre = _centre(raw, options, steps, mask, notes)
    steps = dataclasses.replace(steps, centre=centre)
    if steps.is_needed(raw.shape):
        # markers of dead pixels are known by their values, which sums and shifts would hide
        steps = dataclasses.replace(steps, valid=_marked(raw, mask, measured))
        mask = steps.mask(raw.shape)
        _note_frames(steps, raw, options, notes)
    if given is not None:
        own = require_mask("valid_pixels", given, steps.side)
        mask = own if mask is None else mask & own
    return steps, mask


def _is_amplitude(raw: RawScan, measured: str) -> bool:
    return resolved_measurement(measured, raw.patterns, quiet=True) == "amplitude"


def _marked(raw: RawScan, mask: NDArray[np.bool_] | None, measured: str) -> NDArray[np.bool_] | None:
    """`mask` without the pixels whose stored values no count could have."""
    few: Any = slice(None)
    if is_file_backed(raw.patterns):
        few = np.unique(np.linspace(0, len(raw.patterns) - 1, SAMPLED_FRAMES).astype(int))
        found = pixel_statistics(np.asarray(raw.patterns[few]))
    else:
        parts = chunks(len(raw.patterns), max(raw.shape))
        found = combined_statistics([pixel_statistics(raw.patterns[part]) for part in parts])
    kind = "amplitude" if _is_amplitude(raw, measured) else "intensity"
    valid = np.ones(raw.shape, bool) if mask is None else mask.copy()
    for reason, pixels in invalid_pixels(found, raw.patterns.dtype, kind).items():
        if count := int(np.count_nonzero(pixels & valid)):
            log.warning("%s: %d of %d detector pixels take no part (%s)", raw.name, count, valid.size, reason)
            valid &= ~pixels
    return None if valid.all() else valid


def _centre(
    raw: RawScan, options: ScanOptions, steps: FrameSteps, mask: NDArray[np.bool_] | None, notes: list[str]
) -> tuple[int, int]:
    """Pixel of the zero frequency after shift and transposition."""
    if options.centre == "auto":
        few = np.unique(np.linspace(0, len(raw.patterns) - 1, SAMPLED_FRAMES).astype(int))
        whole = max(_turned(raw.shape, options))
        turned = dataclasses.replace(steps, centre=(whole // 2, whole // 2), window=whole, bin=1, valid=mask)
        frames = turned.placed(turned.values(np.asarray(raw.patterns[few])))
        valid = turned.mask(raw.shape)
        found = centre_of_mass(frames, valid, steps.is_amplitude)
        notes.append(f"centre: the mean pattern's centre of mass, [{found[0]}, {found[1]}]")
        return found
    given: Any = options.centre
    if given is None and raw.centre is not None and not steps.shift:
        given = raw.centre[::-1] if options.transpose else raw.centre
    if given is None:
        return steps.centre
    found = round(float(given[0])), round(float(given[1]))
    height, width = _turned(raw.shape, options)
    if not (0 <= found[0] < height and 0 <= found[1] < width):
        raise ScanError(
            f"centre: got {given}, want a pixel (ky, kx) of the {height} x {width} that there are"
        )
    if found != steps.centre:
        notes.append(f"centre: pixel [{found[0]}, {found[1]}]")
    return found


def _note_frames(steps: FrameSteps, raw: RawScan, options: ScanOptions, notes: list[str]) -> None:
    done = []
    if np.any(steps.background):
        done.append("background subtracted")
    if steps.threshold is not None:
        done.append(f"values below {steps.threshold:g} set to 0")
    if steps.shift:
        done.append("zero frequency moved from the corner to the middle")
    if steps.transpose:
        done.append("rows and columns exchanged")
    if steps.window != raw.shape[0] or steps.window != raw.shape[1]:
        done.append(f"window of {steps.window} x {steps.window} of {raw.shape[0]} x {raw.shape[1]} pixels")
    if steps.bin > 1:
        done.append(f"{steps.bin} x {steps.bin} pixels summed")
    if steps.is_mostly_padding(raw.shape):
        done.append("zeros around them taken for measured ones")
    if done:
        notes.append(f"patterns: {', '.join(done)}")


def _background(given: Any, shape: tuple[int, int]) -> Any:
    if given is None:
        return 0.0
    if isinstance(given, str | Path):
        try:
            given = float(str(given))
        except ValueError:
            try:
                given = mapped_npy(given)
            except ScanError as error:
                raise ScanError(f"background: {error}") from error
    values = np.asarray(given, np.float32)
    if values.ndim and values.shape != shape:
        raise ShapeError(f"background: got shape {values.shape}, want a number or a frame {shape}")
    return float(values) if values.ndim == 0 else values


# --- positions


@dataclass(frozen=True)
class _ObjectPixels:
    """Sides of an object pixel of the patterns as they become; None where unknown.

    Attributes
    ----------
    sides_m : (float, float), [x, y], optional
    size_m : float, optional
        If both are one.
    growth : float
        Side of an object pixel over that of the file.
    """

    sides_m: tuple[float, float] | None
    size_m: float | None
    growth: float

    @classmethod
    def of(
        cls, raw: RawScan, options: ScanOptions, shape: tuple[int, int], steps: FrameSteps, notes: list[str]
    ) -> "_ObjectPixels":
        energy, distance = (
            _either(options.energy_eV, raw.energy_eV),
            _either(options.distance_m, raw.distance_m),
        )
        detector = None if options.detector_pixel_m is None else as_pair(options.detector_pixel_m)
        detector = raw.detector_pixel_m if detector is None else detector
        if options.transpose and options.detector_pixel_m is None and detector is not None:
            detector = detector[::-1]
        # frames that are not square have no object pixel before the window is cut out of them
        growth = shape[0] / steps.window if shape[0] == shape[1] else 1.0
        size = _either(options.pixel_size_m, raw.pixel_size_m)
        changed = options.energy_eV or options.distance_m or options.detector_pixel_m
        if options.pixel_size_m is None and energy and distance and detector and (size is None or changed):
            sides = tuple(HC_EV_M / energy * distance / (steps.window * side) for side in detector)
            before = size
            size = sides[0] if math.isclose(*sides, rel_tol=SQUARE) else None
            notes.append(
                f"object pixel: {sides[0] * 1e9:.5g} nm = wavelength {HC_EV_M / energy * 1e9:.5g} nm x distance "
                f"{distance:.5g} m / ({steps.window} pixels of {detector[0] * 1e6:.5g} um)"
                + (f"; the file has {before * growth * 1e9:.5g} nm" if before else "")
            )
            if size is None:
                notes.append(f"object pixel: not square, {sides[1] * 1e9:.5g} nm along y")
            return cls(sides, size, growth)  # type: ignore[arg-type]
        if size is None:
            return cls(None, None, growth)
        size *= growth
        return cls((size, size), size, growth)


@dataclass(frozen=True)
class _Positions:
    """Conversion of positions to object pixels of the patterns as they become."""

    raw: RawScan
    options: ScanOptions
    pixels: _ObjectPixels
    steps: FrameSteps
    shape: tuple[int, int]
    notes: list[str]

    def __call__(self, given: Positions, suffix: str = "", count: int | None = None) -> NDArray[np.float64]:
        notes: list[str] = [] if suffix else self.notes
        if isinstance(given, tuple):
            x = checks.real_vector(f"xcoords{suffix}", given[0], count)
            values = np.stack([x, checks.real_vector(f"ycoords{suffix}", given[1], len(x))], axis=-1)
        else:
            values = checks.as_array("positions", given, "iuf", "real numbers").astype(np.float64)
            checks.require_shape("positions", values, (None, 2), ("positions", "xy"))
            checks.require_finite("positions", values)
        if len(values) == 0:
            raise ScanError("positions: the scan is empty, want at least one position")
        unit = self.options.positions_unit or self.raw.positions_unit
        if unit is None:
            raise ScanError(
                f"positions: {self.raw.format} does not state their unit, and they span {_span(values)}; name it with "
                f"--positions-unit m, um, nm or px{'' if self.pixels.sides_m else self._needs()}"
            )
        if unit == "px":
            values = values / self.pixels.growth
            if self.pixels.growth != 1.0:
                notes.append(f"positions: in pixels of the file, divided by {self.pixels.growth:.5g}")
        else:
            if self.pixels.sides_m is None:
                raise ScanError(
                    f"positions: in {unit}, {_span(values)}, but the object pixel is not known{self._needs()}"
                )
            values = values * POSITION_UNITS[unit] / np.array(self.pixels.sides_m)
            notes.append(f"positions: from {unit} to object pixels")
        anchor = self.options.anchor or self.raw.anchor
        if anchor == "corner":
            # half of the field of view, in object pixels
            half = np.array([self.shape[1] // 2, self.shape[0] // 2]) / self.pixels.growth
            values = values + half
            notes.append("positions: of a patch's corner, moved to its centre")
        if self.options.swap_xy:
            values = values[:, ::-1]
            notes.append("positions: x and y exchanged")
        for axis, name in enumerate("xy"):
            if getattr(self.options, f"flip_{name}"):
                values = values.copy()
                values[:, axis] = values[:, axis].min() + values[:, axis].max() - values[:, axis]
                notes.append(f"positions: {name} reversed")
        if self.raw.positions_unit is None or self.options.positions_unit is not None or unit == "px":
            self._require_span(values)
        return np.ascontiguousarray(values)

    def _require_span(self, values: NDArray[np.float64]) -> None:
        if len(values) > 1 and 0 < float(np.ptp(values, axis=0).max()) < LEAST_SPAN_PX:
            raise ScanError(
                f"positions: {len(values)} of them within {_span(values)} object pixels, so they are in another unit; "
                f"name it, as with --positions-unit m{'' if self.pixels.sides_m else self._needs()}"
            )

    def _needs(self) -> str:
        known = {
            "--energy": _either(self.options.energy_eV, self.raw.energy_eV),
            "--distance": _either(self.options.distance_m, self.raw.distance_m),
            "--detector-pixel": self.options.detector_pixel_m or self.raw.detector_pixel_m,
        }
        missing = [name for name, value in known.items() if not value]
        return f"; it takes {' and '.join(missing)}, or --pixel-size alone" if missing else ""


def _span(values: NDArray) -> str:
    width, height = np.ptp(np.asarray(values, np.float64), axis=0)
    return f"{width:.4g} x {height:.4g}"


# --- probe and object


def _probe(
    raw: RawScan,
    given: NDArray | None,
    shape: tuple[int, int],
    steps: FrameSteps,
    growth: float,
    notes: list[str],
) -> NDArray | None:
    """Probe (..., h, w) on the pixels of the patterns as they become."""
    if given is None or not steps.is_needed(raw.shape):
        return given
    probe = np.asarray(given)
    if probe.shape[-2:] == (steps.side, steps.side) != shape:
        return probe
    if probe.shape[-2:] != shape or shape[0] != shape[1]:
        line = f"probe: of {probe.shape[-2:]} pixels, and the frames of {shape}; left out"
        log.warning("%s: %s", raw.name, line)
        notes.append(line)
        return None
    if growth == 1.0 and steps.bin == 1:
        return probe
    probe = cropped_far_field(probe, steps.window)
    low = steps.window // 2 - steps.side // 2
    notes.append(f"probe: brought to {steps.side} x {steps.side} pixels as the patterns")
    return probe[..., low : low + steps.side, low : low + steps.side]


def _object(
    raw: RawScan, shape: tuple[int, int], steps: FrameSteps, growth: float, notes: list[str]
) -> tuple[NDArray | None, NDArray | None]:
    """Object and its mask on the pixels of the patterns as they become."""
    image, mask = raw.object, raw.object_mask
    if growth == 1.0 or image is None:
        return image, mask
    image = resampled_image(np.asarray(image), steps.window, max(shape))
    mask = None if mask is None else scaled_mask(np.asarray(mask), image.shape)
    notes.append(f"object: brought to {image.shape[0]} x {image.shape[1]} pixels")
    return image, mask


# --- small


def _either(first: float | None, second: float | None) -> float | None:
    return second if first is None else first
