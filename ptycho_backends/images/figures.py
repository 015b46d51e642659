"""Pictures of a reconstruction, as PNG (or any suffix matplotlib writes).

Matplotlib's object-oriented interface only: no pyplot, so no window system and no global state.
"""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError
from ptycho_backends.images.agreement import PatternAgreement
from ptycho_backends.images.curves import save_history_figure
from ptycho_backends.images.drawing import DOTS_PER_INCH, new_figure, save_figure
from ptycho_backends.images.metrics import Alignment, Box, Metrics, align, covered_box
from ptycho_backends.images.ramp import linear_ramp, own_ramp, without_ramp
from ptycho_backends.images.report import report_line
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Reconstruction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = [
    "DOTS_PER_INCH",
    "probe_figure",
    "reconstruction_figure",
    "save_history_figure",
    "save_reconstruction_figure",
]

# A few hot or dead pixels must not decide the contrast.
CONTRAST_PERCENTILES = (0.5, 99.5)

AMPLITUDE_MAP = "gray"
PHASE_MAP = "viridis"
# A phase that fills the circle needs a map whose two ends meet.
CYCLIC_PHASE_MAP = "twilight"
ERROR_MAP = "RdBu_r"
PROBE_MAP = "inferno"
# Of uncovered pixels: neither black nor a colour of the maps.
BARE_COLOUR = "#dddddd"

PANEL_INCHES = 2.9
MODE_INCHES = 1.25
# Weaker modes are not drawn.
MODES_SHOWN = 6

# Lengths of a scale bar, times a power of ten, and its part of the image's width at most.
BAR_LENGTHS, BAR_FRACTION = (1.0, 2.0, 5.0), 0.3

_Extent = tuple[float, float, float, float]
_Limits = tuple[float, float]


class _Column(NamedTuple):
    """One image, drawn as amplitude and as phase; NaN where nothing is shown."""

    title: str
    amplitude: NDArray
    phase: NDArray
    is_difference: bool = False


class _Style(NamedTuple):
    colour_map: str
    limits: _Limits
    label: str


def save_reconstruction_figure(
    reconstruction: Reconstruction,
    path: str | os.PathLike[str],
    scan: Scan | None = None,
    metrics: Metrics | None = None,
    alignment: Alignment | Literal["find"] | None = "find",
    agreement: PatternAgreement | None = None,
) -> Path:
    """Draw amplitude and phase; beside them the image it was refined from, the reference, and the difference.

    Linear phase ramps are removed for display: between the images, and that of the reference (or of the
    reconstruction, where there is none) from all. Probe modes stand below.

    Parameters
    ----------
    reconstruction : Reconstruction
    path : path
        The suffix chooses the format.
    scan : Scan, optional
        Its object guess is the reference: an earlier reconstruction, or the truth of a simulated scan.
    metrics : Metrics, optional
        Written above the panels.
    alignment : Alignment, 'find' or None
        The reference beside the reconstruction, where `metrics.align` has found it already; None draws
        the reconstruction alone. Default: find it.
    agreement : PatternAgreement, optional
        Written above the panels where there are no metrics.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    ScanError
        If nothing is covered.
    """
    return save_figure(reconstruction_figure(reconstruction, scan, metrics, alignment, agreement), path)


