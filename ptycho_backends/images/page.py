"""`report.html`: everything about a run on one page, in one file that needs no network."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.builtin_backends import framework_modules
from ptycho_backends.errors import ScanError
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images import html
from ptycho_backends.images.agreement import PatternAgreement, predicted_patterns
from ptycho_backends.images.frc import RingCorrelation, fourier_ring_correlation
from ptycho_backends.images.metrics import Alignment, Metrics, covered_box
from ptycho_backends.images.ramp import own_ramp, without_ramp
from ptycho_backends.reference.probe import orthogonal_modes
from ptycho_backends.scans.scan import Scan
from ptycho_backends.values import Reconstruction, TrainedModel

# Unwrapping a larger image would take longer than the refinement.
LARGEST_UNWRAPPED = 1 << 21
MODES_SHOWN = 8
LIBRARIES = ("ptycho-backends", "numpy", "scipy", "h5py")
PHASES = ("ramp removed", "unwrapped", "as computed")


@dataclass(frozen=True, eq=False)
class Contents:
    """What a page shows; whatever is None is left out.

    Attributes
    ----------
    title : str
    backend : str
    model : TrainedModel, optional
    reconstruction : Reconstruction, optional
    scan : Scan, optional
    metrics : Metrics, optional
    alignment : Alignment, optional
        The known object beside the image.
    agreement : PatternAgreement, optional
    resolution : RingCorrelation, optional
        Of two half scans.
    settings : mapping of str to str
        Texts of files of settings by name.
    """

    title: str
    backend: str
    model: TrainedModel | None = None
    reconstruction: Reconstruction | None = None
    scan: Scan | None = None
    metrics: Metrics | None = None
    alignment: Alignment | None = None
    agreement: PatternAgreement | None = None
    resolution: RingCorrelation | None = None
    settings: Mapping[str, str] = field(default_factory=dict)


def save_report(contents: Contents, path: str | os.PathLike[str]) -> Path:
    """Write the page.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file is untouched.
    """
    path = Path(path)
    text = report_page(contents)
    with replaced_atomically(path) as stream:
        stream.write(text.encode())
    return path


def report_page(contents: Contents) -> str:
    """The page as HTML."""
    image = contents.reconstruction
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"<h1>{html.escaped(contents.title)}</h1>",
        f'<p class="sub">{html.escaped(_subtitle(contents))}, {now}</p>',
        html.tiles(_figures(contents)),
    ]
    if image is not None:
        parts += [
            _image(image),
            _truth(contents),
            _probe(contents),
            _positions(contents),
            _patterns(contents),
        ]
    elif contents.model is not None:
        parts.append(_probe(contents))
    parts += [_curves(contents), _about(contents)]
    return html.page(contents.title, parts)


def _subtitle(contents: Contents) -> str:
    words = [f"on {contents.backend}"]
    model, image = contents.model, contents.reconstruction
    if model is not None and model.history:
        words.append(f"{model.config.model.architecture}, {len(model.history)} epochs")
    if image is not None:
        words.append(
            f"{image.object.shape[1]} x {image.object.shape[0]} pixels from {len(image.group_centres_px)} places"
        )
        if image.passes:
            words.append(f"{len(image.passes)} passes")
    if (model is not None and model.interrupted) or (image is not None and image.interrupted):
        words.append("INTERRUPTED")
    return ", ".join(words)


def _figures(contents: Contents) -> dict[str, str]:
    found: dict[str, str] = {}
    if contents.agreement is not None:
        found["R-factor"] = f"{contents.agreement.r_factor:.4f}"
        found["chi-square"] = f"{contents.agreement.chi_square:.3g}"
    if contents.metrics is not None:
        found["phase correlation"] = f"{contents.metrics.phase_correlation_ramp_removed:.3f}"
        found["phase error"] = f"{contents.metrics.phase_error_rad_ramp_removed:.3f} rad"
        found["amplitude SSIM"] = f"{contents.metrics.amplitude_ssim_ramp_removed:.3f}"
    if contents.resolution is not None and contents.resolution.resolution_px is not None:
        metres = contents.resolution.resolution_m
        found["resolution (half-bit)"] = (
            f"{contents.resolution.resolution_px:.2f} px" if metres is None else f"{metres * 1e9:.3g} nm"
        )
    if contents.model is not None and contents.model.history:
        last = contents.model.history[-1]
        found["train loss"] = f"{last.train_loss:.5g}"
        if last.val_loss is not None:
            found["validation loss"] = f"{last.val_loss:.5g}"
    return found


# --- sections


def _image(image: Reconstruction) -> str:
    box = covered_box(image)
    covered = image.coverage[box] > 0
    raw = np.where(covered, image.object[box], 0)
    level = without_ramp(raw, own_ramp(raw))
    mean = np.sum(level)
    level = level * (np.conj(mean) / abs(mean) if abs(mean) > 0 else 1.0)
    phases = {PHASES[0]: np.angle(level), PHASES[2]: np.angle(raw)}
    if raw.size <= LARGEST_UNWRAPPED:
        phases[PHASES[1]] = _unwrapped(level, covered)
    scale = html.Scale.of(image.pixel_size_m)
    names = [name for name in PHASES if name in phases]
    pictures = [html.picture(_shown(np.abs(raw), covered), "amplitude", colours="grey", scale=scale)]
    pictures += [
        html.picture(
            _shown(phases[name], covered), f"phase, {name}", unit="rad", scale=scale, group=("phase", name),
            shown=number == 0,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    hint = '<p class="sub">wheel: zoom; drag: move; double click: all</p>'
    return html.section("Image", html.choice("phase", names), html.row(pictures), hint)


def _unwrapped(level: NDArray, covered: NDArray[np.bool_]) -> NDArray[np.float64]:
    from skimage.restoration import unwrap_phase  # late: scikit-image is slow to import

    if min(level.shape) < 2:
        return np.angle(level)
    return np.ma.filled(unwrap_phase(np.ma.array(np.angle(level), mask=~covered), rng=0), np.nan)


def _shown(values: NDArray, where: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(where, values, np.nan)


def _truth(contents: Contents) -> str:
    alignment = contents.alignment
    if alignment is None or contents.reconstruction is None:
        return ""
    level = alignment if alignment.ramp_removed is None else alignment.ramp_removed
    scale = html.Scale.of(contents.reconstruction.pixel_size_m)
    ours, truth, region = level.reconstruction, level.truth, level.region
    parts = {
        "known object, amplitude": (np.abs(truth), "grey"),
        "known object, phase": (np.angle(truth), "viridis"),
        "amplitude - known": (np.abs(ours) - np.abs(truth), "difference"),
        "phase - known (rad)": (np.angle(ours * truth.conj()), "difference"),
    }
    pictures = [
        html.picture(_shown(values, region), name, colours=colours, scale=scale, width=195)
        for name, (values, colours) in parts.items()
    ]
    return html.section("Known object", html.row(pictures))


def _probe(contents: Contents) -> str:
    image, model, scan = contents.reconstruction, contents.model, contents.scan
    if image is not None and image.probe_modes is not None:
        modes, origin = image.probe_modes, "refined"
    elif model is not None:
        modes, origin = orthogonal_modes(model.probe_modes), "of the model"
    elif scan is not None and scan.probe_modes is not None:
        modes, origin = scan.probe_modes, "of the scan"
    else:
        return ""
    power = np.sum(np.abs(np.asarray(modes, np.complex128)) ** 2, axis=(1, 2))
    power = 100 * power / max(float(power.sum()), np.finfo(float).tiny)
    scale = html.Scale.of(None if image is None else image.pixel_size_m)
    pictures = []
    for number, mode in enumerate(modes[:MODES_SHOWN]):
        name = f"mode {number + 1}: {power[number]:.1f} % of the power"
        pictures.append(
            html.picture(np.abs(mode), f"{name}, amplitude", colours="inferno", scale=scale, width=190)
        )
        if number == 0:
            bright = np.abs(mode) > 0.05 * np.abs(mode).max()
            phase = _shown(np.angle(mode), bright)
            pictures.append(
                html.picture(phase, "mode 1, phase where it is bright", unit="rad", scale=scale, width=190)
            )
    return html.section(f"Probe, {origin}", html.row(pictures))


def _positions(contents: Contents) -> str:
    image, scan = contents.reconstruction, contents.scan
    assert image is not None
    size = image.pixel_size_m
    factor, unit = (1.0, "px") if size is None else (size * 1e6, "µm")
    coverage = html.picture(
        np.asarray(image.coverage, float), "coverage", colours="grey", scale=html.Scale.of(size), width=330
    )
    used, before, values, text = image.group_centres_px, None, None, "places of the patches"
    if image.positions_px is not None:
        used, text = image.positions_px, "positions"
        if scan is not None and image.positions_used is not None:
            given = scan.positions_of(image.positions_used)
            moved = float(np.abs(given - used).max())
            if moved > 0:
                before, text = (
                    given * factor,
                    f"positions corrected by {moved:.2f} px at most, given ones blue",
                )
    if contents.agreement is not None and len(contents.agreement.r_factor_by_position) == len(used):
        values, text = contents.agreement.r_factor_by_position, f"{text}, coloured by R-factor"
    spots = html.places(
        np.asarray(used) * factor, text, values=values, before=before, unit=unit, value_name="R", width=380
    )
    return html.section("Positions", html.row([spots, coverage]))


def _patterns(contents: Contents) -> str:
    """The best, the median and the worst pattern, measured beside predicted."""
    image, scan, agreement = contents.reconstruction, contents.scan, contents.agreement
    if image is None or scan is None or agreement is None:
        return ""
    errors = agreement.r_factor_by_position
    order = [int(one) for one in np.argsort(errors) if np.isfinite(errors[one])]
    if not order:
        return ""
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    try:
        predicted = predicted_patterns(image, scan, list(chosen.values()))
    except ScanError:
        return ""
    rows = []
    valid = np.ones((scan.N, scan.N), bool) if scan.valid_pixels is None else scan.valid_pixels
    for (name, number), expected in zip(chosen.items(), predicted, strict=True):
        frame = int(agreement.positions_used[number])
        counts = scan.diffraction_amplitude(np.array([frame]))[0].astype(np.float64) ** 2
        limits = (0.0, float(np.log10(1 + max(counts.max(), expected.max()))) or 1.0)
        title = f"{name}: pattern {frame}, R {errors[number]:.3f}"
        pairs = {"measured": counts, "predicted": expected}
        pictures = [
            html.picture(_shown(np.log10(1 + one), valid), f"{title}, {kind}, log10(1 + counts)", colours="inferno",
                         limits=limits, width=230)
            for kind, one in pairs.items()
        ]  # fmt: skip
        spread = np.sqrt(np.maximum(expected, 1))
        residual = _shown((counts - expected) / spread, valid)
        pictures.append(
            html.picture(residual, "difference over its standard deviation", colours="difference", width=230)
        )
        rows.append(html.row(pictures))
    return html.section("Measured and predicted patterns", *rows)


def _curves(contents: Contents) -> str:
    charts = []
    model, image = contents.model, contents.reconstruction
    if model is not None and model.history:
        epochs = [record.epoch for record in model.history]
        losses = {"train": (epochs, [record.train_loss for record in model.history])}
        if any(record.val_loss is not None for record in model.history):
            losses["validation"] = (
                epochs, [np.nan if record.val_loss is None else record.val_loss for record in model.history]
            )  # fmt: skip
        positive = all(min(np.nanmin(values), 1) > 0 for _, values in losses.values())
        charts.append(html.chart(losses, "loss of training", x="epoch", logarithmic=positive))
    if image is not None and image.passes:
        numbers = [record.number for record in image.passes]
        errors = {"error": (numbers, [record.error for record in image.passes])}
        if image.passes[-1].held_out_error is not None:
            errors["held-out pixels"] = (
                numbers,
                [record.held_out_error or np.nan for record in image.passes],
            )
        charts.append(html.chart(errors, "error of the refinement", x="pass", logarithmic=True))
    for name, found in (
        ("two half scans", contents.resolution),
        ("the known object", _against_truth(contents)),
    ):
        if found is not None:
            curves = {
                "correlation": (found.frequency, found.correlation),
                "half-bit": (found.frequency, found.half_bit),
            }
            charts.append(
                html.chart(curves, f"Fourier ring correlation with {name}: {found}", x="cycles per pixel")
            )
    return html.section("Curves", html.row(charts)) if charts else ""


def _against_truth(contents: Contents) -> RingCorrelation | None:
    if contents.alignment is None:
        return None
    level = contents.alignment.ramp_removed or contents.alignment
    size = None if contents.reconstruction is None else contents.reconstruction.pixel_size_m
    try:
        return fourier_ring_correlation(level.reconstruction, level.truth, level.region, size)
    except ScanError:
        return None


def _about(contents: Contents) -> str:
    rows: list[tuple[str, object]] = []
    if contents.reconstruction is not None:
        rows += [
            (f"seconds, {name}", f"{value:.2f}") for name, value in contents.reconstruction.timings_s.items()
        ]
        passes = contents.reconstruction.passes
        if passes:
            rows.append(("seconds, refinement", f"{sum(record.seconds for record in passes):.2f}"))
    if contents.model is not None and contents.model.history:
        rows.append(("seconds, training", f"{sum(record.seconds for record in contents.model.history):.1f}"))
        rows.append(("intensity scale", f"{contents.model.intensity_scale:.6g}"))
    rows += [(name, version) for name in (*LIBRARIES, *framework_modules()) if (version := _version(name))]
    rows.append(("Python", f"{platform.python_version()} on {platform.platform()}"))
    texts = [html.preformatted(name, text) for name, text in contents.settings.items()]
    if contents.metrics is not None:
        texts.insert(0, html.preformatted("all figures", str(contents.metrics)))
    return html.section("Configuration, versions, timings", html.table(rows), *texts)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
