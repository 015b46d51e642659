"""Curves as pictures: histories of a training and of a refinement, and Fourier ring correlations."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.images.drawing import new_figure, save_figure
from ptycho_backends.images.frc import RingCorrelation
from ptycho_backends.values import EpochRecord, RefinementRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's blue and vermilion: distinct for colour-blind readers too.
TRAIN_COLOUR, VALIDATION_COLOUR, RATE_COLOUR = "#0072B2", "#D55E00", "#7F7F7F"


def save_history_figure(history: Sequence[EpochRecord], path: str | os.PathLike[str]) -> Path:
    """Draw training loss, validation loss and learning rate over the epochs.

    Parameters
    ----------
    history : sequence of EpochRecord
    path : path

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    return save_figure(history_figure(history), path)


def history_figure(history: Sequence[EpochRecord]) -> "Figure":
    """The figure of `save_history_figure`."""
    figure = new_figure(6.0, 4.2)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    epochs = np.array([record.epoch for record in history])
    validated = [record for record in history if record.val_loss is not None]
    style = _style(len(history))
    train = np.array([record.train_loss for record in history])
    val = np.array([record.val_loss for record in validated], float)
    losses.plot(epochs, train, color=TRAIN_COLOUR, label="training", **style)
    if validated:
        at = [record.epoch for record in validated]
        losses.plot(at, val, color=VALIDATION_COLOUR, label="validation", **style)
    _limit_losses(losses, np.concatenate([train, val]))
    rate = np.array([record.learning_rate for record in history])
    rates.semilogy(epochs, rate, color=RATE_COLOUR, **style)
    _limit_rates(rates, rate)
    losses.set_ylabel("loss", fontsize=9)
    rates.set_ylabel("learning rate", fontsize=9)
    rates.set_xlabel("epoch", fontsize=9)
    rates.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if history:
        losses.legend(frameon=False, fontsize=9)
    _plain(figure)
    return figure


def rates_figure(rates: NDArray, losses: NDArray, suggestion: float | None) -> "Figure":
    """Losses (n,) over learning rates (n,), and the rate that is suggested, if any."""
    figure = new_figure(6.0, 3.6)
    axes = figure.subplots()
    axes.semilogx(rates, losses, color=TRAIN_COLOUR, **_style(len(losses)))
    if len(losses):
        # a rise at the end must not hide the fall
        low, first = float(np.min(losses)), float(losses[0])
        margin = max(first - low, 1e-3 * abs(low), 1e-12)
        axes.set_ylim(low - 0.1 * margin, min(float(np.max(losses)), first + 0.5 * margin) + 0.1 * margin)
    axes.set_title("no rate lets the loss fall", fontsize=9)
    if suggestion is not None:
        axes.axvline(suggestion, color=VALIDATION_COLOUR, linewidth=1.0)
        axes.set_title(f"steepest descent at {suggestion:.2g}", fontsize=9)
    axes.set_xlabel("learning rate", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    _plain(figure)
    return figure


def save_passes_figure(passes: Sequence[RefinementRecord], path: str | os.PathLike[str]) -> Path:
    """Draw the errors and the R-factor of a refinement over its passes.

    The error of a pass is a mean over its batches, each before its step: it lags behind the image.

    Parameters
    ----------
    passes : sequence of RefinementRecord
    path : path

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    figure = new_figure(6.0, 4.2)
    errors, factors = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    style = _style(len(passes))
    numbers = [record.number for record in passes]
    errors.plot(numbers, [r.error for r in passes], color=TRAIN_COLOUR, label="fitted pixels", **style)
    held_out = [record for record in passes if record.held_out_error is not None]
    if held_out:
        at = [record.number for record in held_out]
        values = np.array([record.held_out_error for record in held_out], float)
        errors.plot(at, values, color=VALIDATION_COLOUR, label="held-out pixels", **style)
    factors.plot(numbers, [100 * r.r_factor for r in passes], color=TRAIN_COLOUR, **style)
    if passes and min(record.error for record in passes) > 0:
        errors.set_yscale("log")
    factors.set_ylim(bottom=0)
    errors.set_ylabel("error of the amplitudes", fontsize=9)
    factors.set_ylabel("R-factor (%)", fontsize=9)
    factors.set_xlabel("pass", fontsize=9)
    factors.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if passes:
        errors.legend(frameon=False, fontsize=9)
        errors.set_title(_last_pass(passes[-1]), fontsize=9)
    _plain(figure)
    return save_figure(figure, path)


def save_ring_correlation_figure(found: RingCorrelation, path: str | os.PathLike[str]) -> Path:
    """Draw a Fourier ring correlation, the half-bit curve, and the frequency where they cross.

    Parameters
    ----------
    found : RingCorrelation
    path : path

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    figure = new_figure(6.0, 3.6)
    axes = figure.subplots()
    axes.plot(
        found.frequency,
        found.correlation,
        color=TRAIN_COLOUR,
        linewidth=1.4,
        label="correlation of the halves",
    )
    axes.plot(
        found.frequency,
        found.half_bit,
        color=RATE_COLOUR,
        linewidth=1.2,
        linestyle="--",
        label="half-bit curve",
    )
    if found.crossing is not None:
        axes.axvline(found.crossing, color=VALIDATION_COLOUR, linewidth=1.0)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(min(0.0, float(found.correlation.min())) - 0.02, 1.03)
    axes.set_xlabel("spatial frequency (cycles per pixel)", fontsize=9)
    axes.set_ylabel("Fourier ring correlation", fontsize=9)
    axes.set_title(str(found), fontsize=9)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    _plain(figure)
    return save_figure(figure, path)


def _style(points: int) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.0 if points <= 60 else 0.0, "linewidth": 1.2}


def _plain(figure: "Figure") -> None:
    """A light grid, no frame above and to the right, small labels."""
    for panel_axes in figure.axes:
        panel_axes.spines[["top", "right"]].set_visible(False)
        panel_axes.tick_params(which="both", labelsize=8)
        panel_axes.grid(alpha=0.25, linewidth=0.6)
    figure.align_ylabels()


def _last_pass(record: RefinementRecord) -> str:
    held_out = "" if record.held_out_error is None else f", held out {record.held_out_error:.3g}"
    return f"pass {record.number}: error {record.error:.3g}{held_out}, R-factor {100 * record.r_factor:.1f} %"


def _limit_losses(losses: "Axes", values: NDArray) -> None:
    """Set a logarithmic scale for a wide range; else linear limits that ignore an outlying first epoch."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return
    low, high = float(finite.min()), float(finite.max())
    # Poisson likelihoods of bright patterns are negative, and have no logarithm
    if low > 0 and high > 5 * low:
        losses.set_yscale("log")
        return
    if finite.size >= 8:
        top = float(np.percentile(finite, 90))
        if high - low > 5 * (top - low) > 0:
            losses.set_ylim(low - 0.05 * (top - low), top + 0.3 * (top - low))


def _limit_rates(rates: "Axes", values: NDArray) -> None:
    """Set limits at whole decades; a nearly constant rate would get crowded labels otherwise."""
    from matplotlib.ticker import NullFormatter

    rates.yaxis.set_minor_formatter(NullFormatter())
    if values.size and values.min() > 0:
        low, high = np.floor(np.log10(values.min()) + 1e-9), np.ceil(np.log10(values.max()) - 1e-9)
        rates.set_ylim(10.0**low * 0.7, 10.0**high * 1.4)
