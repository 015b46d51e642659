"""Synthetic objects of many kinds, drawn at random: something to train on before the first measurement.

An object is made of one or two *structures*, images of mean 0 and standard deviation 1; amplitude and phase are
smooth functions of them, and share them to a degree that is drawn too. Nothing is drawn pixel by pixel: an object of
256 x 256 pixels takes about 15 ms.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from ptycho_backends.errors import ScanError

Kind = Literal["leaves", "texture", "lines", "mixed"]

LEAST_SIDE = 16

# Amplitudes lie around the first, between the other two: slightly more than 1 is what scaled probes lead to.
MEAN_AMPLITUDE, LEAST_AMPLITUDE, LARGEST_AMPLITUDE = 0.85, 0.3, 1.1
# Standard deviation of the amplitude where nothing saturates, drawn log-uniformly: from pure phase objects on.
AMPLITUDE_CONTRAST = (0.004, 0.3)
# Half the range of the phase, radians.
PHASE_RANGE = (0.1, 1.5)
# Share of that at one standard deviation: 0.7 is 60 %.
PHASE_STEEPNESS = 0.7
# Share of the objects whose phase shows the same structure as the amplitude and no other, as one material does.
ONE_STRUCTURE = 0.4
# Blur of all edges, pixels.
EDGE_BLUR_PX = (0.3, 1.2)
# The power spectrum of a texture falls with twice this power of the frequency.
TEXTURE_EXPONENT = (1.0, 2.6)

# One leaf, and one group of lines, for so many pixels.
PIXELS_PER_LEAF = (500.0, 3000.0)
PIXELS_PER_LINES = (4000.0, 20000.0)

Structure = NDArray[np.floating]


def synthetic_object(
    shape: tuple[int, int], generator: np.random.Generator, kind: Kind | None = None
) -> NDArray[np.complex64]:
    """An object of random content and contrast.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns, pixels; at least 16 each.
    generator : numpy.random.Generator
        The same state gives the same object.
    kind : {'leaves', 'texture', 'lines', 'mixed'}, optional
        Overlapping ellipses, rectangles and rods; noise with a power law; gratings, spokes, strokes and
        letters; or a sum of these. Default: drawn.

    Returns
    -------
    (H, W) complex64 array, [y, x]
        Amplitude 0.3 .. 1.1, near 0.85 on average; phase within +-1.5 rad.

    Raises
    ------
    ScanError
        If a side is too small, or the kind unknown.
    """
    if len(shape) != 2 or min(shape) < LEAST_SIDE:
        raise ScanError(f"shape: got {shape}, want (rows, columns) of at least {LEAST_SIDE} pixels")
    if kind is not None and kind not in STRUCTURES:
        raise ScanError(f"kind: got {kind!r}, want one of {', '.join(STRUCTURES)}")
    chosen = STRUCTURES[generator.choice(list(STRUCTURES)) if kind is None else kind]
    blur_px = generator.uniform(*EDGE_BLUR_PX)
    structure = _normalised(chosen(shape, generator), blur_px)
    contrast = math.exp(generator.uniform(*np.log(AMPLITUDE_CONTRAST)))
    amplitude = _amplitude(contrast * structure)
    # either sign, as what is thick may be dark or bright
    structure *= np.float32(generator.choice([-1.0, 1.0]))
    if generator.random() > ONE_STRUCTURE:
        other = _normalised(chosen(shape, generator), blur_px)
        # cosine and sine keep the standard deviation
        shared = generator.uniform(0.0, math.pi / 2)
        structure = math.sin(shared) * structure + math.cos(shared) * other
    phase = generator.uniform(*PHASE_RANGE) * np.tanh(PHASE_STEEPNESS * structure)
    image = np.empty(shape, np.complex64)
    image.real, image.imag = amplitude * np.cos(phase), amplitude * np.sin(phase)
    return image


def _amplitude(deviation: Structure) -> Structure:
    """The mean amplitude plus `deviation`, which bends smoothly towards the limits."""
    above, below = LARGEST_AMPLITUDE - MEAN_AMPLITUDE, MEAN_AMPLITUDE - LEAST_AMPLITUDE
    room = np.where(deviation > 0, np.float32(above), np.float32(below))
    return MEAN_AMPLITUDE + room * np.tanh(deviation / room)


def _normalised(structure: Structure, blur_px: float = 0.0) -> Structure:
    """`structure`, blurred, with mean 0 and standard deviation 1; 0 where it is flat."""
    blurred = scipy.ndimage.gaussian_filter(structure, blur_px, truncate=3.0) if blur_px else structure
    centred = blurred - blurred.mean()
    return centred / max(float(centred.std()), 1e-6)


# --- structures


def _texture(shape: tuple[int, int], generator: np.random.Generator) -> Structure:
    """Noise whose amplitude spectrum falls with a power of the frequency."""
    rows, columns = (scipy.fft.next_fast_len(side, real=True) for side in shape)
    y, x = (
        frequency(side).astype(np.float32) ** 2
        for frequency, side in ((np.fft.fftfreq, rows), (np.fft.rfftfreq, columns))
    )
    # drawn in Fourier space; the small number keeps the lowest frequencies from being all there is
    noise = generator.standard_normal((rows, 2 * len(x)), np.float32).view(np.complex64)
    noise *= (y[:, None] + x + 1e-4) ** (-generator.uniform(*TEXTURE_EXPONENT) / 2)
    texture = scipy.fft.irfft2(noise, (rows, columns))
    return _normalised(texture[: shape[0], : shape[1]])


def _leaves(shape: tuple[int, int], generator: np.random.Generator) -> Structure:
    """Ellipses, rectangles and rods that hide one another, of power-law sizes and with a texture each."""
    image = np.zeros(shape, np.float32)
    texture = _texture(shape, generator) * generator.uniform(0.0, 0.5)
    # from few particles on a flat ground to a ground that is all hidden
    count = _count(shape, PIXELS_PER_LEAF, generator)
    smallest, exponent = generator.uniform(2.0, 6.0), generator.uniform(1.0, 2.0)
    sizes = np.minimum(smallest * (1 + generator.pareto(exponent, count)), min(shape) / 2)
    centres = generator.uniform((0.0, 0.0), shape, (count, 2))
    covers = (_ellipse, _rectangle, _rod)
    forms = generator.integers(3, size=count)
    shares = generator.uniform(0.3, 1.0, count)
    angles = generator.uniform(0.0, math.pi, count)
    values = generator.standard_normal(count, np.float32)
    textured = generator.uniform(-1.0, 1.0, count).astype(np.float32)
    for number in range(count):
        a = float(sizes[number])
        b = float(shares[number]) * a
        part, u, v = _turned(shape, centres[number], (a, b), float(angles[number]))
        _paint(
            image[part], covers[forms[number]](u, v, a, b), values[number] + textured[number] * texture[part]
        )
    return image


def _lines(shape: tuple[int, int], generator: np.random.Generator) -> Structure:
    """Gratings, spokes, line segments and letter-like strokes on a flat ground."""
    image = np.zeros(shape, np.float32)
    # a sample shows a few forms only
    forms = generator.permutation(len(GROUPS_OF_LINES))[: generator.integers(1, 4)]
    one_height = generator.random() < 0.5
    for _ in range(_count(shape, PIXELS_PER_LINES, generator)):
        height = 1.0 if one_height else float(generator.normal())
        GROUPS_OF_LINES[generator.choice(forms)](image, generator, height)
    return image


def _mixed(shape: tuple[int, int], generator: np.random.Generator) -> Structure:
    """A weighted sum of two structures; or the one inside large shapes, the other around them."""
    names = generator.choice(["leaves", "texture", "lines"], 2, replace=False)
    one, other = (_normalised(STRUCTURES[name](shape, generator)) for name in names)
    if generator.random() < 0.3:
        inside = np.zeros(shape, np.float32)
        for _ in range(_count(shape, (8000.0, 30000.0), generator)):
            centre = generator.uniform((0.0, 0.0), shape)
            a, b = (generator.uniform(0.08, 0.4, 2) * min(shape)).tolist()
            part, u, v = _turned(shape, centre, (max(a, b),) * 2, generator.uniform(0.0, math.pi))
            _paint(inside[part], _ellipse(u, v, a, b), 1.0)
        return one * inside + (other * generator.uniform(0.0, 0.5) - 1) * (1 - inside)
    weight = generator.uniform(0.2, 0.8)
    return weight * one + (1 - weight) * other


STRUCTURES: Mapping[str, Callable[[tuple[int, int], np.random.Generator], Structure]] = MappingProxyType(
    {"leaves": _leaves, "texture": _texture, "lines": _lines, "mixed": _mixed}
)
"""Structure of each kind of object."""


# --- groups of lines, each drawn into `image`


def _grating(image: Structure, generator: np.random.Generator, height: float) -> None:
    """Parallel bars within a rectangle."""
    extent = (generator.uniform(0.06, 0.3, 2) * min(image.shape)).tolist()
    part, u, v = _turned(image.shape, generator.uniform((0.0, 0.0), image.shape), extent, _angle(generator))
    period = generator.uniform(3.0, max(6.0, extent[0] / 2))
    width = generator.uniform(0.3, 0.7) * period
    distance = np.abs((u + generator.uniform(0.0, period)) % period - period / 2)
    bars = _soft(width / 2 - distance)
    _paint(image[part], bars * _rectangle(u, v, *extent), height)


def _spokes(image: Structure, generator: np.random.Generator, height: float) -> None:
    """A star of spokes."""
    radius = generator.uniform(0.06, 0.3) * min(image.shape)
    part, u, v = _turned(image.shape, generator.uniform((0.0, 0.0), image.shape), (radius, radius), 0.0)
    spokes, turn = int(generator.integers(4, 37)), generator.uniform(0.0, math.tau)
    away = np.sqrt(u * u + v * v)
    # a cosine over its slope is the distance from the edge, in pixels
    edge = np.sin(spokes * np.arctan2(v, u) + turn) * away / spokes
    inner = generator.uniform(0.0, 0.3) * radius
    _paint(image[part], _soft(edge) * _soft(radius - away) * _soft(away - inner), height)


def _segments(image: Structure, generator: np.random.Generator, height: float) -> None:
    """A few line segments of one width, here and there along a bent path."""
    width = generator.uniform(1.0, 6.0)
    point, direction = generator.uniform((0.0, 0.0), image.shape), generator.uniform(0.0, math.tau)
    for _ in range(generator.integers(1, 6)):
        length = generator.uniform(0.05, 0.4) * min(image.shape)
        then = point + length * np.array([math.sin(direction), math.cos(direction)])
        _stroke(image, point, then, width, height)
        point, direction = then, direction + generator.normal(0.0, 0.7)


def _letters(image: Structure, generator: np.random.Generator, height: float) -> None:
    """A word: each letter has strokes between points of its 3 x 3 lattice."""
    size = generator.uniform(6.0, max(8.0, 0.12 * min(image.shape)))
    width = generator.uniform(0.12, 0.25) * size
    turn = _angle(generator)
    along, down = np.array([math.sin(turn), math.cos(turn)]), np.array([math.cos(turn), -math.sin(turn)])
    corner = generator.uniform((0.0, 0.0), image.shape)
    for letter in range(generator.integers(1, 6)):
        start = corner + 1.1 * letter * size * along
        lattice = start + size * (_LATTICE[:, :1] * 0.7 * along + _LATTICE[:, 1:] * down)
        path = generator.permutation(9)[: generator.integers(3, 6)]
        for one, other in itertools.pairwise(path):
            _stroke(image, lattice[one], lattice[other], width, height)


_LATTICE = np.stack(np.divmod(np.arange(9), 3), axis=-1) / 2.0


GROUPS_OF_LINES = (_grating, _spokes, _segments, _letters)


def _stroke(image: Structure, start: NDArray, end: NDArray, width: float, height: float) -> None:
    """A line segment with round ends from `start` to `end`, both [y, x]."""
    half = float(np.hypot(*(end - start))) / 2
    turn = math.atan2(end[0] - start[0], end[1] - start[1])
    part, u, v = _turned(image.shape, (start + end) / 2, (half + width, width), turn)
    beyond = np.maximum(np.abs(u) - half, 0)
    _paint(image[part], _soft(width / 2 - np.sqrt(beyond * beyond + v * v)), height)


# --- shapes


def _count(shape: tuple[int, int], pixels: tuple[float, float], generator: np.random.Generator) -> int:
    """A number of things, of which each has some of `pixels` to itself; drawn log-uniformly, at least 2."""
    return max(2, round(math.prod(shape) / math.exp(generator.uniform(*np.log(pixels)))))


def _angle(generator: np.random.Generator) -> float:
    """Upright or lying half of the time, as things made on purpose are; else any angle."""
    return (
        generator.integers(2) * math.pi / 2 if generator.random() < 0.5 else generator.uniform(0.0, math.pi)
    )


def _turned(
    shape: tuple[int, ...], centre: NDArray, half_extent: Sequence[float], angle: float
) -> tuple[tuple[slice, slice], Structure, Structure]:
    """Bounding box of a rectangle turned by `angle` about `centre` [y, x], and its own coordinates in that box."""
    cosine, sine = math.cos(angle), math.sin(angle)
    across, along = half_extent
    reach_x = abs(across * cosine) + abs(along * sine) + 2
    reach_y = abs(across * sine) + abs(along * cosine) + 2
    rows = slice(max(0, int(centre[0] - reach_y)), max(0, min(shape[0], int(centre[0] + reach_y) + 1)))
    columns = slice(max(0, int(centre[1] - reach_x)), max(0, min(shape[1], int(centre[1] + reach_x) + 1)))
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(centre[1])
    # plain numbers leave arrays in single precision
    return (rows, columns), x * cosine + y * sine, y * cosine - x * sine


def _soft(depth_px: Structure) -> Structure:
    """Share of a pixel inside an edge that lies `depth_px` away from its centre."""
    inside = depth_px + 0.5
    # not np.clip, which takes longer on images as small as these
    return np.minimum(np.maximum(inside, 0, out=inside), 1, out=inside)


def _ellipse(u: Structure, v: Structure, a: float, b: float) -> Structure:
    """Half axes `a` and `b`, pixels."""
    p, q = u / a, v / b
    # to first order, the distance from the rim is the deviation of the quadratic form over its slope
    half_slope = np.sqrt(p * p / a**2 + q * q / b**2) + 1e-6
    return _soft((1 - p * p - q * q) / (2 * half_slope))


def _rectangle(u: Structure, v: Structure, a: float, b: float) -> Structure:
    """Half sides `a` and `b`, pixels."""
    return _soft(np.minimum(a - np.abs(u), b - np.abs(v)))


def _rod(u: Structure, v: Structure, a: float, b: float) -> Structure:
    """A rectangle a quarter as wide, but of one pixel at least."""
    return _rectangle(u, v, a, max(b / 4, 0.5))


def _paint(image: Structure, cover: Structure, value: Structure | float) -> None:
    """Hide `image` behind `value` where `cover` is 1, in place."""
    image += cover * (value - image)
