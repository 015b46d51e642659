"""The page and the pictures of `quality.py`."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.images.drawing import new_figure
from ptycho_backends.images.figures import CONTRAST_PERCENTILES, PHASE_MAP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

# Gains in phase correlation below this are no reason to prefer a method.
GAIN = 0.002
# Colours of a picture, which keep the file small; a panel is about as many dots wide as it has pixels.
COLOURS = 64
DOTS_PER_INCH = 100
PANEL_INCHES = 1.35
ALONE, PRIOR = "refinement alone", "refinement with the prior"

HEADING = """# Quality of networks and of refinement

Written by `benchmarks/quality.py`; all figures are in [quality/quality.json](quality/quality.json) as well. Images are
compared with the known object as [metrics.md](metrics.md) describes, without a linear phase ramp: correlation of the
phases, structural similarity (SSIM) of phases and amplitudes, peak signal-to-noise ratio of the amplitudes, and
*contrast*, the slope of the image's phase against the known one. The known object of a simulated scan is the truth;
that of a real one is a classical reconstruction with errors of its own, so that figures near the top mean little there.
"""


def page(results: Mapping[str, Any]) -> str:
    """Markdown of all tables, with the sentences that follow from them."""
    parts = [HEADING, _conditions(results["conditions"]), "## Scan by scan\n"]
    for scan in dict.fromkeys(row["scan"] for row in results["pairs"]):
        rows = [row for row in results["pairs"] if row["scan"] == scan]
        parts += [_of_a_scan(scan, rows)]
    parts += ["## Over dose and step\n", _dose_and_step(results["dose_and_step"])]
    parts += ["## Over training time\n", _training_time(results["training_time"])]
    parts += ["## Resolution\n", _rings(results["rings"])]
    return "\n".join(parts)


def _conditions(of: Mapping[str, Any]) -> str:
    software = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    cores = f"{of['cores']} cores ({of['threads'] or 'all'} threads)"
    lines = [
        f"Each network was trained for {of['seconds']:g} s at most. `unrolled` works on groups of",
        f"{of['gridsize'] ** 2} positions, the others on single ones. All seconds are the processor's; those of",
        f"inference are of a second call, on {cores}.",
        f"Software: {software}.",
    ]
    if of["patterns"] is not None:
        lines.append(
            f"**A quick run with at most {of['patterns']} patterns of each scan: its figures mean nothing.**"
        )
    if not of["ptychi"]:
        lines.append(
            "pty-chi was not installed, so it has no rows here; `benchmarks/refinement.py` compares refinement with it."
        )
    lines.append(
        "No prior was given (`--prior`), so the learned correction has the rows of the models trained here alone."
        if of["prior"] is None
        else f"The *prior* is the model `{of['prior']}`, trained on [synthetic scans](synthetic.md) alone."
    )
    return "\n".join(lines) + "\n"


def _of_a_scan(scan: str, rows: Sequence[Row]) -> str:
    best = max(row["phase_correlation"] for row in rows)
    columns = (
        "method", "backend", "phase correlation", "phase SSIM", "amplitude SSIM", "PSNR, dB", "contrast", "training, s",
        "inference, s",
    )  # fmt: skip
    cells = []
    for row in rows:
        correlation = _number(row["phase_correlation"], 4)
        refused = "correction" in row["method"] or "prior" in row["method"]
        left_out = refused and "group" not in row["method"] and not row["corrected"]
        cells.append(
            (
                row["method"] + (" (left out)" if left_out else ""),
                row["backend"],
                f"**{correlation}**" if row["phase_correlation"] == best else correlation,
                *(_number(row[name], 3) for name in ("phase_ssim", "amplitude_ssim")),
                _number(row["amplitude_psnr_db"], 1),
                _number(row["phase_contrast"], 3),
                _number(row.get("train_s"), 0),
                _number(row.get("infer_s"), 2),
            )
        )
    trained_on = rows[0]["trained_on"]
    source = "itself" if trained_on == scan else f"`{trained_on}`"
    lines = (
        f"### {scan}\n",
        f"The networks were trained on {source}.\n",
        _table(columns, cells),
        "",
        _verdict(rows),
        "",
        f"![Phases of {scan}](quality/{scan}.png)\n",
    )
    return "\n".join(lines)


def _verdict(rows: Sequence[Row]) -> str:
    alone = max((row for row in rows if row["method"] == ALONE), key=lambda row: row["phase_correlation"])
    networks = [row for row in rows if row["method"] != ALONE and "pty-chi" not in row["method"]]
    best = max(networks, key=lambda row: row["phase_correlation"])
    gain = best["phase_correlation"] - alone["phase_correlation"]
    if gain <= GAIN:
        own, other = (_number(row["phase_correlation"], 4) for row in (alone, best))
        return (
            "**Plain refinement is the better choice here**: it needs no training, and no method with a network is\n"
            f"more than {GAIN:g} ahead of its {own} (the best, {best['method']}: {other})."
        )
    return (
        f"{best['method'].capitalize()} is {_number(gain, 4)} ahead of plain refinement in phase correlation."
    )


def _dose_and_step(rows: Sequence[Row]) -> str:
    doses, steps = (list(dict.fromkeys(row[name] for row in rows)) for name in ("photons", "step_px"))
    found = {(row["method"], row["photons"], row["step_px"]): row for row in rows}
    with_prior = any(row["method"] == PRIOR for row in rows)

    def cell(name: str, photons: float, step: float) -> str:
        alone = _number(found[ALONE, photons, step][name], 3)
        if not with_prior:
            return alone
        prior = found[PRIOR, photons, step]
        return f"{alone} / {_number(prior[name], 3)}" + ("" if prior["corrected"] else " (left out)")

    lines = [
        "The object and the probe of `sim_n64_test` on jittered rasters that cover the same field; photons are those",
        "of a pattern.",
        "Cells: plain refinement"
        + (
            " / the same with the prior; *left out* where held-out pixels were predicted worse.\n"
            if with_prior
            else ".\n"
        ),
    ]
    for name, title in (
        ("phase_correlation", "phase correlation"),
        ("phase_ssim", "phase SSIM"),
        ("amplitude_ssim", "amplitude SSIM"),
        ("phase_contrast", "contrast"),
    ):
        cells = [(f"{dose:,.0f}", *(cell(name, dose, step) for step in steps)) for dose in doses]
        lines += [_table((f"{title}: photons", *(f"step {step:g} px" for step in steps)), cells), ""]
    if with_prior:
        gains = {
            (dose, step): found[PRIOR, dose, step]["phase_correlation"]
            - found[ALONE, dose, step]["phase_correlation"]
            for dose in doses
            for step in steps
        }
        helped = [f"{dose:,.0f} photons, {step:g} px" for (dose, step), gain in gains.items() if gain > GAIN]
        lines.append(
            f"The correction gains more than {GAIN:g} in phase correlation at: {'; '.join(helped)}. "
            if helped
            else f"The correction gains more than {GAIN:g} in phase correlation nowhere. "
        )
        lines.append(
            "**Everywhere else plain refinement is the better choice**: as good, and without any training.\n"
        )
    return "\n".join([*lines, "![Phases over dose and step](quality/dose_and_step.png)\n"])


def _training_time(rows: Sequence[Row]) -> str:
    cells = [
        (
            _number(row["limit_s"], 0),
            _number(row["train_s"], 0),
            _number(row["phase_correlation"], 4),
            _number(row["phase_ssim"], 3),
            _number(row["phase_contrast"], 3),
        )
        for row in rows
    ]
    columns = ("limit, s", "training, s", "phase correlation", "phase SSIM", "contrast")
    return "\n".join(
        [
            "`unrolled`, group by group, without refinement: trained on "
            f"`{rows[0]['trained_on']}`, of `{rows[0]['scan']}`.",
            "Each row is a training of its own with a whole schedule; the first one shows the steps alone, as the",
            "correction starts at zero.\n",
            _table(columns, cells),
            "",
            "![Phase correlation over training time](quality/training_time.png)\n",
        ]
    )


def _rings(rows: Sequence[Row]) -> str:
    cells = [
        (
            row["scan"],
            row["method"],
            "none" if row["resolution_px"] is None else _number(row["resolution_px"], 2),
        )
        for row in rows
    ]
    return "\n".join(
        [
            "Fourier ring correlation of two half scans, each with half of the patterns; full period where it falls",
            "below the half-bit curve. A learned correction that draws the same wrong details into both halves raises",
            "it, as a smoothness prior does, so it is to be read beside the tables above.\n",
            _table(("scan", "method", "resolution, px"), cells),
            "",
            "![Fourier ring correlations](quality/rings.png)\n",
        ]
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# --- pictures


def draw_phases(pictures: Mapping[str, Mapping[str, NDArray]], path: Path, across: int | None = None) -> None:
    """Draw phases side by side, (n, n) each, with the limits of the first of all.

    Parameters
    ----------
    pictures : mapping
        Groups of panels by title.
    path : Path
    across : int, optional
        Panels in a row; default: those of a group.
    """
    first = next(iter(next(iter(pictures.values())).values()))
    inside = first[np.isfinite(first)]
    low, high = np.percentile(inside, CONTRAST_PERCENTILES) if inside.size else (0.0, 1.0)
    across = across or max(map(len, pictures.values()))
    rows = [-(-len(panels) // across) for panels in pictures.values()]
    figure = new_figure(across * PANEL_INCHES, sum(rows) * (PANEL_INCHES + 0.2) + 0.25 * len(rows))
    parts = figure.subfigures(len(rows), 1, height_ratios=rows, squeeze=False)[:, 0]
    for part, (title, panels), count in zip(parts, pictures.items(), rows, strict=True):
        part.suptitle(title, fontsize=7)
        axes = part.subplots(count, across, squeeze=False).ravel()
        for panel in axes:
            panel.set_axis_off()
        for panel, (name, phase) in zip(axes, panels.items(), strict=False):
            panel.imshow(phase, cmap=PHASE_MAP, vmin=low, vmax=high, interpolation="nearest")
            panel.set_title(name.replace("refinement with", "with"), fontsize=6, pad=2)
    save_small(figure, path)


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw the phase correlation over the seconds of training."""
    figure = new_figure(4.0, 2.6)
    axes = figure.subplots()
    axes.plot([row["train_s"] for row in rows], [row["phase_correlation"] for row in rows], marker="o")
    axes.set_xlabel("training, s", fontsize=8)
    axes.set_ylabel("phase correlation", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    save_small(figure, path)


def draw_rings(rows: Sequence[Row], path: Path) -> None:
    """Draw the ring correlations of each scan, and the half-bit curve."""
    scans = list(dict.fromkeys(row["scan"] for row in rows))
    figure = new_figure(2.7 * len(scans), 2.5)
    for axes, scan in zip(figure.subplots(1, len(scans), squeeze=False)[0], scans, strict=True):
        own = [row for row in rows if row["scan"] == scan]
        for row in own:
            axes.plot(row["frequency"], row["correlation"], linewidth=1.0, label=row["method"])
        axes.plot(
            own[0]["frequency"],
            own[0]["half_bit"],
            "--",
            color="#7F7F7F",
            linewidth=1.0,
            label="half-bit curve",
        )
        axes.set_title(scan, fontsize=7)
        axes.set_xlabel("cycles per pixel", fontsize=7)
        axes.set_ylim(-0.1, 1.03)
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=5, frameon=False)
    save_small(figure, path)


def save_small(figure: "Figure", path: Path) -> None:
    """Write a PNG of few colours."""
    from PIL import Image

    figure.set_dpi(DOTS_PER_INCH)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    stream.seek(0)
    small = Image.open(stream).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    with replaced_atomically(path) as target:
        small.save(target, format="PNG", optimize=True)
