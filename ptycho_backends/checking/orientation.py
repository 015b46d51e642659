"""Axes, signs, scale and order of a scan, by trials and by the likeness of neighbours."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_backends.checking.cures import in_order
from ptycho_backends.checking.findings import ERROR, WARNING, Cure, Finding
from ptycho_backends.checking.pairing import Likeness, likely_orders
from ptycho_backends.checking.trial import Trial
from ptycho_backends.scans.scan import Scan
from ptycho_backends.scans.scan_options import NO_OPTIONS, ScanOptions

# Error over that of shuffled pairs: right below, wrong above, doubtful between.
RIGHT, WRONG = 0.72, 0.85
# Another orientation is better by this factor, or the present one stays.
BETTER = 0.75
# Scales that are tried, each way; a scale is wrong if so far from 1, and its error less than this part.
SCALES = (0.87, 1.15)
LARGER_SCALES = (0.76, 0.815, 1.22, 1.32)
WRONG_SCALE, SCALE_BETTER = 0.07, 0.85

ORIENTATIONS: Mapping[str, dict[str, bool]] = {
    "swapped_axes": {"swap_xy": True},
    "flipped_x": {"flip_x": True},
    "flipped_y": {"flip_y": True},
    "transposed_detector": {"transpose": True},
    "rotated_180": {"flip_x": True, "flip_y": True},
    "rotated_90": {"swap_xy": True, "flip_x": True},
    "rotated_270": {"swap_xy": True, "flip_y": True},
    "swapped_and_rotated_180": {"swap_xy": True, "flip_x": True, "flip_y": True},
    "transposed_and_flipped_x": {"transpose": True, "flip_x": True},
    "transposed_and_flipped_y": {"transpose": True, "flip_y": True},
    "transposed_and_rotated_180": {"transpose": True, "flip_x": True, "flip_y": True},
}
"""Options that mend each orientation."""

_TEXTS = {
    "swapped_axes": "x and y of the positions are exchanged",
    "flipped_x": "x of the positions has the wrong sign",
    "flipped_y": "y of the positions has the wrong sign",
    "transposed_detector": "rows and columns of the patterns are exchanged",
    "rotated_180": "x and y of the positions have the wrong signs",
}


def check_orientation(scan: Scan, options: ScanOptions = NO_OPTIONS) -> Iterator[Finding]:
    """Findings about axes, signs, scale and order; nothing without a probe, for then nothing tells them apart."""
    trial = Trial.of(scan)
    if trial is None:
        return
    shuffled = trial.error(order=np.random.default_rng(1).permutation(len(trial.measured)))
    present = trial.error()
    ratio = present / shuffled
    if ratio < RIGHT:
        yield from _scale(trial, present, {}, options)
        return
    errors = {name: trial.error(**_moved(trial, moves)) for name, moves in ORIENTATIONS.items()}
    best = min(errors, key=lambda name: errors[name])
    evidence = f"error of held-out pixels {errors[best]:.3g}, as it is {present:.3g}, shuffled {shuffled:.3g}"
    if errors[best] < BETTER * present and errors[best] < WRONG * shuffled:
        moves = ORIENTATIONS[best]
        text = _TEXTS.get(best, f"positions and patterns do not fit: {best.replace('_', ' ')}")
        words = " ".join(f"--{name.replace('_', '-')}" for name in moves)
        yield Finding(best, ERROR, text, evidence, Cure(words, {"options": dict(moves)}))
        yield from _scale(trial, errors[best], moves, options)
        return
    order = _order(scan, present, shuffled)
    if order is not None:
        yield order
        return
    found = list(_scale(trial, present, {}, options, far=True))
    if found:
        yield from found
    elif ratio > WRONG:
        yield Finding(
            "unexplained",
            WARNING,
            "no orientation of the positions explains the patterns",
            evidence,
            Cure(advice="look at the probe, the pixel size, and the order of the frames"),
        )


def _moved(trial: Trial, moves: Mapping[str, bool]) -> dict[str, Any]:
    return {"positions_px": turned(trial.positions_px, moves), "transposed": bool(moves.get("transpose"))}


def turned(positions: NDArray[np.float64], moves: Mapping[str, bool]) -> NDArray[np.float64]:
    """Positions (m, 2) around their middle, as options of reading change them."""
    moved = positions[:, ::-1] if moves.get("swap_xy") else positions
    return moved * [-1 if moves.get("flip_x") else 1, -1 if moves.get("flip_y") else 1]


def _order(scan: Scan, present: float, shuffled: float) -> Finding | None:
    """Patterns that belong to other positions."""
    orders = likely_orders(scan)
    errors = {}
    for what, order in orders.items():
        trial = Trial.of(in_order(scan, order))
        errors[what] = np.inf if trial is None else trial.error()
    what = min(errors, key=lambda name: errors[name])
    if errors[what] < BETTER * present and errors[what] < WRONG * shuffled:
        return Finding(
            "shuffled_frames",
            ERROR,
            "the patterns are in another order than the positions",
            f"error of held-out pixels {errors[what]:.3g} with {what}, as it is {present:.3g}, shuffled {shuffled:.3g}",
            Cure(changes={"order": orders[what]}, advice=f"check --fix takes {what}"),
        )
    likeness = Likeness(scan)
    rank = likeness.rank()
    if likeness.is_significant(rank):
        return None
    return Finding(
        "shuffled_frames",
        ERROR,
        "the patterns belong to other positions",
        f"patterns of neighbours are as unlike as others: rank {rank:.2f}, by accident 0.5 +- "
        f"{likeness.deviation:.2f}; "
        f"error of held-out pixels {present:.3g}, shuffled {shuffled:.3g}",
        Cure(advice="pair patterns and positions anew by their numbers in the source; no option can"),
    )


def _scale(
    trial: Trial, error: float, moves: Mapping[str, bool], options: ScanOptions, far: bool = False
) -> Iterator[Finding]:
    """A wrong pixel size, by the scale of positions that fits best."""

    def at(scale: float) -> float:
        moved = _moved(trial, moves)
        return trial.error(moved["positions_px"] * scale, transposed=moved["transposed"])

    errors = {1.0: error} | {scale: at(scale) for scale in SCALES}
    best = min(errors, key=lambda scale: errors[scale])
    if best == 1.0 and not far:
        return
    side = [scale for scale in LARGER_SCALES if far or (scale < 1) == (best < 1)]
    errors |= {scale: at(scale) for scale in side}
    scale, least = _vertex(errors)
    if abs(math.log(scale)) < WRONG_SCALE or least > SCALE_BETTER * error:
        return
    pair = options.detector_pixel_m
    cure = f"--scale-positions {scale:.3g}"
    changes: dict[str, Any] = {"scale_positions": scale}
    if isinstance(pair, float | int):
        cure = f"--detector-pixel {pair * scale:.4g}"
    yield Finding(
        "pixel_size",
        ERROR if least < 0.7 * error else WARNING,
        f"the object pixel is {100 * abs(1 - 1 / scale):.0f} % too {'large' if scale > 1 else 'small'}: detector "
        "pixel, distance or energy is wrong",
        f"error of held-out pixels {least:.3g} with positions times {scale:.3g}, as they are {error:.3g}",
        Cure(cure, changes, "or correct --detector-pixel, --distance or --energy by this factor"),
    )


def _vertex(errors: Mapping[float, float]) -> tuple[float, float]:
    """Scale of the least error, between the neighbours of the best one that was tried, and the least error tried."""
    scales = sorted(errors)
    place = min(range(len(scales)), key=lambda number: errors[scales[number]])
    best = scales[place]
    if 0 < place < len(scales) - 1:
        x = np.log(scales[place - 1 : place + 2])
        y = [errors[scale] for scale in scales[place - 1 : place + 2]]
        a, b, _ = np.polyfit(x, y, 2)
        if a > 0:
            best = float(np.exp(np.clip(-b / (2 * a), x[0], x[2])))
    return best, min(errors.values())