def reconstruction_figure(
    reconstruction: Reconstruction,
    scan: Scan | None = None,
    metrics: Metrics | None = None,
    alignment: Alignment | Literal["find"] | None = "find",
    agreement: PatternAgreement | None = None,
) -> "Figure":
    """The figure of `save_reconstruction_figure`."""
    if alignment == "find":
        alignment = _alignment(reconstruction, scan)
    columns = _columns(reconstruction, alignment)
    modes = reconstruction.probe_modes
    if modes is None and scan is not None:
        modes = scan.probe_modes
    box = covered_box(reconstruction)
    height, width = (part.stop - part.start for part in box)
    panel_height = PANEL_INCHES * min(max(height / width, 0.4), 2.0) + 0.25
    # a single image lies in one row
    panel_rows = 1 if len(columns) == 1 else 2
    across = 2 if len(columns) == 1 else len(columns)
    heights = [panel_rows * panel_height + 0.45] + ([MODE_INCHES + 0.35] if modes is not None else [])
    figure = new_figure(across * (PANEL_INCHES + 0.35) + 1.6, sum(heights) + 0.5)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(panel_rows, across, squeeze=False, sharex=True, sharey=True)
    extent, unit = _extent(reconstruction, box)
    _draw_columns(parts[0], axes, columns, extent)
    _label_places(axes, unit)
    _draw_scale_bar(axes[0, 0], extent, unit)
    if modes is not None:
        _draw_modes(parts[1], modes)
    figure.suptitle(_heading(reconstruction, scan, metrics, agreement), fontsize=9)
    return figure


def probe_figure(modes: NDArray) -> "Figure":
    """Amplitude and phase of probe modes (K, N, N), `[y, x]`, a column for each of the first six."""
    count = min(len(modes), MODES_SHOWN)
    figure = new_figure(count * (MODE_INCHES + 0.9) + 0.4, 2 * (MODE_INCHES + 0.7))
    axes = figure.subplots(2, count, squeeze=False)
    for number in range(count):
        for panel_axes, image, colours, name in (
            (axes[0, number], np.abs(modes[number]), PROBE_MAP, "amplitude"),
            (axes[1, number], np.angle(modes[number]), CYCLIC_PHASE_MAP, "phase (rad)"),
        ):
            panel_axes.set_axis_off()
            panel_axes.imshow(image, cmap=colours, interpolation="nearest")
            panel_axes.set_title(f"{name}, mode {number + 1}" if count > 1 else name, fontsize=8)
    return figure


# --- the images


def _alignment(reconstruction: Reconstruction, scan: Scan | None) -> Alignment | None:
    if scan is None or scan.object_guess is None:
        return None
    try:
        return align(reconstruction, scan)
    except ScanError:
        # too little overlap to compare: `metrics.compare` raises; the figure shows the reconstruction alone
        return None


def _columns(reconstruction: Reconstruction, alignment: Alignment | None) -> list[_Column]:
    """The images from left to right, level, on the covered box of the reconstruction."""
    box = covered_box(reconstruction)
    covered = reconstruction.coverage[box] > 0
    name = "reconstruction" if reconstruction.probe_modes is None else "refined"
    columns = []
    if alignment is None:
        ours = levelled(np.where(covered, reconstruction.object[box], 0))
        pattern, region = ours, covered
    else:
        level = alignment if alignment.ramp_removed is None else alignment.ramp_removed
        ours, pattern, region = level.reconstruction, level.truth, level.region
    if reconstruction.start is not None:
        start, known = moved(reconstruction.start, reconstruction, box)
        start = fitted(start, pattern, known & region)
        start_name = "network" if reconstruction.start.probe_modes is None else "start"
        columns.append(_column(start_name, start, covered & known))
    columns.append(_column(name, ours, covered))
    if alignment is not None:
        columns.append(_column("reference", pattern, covered))
        amplitude = np.where(region, np.abs(ours) - np.abs(pattern), np.nan)
        phase = np.where(region, np.angle(ours * pattern.conj()), np.nan)
        columns.append(_Column(f"{name} - reference", amplitude, phase, is_difference=True))
    return columns


def _column(title: str, image: NDArray, shown: NDArray[np.bool_]) -> _Column:
    return _Column(title, np.where(shown, np.abs(image), np.nan), np.where(shown, np.angle(image), np.nan))


def levelled(image: NDArray) -> NDArray[np.complex128]:
    """`image` without its ramp and with zero mean phase, which keeps the picture away from the wrap at pi."""
    image = without_ramp(image, own_ramp(image))
    mean = np.sum(image)
    return image * (np.conj(mean) / abs(mean) if abs(mean) > 0 else 1.0)


