"""The reference network against SciPy and against the meaning of its layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from ptycho_backends.config import ModelConfig
from ptycho_backends.reference import network
from ptycho_backends.reference.initial_weights import (
    initial_weights,
    layer_channels,
    weight_dtype,
    weight_shapes,
)


def test_convolution_is_scipys_correlation():
    generator = np.random.default_rng(0)
    image = generator.normal(size=(2, 9, 7, 3))
    weights = {"c/kernel": generator.normal(size=(3, 3, 3, 4)), "c/bias": generator.normal(size=4)}
    got = network.conv(image, weights, "c")
    for b in range(2):
        for o in range(4):
            want = weights["c/bias"][o] + sum(
                correlate2d(image[b, :, :, i], weights["c/kernel"][:, :, i, o], mode="same") for i in range(3)
            )
            np.testing.assert_allclose(got[b, :, :, o], want, atol=1e-12)


@given(x=st.floats(-700, 700))
def test_activations(x):
    x = np.array(x)
    assert network.activation("relu", x) == max(x, 0)
    sigmoid = 1 / (1 + np.exp(-x)) if x > -700 else 0.0
    assert network.activation("sigmoid", x) == pytest.approx(sigmoid, abs=1e-15)
    assert network.activation("swish", x) == pytest.approx(x * sigmoid, rel=1e-9, abs=1e-12)
    assert network.activation("silu", x) == network.activation("swish", x)
    assert network.activation("softplus", x) == pytest.approx(np.log1p(np.exp(-abs(x))) + max(x, 0))


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="got 'gelu'"):
        network.activation("gelu", np.zeros(1))


def test_pooling_and_upsampling():
    image = np.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(network.max_pool(image)[0, :, :, 0], [[5, 7], [13, 15]])
    up = network.upsample(network.max_pool(image))[0, :, :, 0]
    np.testing.assert_array_equal(up[:2], [[5, 5, 7, 7]] * 2)
    np.testing.assert_array_equal(network.max_pool(network.upsample(image)), image)


CONFIGS = st.builds(
    ModelConfig,
    N=st.sampled_from([64, 128, 256]),
    gridsize=st.integers(1, 3),
    n_filters_scale=st.integers(1, 2),
    object_big=st.booleans(),
    probe_big=st.booleans(),
    pad_object=st.booleans(),
)


@settings(max_examples=25)
@given(config=CONFIGS, seed=st.integers(0, 100))
def test_initial_weights(config, seed):
    probe = np.ones((config.N, config.N), np.complex64)
    weights = initial_weights(config, seed, probe=probe, intensity_scale=2.0)
    again = initial_weights(config, seed, probe=probe, intensity_scale=2.0)
    assert {name: value.shape for name, value in weights.items()} == weight_shapes(config)
    for name, value in weights.items():
        np.testing.assert_array_equal(value, again[name])
        assert value.dtype == weight_dtype(name)
        if name.endswith("bias"):
            assert not value.any()
        if name.endswith("kernel"):
            limit = np.float32(np.sqrt(6 / (9 * (value.shape[2] + value.shape[3]))))
            assert np.abs(value).max() <= limit
            assert np.abs(value).max() > 0.8 * limit
    assert weights["log_scale"] == np.float32(np.log(2.0))


def test_initial_weights_are_the_same_on_every_machine():
    """Pinned, because every backend and every earlier run starts from these."""
    weights = initial_weights(
        ModelConfig(n_filters_scale=1), 42, probe=np.ones((64, 64)), intensity_scale=1.0
    )
    kernel = weights["encoder/block0/conv0/kernel"].ravel()
    pinned = [0.07787683606147766, -0.017374880611896515, 0.10193777829408646]
    np.testing.assert_array_equal(kernel[:3], np.float32(pinned))


def test_layers_of_the_architectures():
    """The table of the specification for N = 64, and which heads exist."""
    layers = layer_channels(ModelConfig(gridsize=2, n_filters_scale=1))
    assert layers["encoder/block0/conv0"] == (4, 32)
    assert layers["encoder/block2/conv1"] == (128, 128)
    assert layers["phase/block0/conv0"] == (128, 64)
    assert layers["amplitude/inner_head"] == (28, 4)
    assert layers["amplitude/border/conv0"] == (4, 32)
    assert layers["amplitude/border_head"] == (32, 4)
    unpadded = layer_channels(ModelConfig(pad_object=False, probe_big=False, object_big=False, gridsize=2))
    assert "phase/inner_head" not in unpadded
    assert unpadded["phase/border/conv0"] == (64, 64)
    assert unpadded["phase/border_head"] == (64, 1)
    assert "phase/border/conv0" not in layer_channels(ModelConfig(probe_big=False))
    deep = layer_channels(ModelConfig(N=256, n_filters_scale=1))
    assert [deep[f"encoder/block{i}/conv0"] for i in range(5)] == [
        (1, 8), (8, 16), (16, 32), (32, 64), (64, 128),
    ]  # fmt: skip
    assert [deep[f"phase/block{i}/conv0"] for i in range(4)] == [
        (128, 256), (256, 128), (128, 64), (64, 32),
    ]  # fmt: skip


@pytest.mark.parametrize("probe_big", [True, False])
def test_the_border_is_lit_only_by_its_own_branch(probe_big):
    config = ModelConfig(n_filters_scale=1, probe_big=probe_big)
    weights = initial_weights(config, 0, probe=np.ones((64, 64)), intensity_scale=1.0)
    fed = np.random.default_rng(0).random((1, 64, 64, 1))
    patches = network.object_patches(fed, weights, config)[0, :, :, 0]
    assert np.abs(patches[16:48, 16:48]).min() > 0
    rim = np.abs(np.concatenate([patches[:16].ravel(), patches[48:].ravel()]))
    assert (rim.max() > 0) == probe_big
