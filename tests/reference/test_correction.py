"""The learned correction of the network `unrolled` in the reference: what it sees, its U-Net, and its tiles."""

import numpy as np
import pytest

from ptycho_backends import constants
from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import correction, network
from ptycho_backends.reference.initial_weights import correction_weights, initial_weights, weight_shapes
from ptycho_backends.reference.model import in_double

CONFIG = ModelConfig(N=16, architecture="unrolled", n_filters_scale=1)
HEAD = f"{correction.HEAD}/kernel"


def some_weights(seed=0, config=CONFIG):
    """With a head that is not zero."""
    probe = np.ones((config.N, config.N))
    draw = np.random.default_rng(seed)
    weights = in_double(initial_weights(config, seed, probe=probe, intensity_scale=1.0))
    weights[HEAD] = draw.normal(0, 0.1, weights[HEAD].shape)
    for name in weights:
        if name.endswith("/bias"):
            weights[name] = draw.uniform(-0.1, 0.1, weights[name].shape)
    return correction_weights(weights)


def canvas_and_light(*shape, seed=0):
    draw = np.random.default_rng(seed)
    canvas = 1 + 0.3 * (draw.normal(size=shape) + 1j * draw.normal(size=shape))
    return canvas, 0.1 + draw.random(shape)


def test_names_and_shapes():
    shapes = weight_shapes(CONFIG)
    first, second, lowest = constants.UNET_FILTERS
    want = {
        "encoder/block0/conv0": (3, first),
        "encoder/block1/conv0": (first, second),
        "encoder/block2/conv1": (lowest, lowest),
        "decoder/block1/conv0": (lowest + second, second),
        "decoder/block0/conv0": (second + first, first),
        "decoder/head": (first, 2),
    }
    for layer, channels in want.items():
        assert shapes[f"{layer}/kernel"] == (3, 3, *channels)
        assert shapes[f"{layer}/bias"] == channels[1:]
    assert len(shapes) == 2 * (2 * 3 + 2 * 2 + 1) + 2
    for N in (18, 250):
        other = ModelConfig(N=N, gridsize=3, architecture="unrolled", n_filters_scale=1)
        same = correction_weights(weight_shapes(other))
        assert same == correction_weights(shapes), "the correction knows no size"


def test_a_new_model_corrects_nothing():
    weights = initial_weights(CONFIG, 1, probe=np.ones((16, 16)), intensity_scale=1.0)
    canvas, light = canvas_and_light(2, 16, 16)
    np.testing.assert_array_equal(correction.corrected(canvas, light, in_double(weights)), canvas)


@pytest.mark.parametrize("shape", [(16, 16), (17, 22), (19, 33)])
def test_any_size(shape):
    canvas, light = canvas_and_light(2, *shape)
    got = correction.corrected(canvas, light, some_weights())
    assert got.shape == canvas.shape
    assert np.abs(got - canvas).max() > 1e-3
    # pixels beyond the canvas are zeros, also where the size is no multiple of 4
    multiple = [(0, -side % 4) for side in shape]
    factor = correction.unit_factor(canvas, light)
    seen = correction.features(canvas * factor, correction.relative_light(light))
    seen = np.pad(seen, [(0, 0), *multiple, (0, 0)])
    change = correction.unet(seen, some_weights())[:, : shape[0], : shape[1]]
    want = canvas + (change[..., 0] + 1j * change[..., 1]) / factor
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_scale_phase_and_unit_of_light_cancel():
    canvas, light = canvas_and_light(2, 17, 18)
    want = correction.corrected(canvas, light, some_weights())
    for factor in (1e-3, 70.0, 1j, 5 * np.exp(2.3j)):
        got = correction.corrected(canvas * factor, 1e4 * light, some_weights())
        np.testing.assert_allclose(got, want * factor, rtol=1e-10)


def test_unit_factor():
    canvas, light = canvas_and_light(3, 9, 8)
    seen = canvas * correction.unit_factor(canvas, light)
    for image, weight in zip(seen, light, strict=True):
        assert np.average(np.abs(image) ** 2, weights=weight) == pytest.approx(1)
        mean = np.average(image, weights=weight)
        assert mean.imag == pytest.approx(0, abs=1e-12)
        assert mean.real > 0
    nothing = np.zeros((1, 4, 4))
    for dark in ((nothing + 0j, nothing + 1), (nothing + 1j, nothing)):
        np.testing.assert_array_equal(correction.unit_factor(*dark), 1)
        assert np.isfinite(correction.corrected(*dark, some_weights())).all()


def test_features():
    canvas, light = canvas_and_light(2, 6, 5)
    light[0, 0, 0] = 0
    seen = correction.features(canvas, correction.relative_light(light))
    np.testing.assert_array_equal(seen[..., 0], canvas.real - 1)
    np.testing.assert_array_equal(seen[..., 1], canvas.imag)
    brightest = light.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(seen[..., 2], np.log(1 + 10 * light / brightest) / np.log(11), atol=1e-15)
    assert seen[0, 0, 0, 2] == 0
    assert seen[..., 2].max() == pytest.approx(1)


def test_the_skip_connections():
    """Written out level by level."""
    weights, image = some_weights(), np.random.default_rng(3).normal(size=(1, 8, 12, 3))

    def block(name, image):
        for layer in ("conv0", "conv1"):
            image = np.maximum(network.conv(image, weights, f"{name}/{layer}"), 0)
        return image

    def halved(image):
        return image.reshape(1, image.shape[1] // 2, 2, image.shape[2] // 2, 2, -1).max(axis=(2, 4))

    def doubled(image):
        return image.repeat(2, axis=1).repeat(2, axis=2)

    top = block("encoder/block0", image)
    middle = block("encoder/block1", halved(top))
    bottom = block("encoder/block2", halved(middle))
    up = block("decoder/block1", np.concatenate([doubled(bottom), middle], axis=-1))
    up = block("decoder/block0", np.concatenate([doubled(up), top], axis=-1))
    want = network.conv(up, weights, correction.HEAD)
    np.testing.assert_allclose(correction.unet(image, weights), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [32, 64])
def test_tiles_change_nothing(monkeypatch, size):
    monkeypatch.setattr(constants, "TILE_PX", size)
    canvas, light = canvas_and_light(90, 75)
    got = correction.corrected_scan(canvas, light, some_weights())
    want = correction.corrected(canvas[None], light[None], some_weights())[0]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_tiles_cover_the_canvas_once(monkeypatch):
    monkeypatch.setattr(constants, "TILE_PX", 32)
    covered, numbers = np.zeros((70, 33), int), np.arange(70 * 33).reshape(70, 33)
    for inner, outer, within in correction.tiles(70, 33):
        covered[inner] += 1
        np.testing.assert_array_equal(numbers[outer][within], numbers[inner])
        # a tile begins where max-pooling does
        assert outer[0].start % 4 == outer[1].start % 4 == 0
    assert (covered == 1).all()
