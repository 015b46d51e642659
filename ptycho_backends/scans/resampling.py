"""Probe, object and mask on other pixels, when patterns are cut, padded or binned."""

import math

import numpy as np
from numpy.typing import NDArray


def cropped_far_field(probe: NDArray, side: int) -> NDArray[np.complex64]:
    """Probe (..., N, N) on `side` pixels of the same field of view: a part of its far field, or zeros around it.

    The counts that it predicts at the pixels left are the same.
    """
    # an odd side has its zero frequency at the same place, N // 2
    far = np.fft.fftshift(np.fft.fft2(probe.astype(np.complex128), norm="ortho"), axes=(-2, -1))
    old = probe.shape[-1]
    found = np.zeros((*probe.shape[:-2], side, side), np.complex128)
    both = min(old, side)
    here, there = old // 2 - both // 2, side // 2 - both // 2
    found[..., there : there + both, there : there + both] = far[..., here : here + both, here : here + both]
    near = np.fft.ifft2(np.fft.ifftshift(found, axes=(-2, -1)), norm="ortho")
    # the pixel at the patch's centre is N // 2 before, side // 2 afterwards
    ratio = side / old
    residue = side // 2 - (old // 2) * ratio
    return (_moved(near, residue) if abs(residue) > 1e-9 else near).astype(np.complex64)


def resampled_image(image: NDArray, new: int, old: int) -> NDArray[np.complex64]:
    """Object (H, W) with pixels `old / new` times as large; the pixel [i, j] comes to [i, j] * new / old."""
    factor = math.gcd(new, old)
    up, down = new // factor, old // factor
    height, width = (-(-length // down) * down for length in image.shape)
    edges = ((0, height - image.shape[0]), (0, width - image.shape[1]))
    padded = np.pad(image.astype(np.complex128), edges, mode="edge")
    target = height // down * up, width // down * up
    spectrum = np.fft.fftshift(np.fft.fft2(padded))
    found = np.zeros(target, np.complex128)
    both = min(height, target[0]), min(width, target[1])
    here = [length // 2 - part // 2 for length, part in zip((height, width), both, strict=True)]
    there = [length // 2 - part // 2 for length, part in zip(target, both, strict=True)]
    found[there[0] : there[0] + both[0], there[1] : there[1] + both[1]] = spectrum[
        here[0] : here[0] + both[0], here[1] : here[1] + both[1]
    ]
    values = np.fft.ifft2(np.fft.ifftshift(found)) * (target[0] * target[1] / (height * width))
    kept = [math.ceil(length * up / down) for length in image.shape]
    return values[: kept[0], : kept[1]].astype(np.complex64)


def scaled_mask(mask: NDArray, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask (H, W) on the pixels of an image `shape` of the same field of view: the nearest value."""
    rows, columns = (
        np.minimum(np.arange(new) * old // new, old - 1) for new, old in zip(shape, mask.shape, strict=True)
    )
    return np.asarray(mask, bool)[np.ix_(rows, columns)]


def _moved(image: NDArray, by: float) -> NDArray:
    """`image` (..., N, N) moved by a fraction of a pixel along both axes."""
    frequency = np.fft.fftfreq(image.shape[-1])
    ramp = np.exp(-2j * np.pi * by * frequency)
    return np.asarray(np.fft.ifft2(np.fft.fft2(image) * ramp[:, None] * ramp[None, :]))
