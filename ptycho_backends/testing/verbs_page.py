"""The part of the parity page about whole verbs: curves of all backends on one plot, differences of images, devices."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.png_file import png_bytes
from ptycho_backends.testing.verbs import Shown
from ptycho_backends.values import EpochRecord

PLOT_WIDTH, PLOT_HEIGHT = 260, 130
# Sides of an image on the page, CSS pixels.
IMAGE_SIDE = 130

COLOURS = ("#3569b8", "#d9822b", "#0f7b54", "#8a4bbf")
REFERENCE, REFERENCE_COLOUR = "reference", "#777"

STYLE = """
.verb { display:flex; flex-wrap:wrap; gap:18px; align-items:flex-start; padding:14px 16px }
.verb + .verb { border-top:1px solid var(--line) } .verb figure { margin:0 }
.verb figcaption { font-size:12px; color:var(--soft); max-width:340px }
.verb img { image-rendering:pixelated; border:1px solid var(--line); border-radius:4px; display:block }
.verb code { flex-basis:100% } .curve { fill:none; stroke-width:1.6 } .curve.reference { stroke-width:6; opacity:.25 }
"""


def verbs_section(shown: Sequence[Shown]) -> str:
    """Curves and images of some cases, or a sentence that there are none."""
    if not shown:
        return '<p class="soft">No case of verbs was measured.</p>'
    text = (
        '<p class="soft">Losses of all epochs, before and after the stop: the reference is the broad grey line, '
        "and backends should lie on it. Beside them the phase of the reference&rsquo;s image, "
        "and how far each backend&rsquo;s is from it, black to white from nothing to the figure below.</p>"
    )
    return text + f'<div class="card">{"".join(map(_case, shown))}</div>'


def devices_section(backends: Iterable[str], device: str, rounded: bool) -> str:
    """Where each backend computed, and in which precisions."""
    tf32 = "off, but for the quantities named TF32" if rounded else "off; there is none on a processor"
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(device)}</td><td>float64, float32</td><td>{tf32}</td></tr>"
        for name in backends
    )
    head = "".join(f"<th>{text}</th>" for text in ("Backend", "Device", "Precisions", "TF32"))
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _case(shown: Shown) -> str:
    images = shown.images
    figures = [
        _curves(shown.curves, "train_loss", "training loss"),
        _curves(shown.curves, "val_loss", "validation loss"),
    ]
    if REFERENCE in images:
        want = images[REFERENCE]
        figures.append(_figure(np.angle(want), "phase, reference"))
        for name, got in images.items():
            if name != REFERENCE and got.shape == want.shape:
                apart = np.abs(got - want)
                largest = float(apart.max()) / (float(np.abs(want).max()) or 1.0)
                figures.append(
                    _figure(apart, f"{name} &minus; reference, at most {largest:.1e} of the brightest")
                )
    return f'<div class="verb"><code>{escape(shown.case)}</code>{"".join(figures)}</div>'


def _curves(curves: Mapping[str, Sequence[EpochRecord]], field: str, title: str) -> str:
    """One plot of the loss `field`, a line for each backend."""
    values = [
        value
        for rows in curves.values()
        for value in (getattr(row, field) for row in rows)
        if value is not None and np.isfinite(value)
    ]
    if not values:
        return ""
    low, high = min(values), max(values)
    last = max(row.epoch for rows in curves.values() for row in rows)
    lines, legend, colours = [], [], iter(COLOURS * len(curves))
    for name, rows in curves.items():
        colour = REFERENCE_COLOUR if name == REFERENCE else next(colours)
        places = []
        for row in rows:
            value = getattr(row, field)
            if value is not None and np.isfinite(value):
                x = 8 + (PLOT_WIDTH - 16) * (row.epoch - 1) / max(1, last - 1)
                y = 8 + (PLOT_HEIGHT - 16) * (1 - (value - low) / ((high - low) or 1.0))
                places.append(f"{x:.1f},{y:.1f}")
        kind = "curve reference" if name == REFERENCE else "curve"
        lines.append(f'<polyline class="{kind}" stroke="{colour}" points="{" ".join(places)}"/>')
        legend.append(f'<span style="color:{colour}">&#9632;</span> {escape(name)}')
    names = " &nbsp; ".join(legend)
    size = f'width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}"'
    return (
        f'<figure><svg {size} role="img" aria-label="{title}">{"".join(lines)}</svg>'
        f"<figcaption>{title}, {low:.6g} to {high:.6g}, epochs 1 to {last}<br>{names}</figcaption></figure>"
    )


def _figure(image: NDArray, caption: str) -> str:
    low, high = float(image.min()), float(image.max())
    grey = np.round(255 * (image - low) / ((high - low) or 1.0)).astype(np.uint8)
    data = base64.b64encode(png_bytes(grey)).decode()
    return (
        f'<figure><img width="{IMAGE_SIDE}" height="{IMAGE_SIDE}" alt="{caption}" src="data:image/png;base64,{data}">'
        f'<figcaption style="max-width:{IMAGE_SIDE}px">{caption}</figcaption></figure>'
    )