def moved(
    image: Reconstruction, onto: Reconstruction, box: Box
) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
    """`image` on the pixels `box` of another canvas, bilinear, and where it is known there."""
    x, y = np.asarray(onto.origin_px, np.float64) - image.origin_px
    rows, columns = (
        np.arange(part.start, part.stop) + offset for part, offset in zip(box, (y, x), strict=True)
    )
    places = np.meshgrid(rows, columns, indexing="ij")
    covered = (np.asarray(image.coverage) > 0).astype(np.float64)
    known = scipy.ndimage.map_coordinates(covered, places, order=1) > 1 - 1e-6
    return scipy.ndimage.map_coordinates(image.object.astype(np.complex128), places, order=1), known


def fitted(image: NDArray, pattern: NDArray, region: NDArray[np.bool_]) -> NDArray[np.complex128]:
    """`image` without a ramp against `pattern`, times the factor that brings it closest, both within `region`."""
    image = without_ramp(image, linear_ramp(np.where(region, image * pattern.conj(), 0)))
    inside = image[region]
    power = float(np.vdot(inside, inside).real)
    return image * (np.vdot(inside, pattern[region]) / power if power > 0 else 1.0)


# --- the panels


def _draw_columns(
    figure: "Figure | SubFigure", axes: NDArray, columns: list[_Column], extent: _Extent
) -> None:
    """Fill the panels; images share their limits, which the reference decides (or else the reconstruction)."""
    images = [column for column in columns if not column.is_difference]
    amplitude = _Style(AMPLITUDE_MAP, _limits(images[-1].amplitude), "amplitude")
    phase = _phase_style(_limits(images[-1].phase))
    for number, column in enumerate(columns):
        if column.is_difference:
            styles = [
                _Style(ERROR_MAP, _symmetric(column.amplitude), "amplitude difference"),
                _Style(ERROR_MAP, _symmetric(column.phase), "phase difference (rad)"),
            ]
        else:
            styles = [amplitude, phase]
        # one bar for the images, beside the last of them, and one for the difference
        with_bar = column.is_difference or column is images[-1]
        places = axes[0] if len(columns) == 1 else axes[:, number]
        for panel_axes, image, style in zip(places, (column.amplitude, column.phase), styles, strict=True):
            _draw(figure, panel_axes, image, style, extent, with_bar)
        if len(columns) == 1:
            places[0].set_title("amplitude", fontsize=9)
            places[1].set_title("phase", fontsize=9)
        else:
            places[0].set_title(column.title, fontsize=9)


