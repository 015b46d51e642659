"""Values in a notebook: small HTML that needs no network, and figures of matplotlib."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.files.png_file import png_bytes
from ptycho_backends.images import html
from ptycho_backends.images.curves import history_figure, rates_figure
from ptycho_backends.images.figures import levelled, probe_figure, reconstruction_figure
from ptycho_backends.images.metrics import covered_box
from ptycho_backends.values import EpochRecord, Reconstruction, Shown, TrainedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Side of a picture on the page, and most pixels along a side of its file.
WIDTH, LONGEST = 280, 560


def html_of(value: Shown) -> str:
    """A value as HTML, by its `shown_as`."""
    return f"<div>{''.join(_HTML[value.shown_as](value))}</div>"


def figure_of(value: Shown, **options: Any) -> "Figure":
    """A value as a figure, by its `shown_as`, which a notebook displays."""
    figure = _FIGURES[value.shown_as](value, **options)

    def png() -> bytes:
        content = io.BytesIO()
        figure.savefig(content, format="png")
        return content.getvalue()

    # a notebook knows figures only once pyplot has been imported
    figure._repr_png_ = png  # type: ignore[attr-defined]
    return figure


def _image(image: Reconstruction) -> list[str]:
    if not np.any(image.coverage):
        return [_line(repr(image))]
    box = covered_box(image)
    covered = image.coverage[box] > 0
    level = levelled(np.where(covered, image.object[box], 0))
    pictures = [
        _picture(np.where(covered, np.abs(level), np.nan), "amplitude", "grey"),
        _picture(np.where(covered, np.angle(level), np.nan), "phase (rad)", "viridis"),
    ]
    if image.probe_modes is not None:
        pictures.append(_picture(np.abs(image.probe_modes[0]), "probe", "inferno", WIDTH // 2))
    size = "" if image.pixel_size_m is None else f", {image.pixel_size_m * 1e9:.4g} nm a pixel"
    return [_line(f"{image!r}{size}"), f'<div style="display:flex;gap:16px">{"".join(pictures)}</div>']


def _model(model: TrainedModel) -> list[str]:
    return [_line(repr(model)), _history(model.history)]


def _module(module: Any) -> list[str]:
    """Of a framework's `PtychoModel`: the parameters of each part."""
    weights: Mapping[str, NDArray] = module.weights()
    parts: dict[str, list[int]] = {}
    for name, value in weights.items():
        counts = parts.setdefault("/".join(name.split("/")[:2]), [0, 0])
        counts[0] += 1
        counts[1] += value.size
    config = module.config
    rows = [(name, arrays, f"{size:,}") for name, (arrays, size) in parts.items()]
    total = sum(value.size for value in weights.values())
    return [
        _line(
            f"PtychoModel: {config.architecture}, N={config.N}, gridsize={config.gridsize}, {total:,} numbers"
        ),
        f"<details><summary>layers</summary>{html.table(rows, ('layer', 'arrays', 'numbers'))}</details>",
        _picture(np.abs(_modes(weights)[0]), "probe", "inferno", WIDTH // 2),
    ]


def _training(run: Any) -> list[str]:
    return [_line(repr(run)), _history(run.history)]


def _rates(sweep: Any) -> list[str]:
    curve = {"loss": (np.log10(sweep.learning_rates), sweep.losses)}
    return [_line(repr(sweep)), html.chart(curve, "loss", x="logarithm of the learning rate")]


def _run(result: Any) -> list[str]:
    parts = [_line(f"{result.output_dir}: {', '.join(path.name for path in result.files.values())}")]
    if result.report:
        parts.append(f"<pre>{html.escaped(result.report)}</pre>")
    if result.reconstruction is not None:
        parts += _image(result.reconstruction)
    elif result.model is not None:
        parts += _model(result.model)
    return parts


def _line(text: str) -> str:
    return f"<p><code>{html.escaped(text)}</code></p>"


def _picture(values: NDArray, caption: str, colours: str, width: int = WIDTH) -> str:
    every = max(1, -(-max(values.shape) // LONGEST))
    limits = html.limits_of(values)
    pixels = html.coloured(values[::every, ::every], limits, colours)
    data = base64.b64encode(png_bytes(pixels)).decode()
    return (
        f'<figure style="margin:0"><img alt="{caption}" width="{width}" style="image-rendering:pixelated" '
        f'src="data:image/png;base64,{data}"><figcaption>{caption}, {limits[0]:.3g} .. {limits[1]:.3g}</figcaption>'
        "</figure>"
    )


def _history(history: Sequence[EpochRecord]) -> str:
    if not history:
        return "<p>not trained yet</p>"
    epochs = [record.epoch for record in history]
    curves = {"training": (epochs, [record.train_loss for record in history])}
    if any(record.val_loss is not None for record in history):
        losses = [np.nan if record.val_loss is None else record.val_loss for record in history]
        curves["validation"] = (epochs, losses)
    return html.chart(curves, "loss", x="epoch")


def _modes(weights: Mapping[str, NDArray]) -> NDArray:
    """The probe modes (K, N, N) of the first probe."""
    probe = weights["probe"]
    first = probe[0] if probe.ndim == 4 else probe
    return first.reshape(-1, *first.shape[-2:])


def _run_figure(result: Any, **options: Any) -> "Figure":
    if result.reconstruction is not None:
        return reconstruction_figure(result.reconstruction, **options)
    return history_figure(() if result.model is None else result.model.history)


_HTML: dict[str, Callable[[Any], list[str]]] = {
    "image": _image,
    "model": _model,
    "module": _module,
    "rates": _rates,
    "run": _run,
    "training": _training,
}
_FIGURES: dict[str, Callable[..., "Figure"]] = {
    "image": reconstruction_figure,
    "model": lambda model: history_figure(model.history),
    "module": lambda module: probe_figure(_modes(module.weights())),
    "rates": lambda sweep: rates_figure(sweep.learning_rates, sweep.losses, sweep.suggestion),
    "run": _run_figure,
    "training": lambda run: history_figure(run.history),
}