def _draw(
    figure: "Figure | SubFigure",
    panel_axes: "Axes",
    image: NDArray,
    style: _Style,
    extent: _Extent,
    with_bar: bool,
) -> None:
    low, high = style.limits
    drawn = panel_axes.imshow(
        image,
        cmap=style.colour_map,
        vmin=low,
        vmax=high,
        extent=extent,
        interpolation="nearest",
        aspect="equal",
    )
    panel_axes.tick_params(labelsize=8)
    # uncovered pixels are NaN
    panel_axes.set_facecolor(BARE_COLOUR)
    if not with_bar:
        return
    inside = image[np.isfinite(image)]
    below, above = bool((inside < low).any()), bool((inside > high).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    # a bar exactly as high as its image
    beside = panel_axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(drawn, cax=beside, extend=extend, extendfrac=0.03)
    bar.set_label(style.label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _label_places(axes: NDArray, unit: str) -> None:
    for panel_axes in axes[:, 0]:
        panel_axes.set_ylabel(f"y ({unit})", fontsize=9)
    for panel_axes in axes[-1]:
        panel_axes.set_xlabel(f"x ({unit})", fontsize=9)


def _draw_scale_bar(panel_axes: "Axes", extent: _Extent, unit: str) -> None:
    """A round length in micrometres or nanometres, or else in pixels, in the lower left corner."""
    from matplotlib.patheffects import withStroke

    left, right, bottom, top = extent
    longest = BAR_FRACTION * abs(right - left)
    decade = 10.0 ** math.floor(math.log10(longest))
    length = max(step * decade for step in BAR_LENGTHS if step * decade <= longest)
    x, y = left + 0.05 * (right - left), bottom + 0.07 * (top - bottom)
    outline = [withStroke(linewidth=4.0, foreground="white")]
    panel_axes.plot(
        [x, x + length], [y, y], color="black", linewidth=2.0, path_effects=outline, solid_capstyle="butt"
    )
    label = f"{length * 1e3:g} nm" if unit == "µm" and length < 1 else f"{length:g} {unit}"
    panel_axes.text(
        x + length / 2, y + 0.02 * (top - bottom), label, color="black", fontsize=8, ha="center", va="bottom",
        path_effects=[withStroke(linewidth=2.0, foreground="white")],
    )  # fmt: skip


def _draw_modes(figure: "SubFigure", modes: NDArray) -> None:
    """Amplitudes of the strongest probe modes side by side, with their parts of the power."""
    power = np.sum(np.abs(modes.astype(np.complex128)) ** 2, axis=(1, 2))
    power = 100.0 * power / max(float(power.sum()), np.finfo(float).tiny)
    count = min(len(modes), MODES_SHOWN)
    # margins of such a width that few modes do not grow
    margin = max(figure.get_figure(root=True).get_figwidth() / (MODE_INCHES + 0.3) - count, 0.1) / 2
    places = figure.add_gridspec(1, count + 2, width_ratios=[margin, *[1.0] * count, margin])
    for number in range(count):
        panel_axes = figure.add_subplot(places[number + 1])
        panel_axes.set_axis_off()
        panel_axes.imshow(np.abs(modes[number]), cmap=PROBE_MAP, interpolation="nearest")
        name = "probe" if len(modes) == 1 else f"mode {number + 1}: {power[number]:.1f} %"
        panel_axes.set_title(name, fontsize=8)


def _phase_style(limits: _Limits) -> _Style:
    if limits[1] - limits[0] > 1.5 * np.pi:
        return _Style(CYCLIC_PHASE_MAP, (-np.pi, np.pi), "phase (rad)")
    return _Style(PHASE_MAP, limits, "phase (rad)")


def _limits(image: NDArray) -> _Limits:
    values = image[np.isfinite(image)]
    low, high = np.percentile(values, CONTRAST_PERCENTILES) if values.size else (0.0, 1.0)
    # a flat image still needs limits that differ
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-3)
    return float(middle - half), float(middle + half)


def _symmetric(image: NDArray) -> _Limits:
    finite = np.abs(image[np.isfinite(image)])
    high = max(float(np.percentile(finite, CONTRAST_PERCENTILES[1])), 1e-3) if finite.size else 1.0
    return -high, high


def _extent(reconstruction: Reconstruction, box: Box) -> tuple[_Extent, str]:
    """Edges of the image for `imshow` (left, right, bottom, top), and their unit."""
    x, y = reconstruction.origin_px
    rows, columns = box
    edges = np.array([columns.start + x, columns.stop + x, rows.stop + y, rows.start + y]) - 0.5
    unit = "px"
    if reconstruction.pixel_size_m is not None:
        edges, unit = edges * reconstruction.pixel_size_m * 1e6, "µm"
    left, right, bottom, top = edges.tolist()
    return (left, right, bottom, top), unit


def _heading(
    reconstruction: Reconstruction,
    scan: Scan | None,
    metrics: Metrics | None,
    agreement: PatternAgreement | None,
) -> str:
    parts = [scan.name] if scan is not None else []
    refined = reconstruction.probe_modes is not None
    parts.append(f"{len(reconstruction.group_centres_px)} {'patterns' if refined else 'patches'}")
    if reconstruction.backend:
        parts.append(reconstruction.backend)
    lines = [", ".join(parts)]
    if metrics is not None:
        lines.append(report_line(metrics))
    elif agreement is not None:
        lines.append(report_line(agreement=agreement))
    elif reconstruction.passes:
        lines.append(f"R-factor {reconstruction.passes[-1].r_factor:.3f}")
    return "\n".join(lines)
