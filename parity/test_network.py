"""Every stage of `network` on each framework against the reference, in both precisions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_backends.reference import network as reference
from ptycho_backends.reference.initial_weights import trunk_of
from ptycho_backends.reference.model import in_double
from ptycho_backends.testing.agreement import ALLOWANCES, Allowance, assert_agrees, assert_all_agree
from ptycho_backends.testing.strategies import cases, real_arrays

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])

# Several convolutions in a row: not one stage, and not yet the model.
CHAINS = {
    "float64": Allowance(1e-12, "up to ten convolutions one after the other"),
    "float32": Allowance(1e-5, "up to ten convolutions one after the other"),
}


# Cases of the networks that predict patches.
of_patches = st.sampled_from(["cnn", "cnn", "attention"]).flatmap(
    lambda name: cases(architecture=name, n_filters_scale=1)
)


def compare(adapter, stage, precision, *arguments, allowance=None):
    want = getattr(reference, stage)(*arguments)
    got = adapter.call(f"network.{stage}", *arguments, precision=precision)
    allowance = allowance or f"stages, {precision}"
    if isinstance(want, dict):
        assert_all_agree(f"{adapter.name}: {stage}", got, want, allowance)
        return
    pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
    for one, other in pairs:
        assert_agrees(f"{adapter.name}: {stage}", one, other, allowance)


@PRECISIONS
@given(data=st.data(), height=st.sampled_from([2, 6]), width=st.sampled_from([1, 3, 7]), biased=st.booleans())
def test_conv(adapter, precision, data, height, width, biased):
    ins, outs = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    image = data.draw(real_arrays((2, height, 4, ins)))
    layer = {"layer/kernel": data.draw(real_arrays((width, width, ins, outs)))}
    if biased:
        layer["layer/bias"] = data.draw(real_arrays((outs,)))
    compare(adapter, "conv", precision, image, layer, "layer")


@PRECISIONS
@given(data=st.data(), height=st.sampled_from([1, 2, 5]), width=st.sampled_from([1, 4]), biased=st.booleans())
def test_conv_upsampled(adapter, precision, data, height, width, biased):
    ins, outs = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    image = data.draw(real_arrays((2, height, width, ins)))
    layer = {"layer/kernel": data.draw(real_arrays((3, 3, ins, outs)))}
    if biased:
        layer["layer/bias"] = data.draw(real_arrays((outs,)))
    compare(adapter, "conv_upsampled", precision, image, layer, "layer")


@PRECISIONS
@given(vectors=real_arrays((3, 4)), kernel=real_arrays((4, 2)), bias=real_arrays((2,)))
def test_dense(adapter, precision, vectors, kernel, bias):
    compare(adapter, "dense", precision, vectors, {"layer/kernel": kernel, "layer/bias": bias}, "layer")


@PRECISIONS
@pytest.mark.parametrize("name", ["sigmoid", "swish", "silu", "softplus", "relu"])
@given(x=real_arrays((50,)), factor=st.sampled_from([1.0, 0.01, 10.0]))
def test_activation(adapter, precision, name, x, factor):
    compare(adapter, "activation", precision, name, factor * x)


@pytest.mark.parametrize("name", ["sigmoid", "swish", "softplus", "relu"])
def test_activation_far_out(adapter, name):
    compare(adapter, "activation", "float64", name, np.array([-700.0, -60.0, -30.0, 0.0, 30.0, 60.0, 700.0]))


def test_unknown_activation_is_refused(adapter):
    with pytest.raises(ValueError, match="tanh"):
        adapter.call("network.activation", "tanh", np.zeros(3))


@PRECISIONS
@given(image=real_arrays((2, 4, 6, 3)))
def test_pool_and_upsample(adapter, precision, image):
    compare(adapter, "max_pool", precision, image)
    compare(adapter, "upsample", precision, image)


@PRECISIONS
@given(data=st.data(), image=real_arrays((2, 4, 6, 3)))
def test_batch_norm(adapter, precision, data, image):
    image = image + np.arange(image.size).reshape(image.shape) % 7  # no channel is constant
    layer = {f"layer/{kind}": data.draw(real_arrays((3,))) for kind in ("gamma", "beta", "mean", "variance")}
    layer["layer/variance"] = np.abs(layer["layer/variance"]) + 0.25
    compare(adapter, "batch_norm", precision, image, layer, "layer")
    assert_trains_alike(adapter, precision, "batch_norm", image, layer, "layer")


def assert_trains_alike(adapter, precision, stage, image, weights, *more, allowance=None):
    """Compare results in training, the statistics of the batch, and the running statistics after it."""
    want_statistics, statistics = {}, {}
    want = getattr(reference, stage)(image, weights, *more, statistics=want_statistics)
    got = adapter.call(f"network.{stage}", image, weights, *more, precision=precision, statistics=statistics)
    allowance = allowance or f"stages, {precision}"
    assert_agrees(f"{adapter.name}: {stage} in training", got, want, allowance)
    assert_all_agree(f"{adapter.name}: statistics", statistics, want_statistics, allowance)
    compare(adapter, "moved_running_values", precision, weights, want_statistics)


@PRECISIONS
@given(data=st.data(), image=real_arrays((2, 4, 6, 8)), hidden=st.integers(1, 4))
def test_channel_attention(adapter, precision, data, image, hidden):
    layer = {
        "layer/mlp0/kernel": data.draw(real_arrays((8, hidden))) / 8,
        "layer/mlp0/bias": data.draw(real_arrays((hidden,))),
        "layer/mlp1/kernel": data.draw(real_arrays((hidden, 8))) / 8,
        "layer/mlp1/bias": data.draw(real_arrays((8,))),
    }
    compare(adapter, "channel_attention", precision, image, layer, "layer")


@PRECISIONS
@given(data=st.data(), image=real_arrays((2, 4, 6, 3)), width=st.sampled_from([1, 3, 7]))
def test_spatial_attention(adapter, precision, data, image, width):
    layer = {
        "layer/kernel": data.draw(real_arrays((width, width, 2, 1))) / width,
        "layer/bias": data.draw(real_arrays((1,))),
    }
    compare(adapter, "spatial_attention", precision, image, layer, "layer")


@PRECISIONS
@given(data=st.data(), image=real_arrays((2, 4, 6, 8)), width=st.sampled_from([1, 3, 5]))
def test_efficient_channel_attention(adapter, precision, data, image, width):
    layer = {"layer/kernel": data.draw(real_arrays((width,)))}
    compare(adapter, "efficient_channel_attention", precision, image, layer, "layer")


@PRECISIONS
@settings(max_examples=max(4, settings.default.max_examples // 8))
@given(case=of_patches, pixels=real_arrays((2, 8, 8, 1)))
def test_blocks(adapter, precision, case, pixels):
    weights, model = in_double(case.weights), case.config.model
    allowance = CHAINS[precision]
    first = weights["encoder/block0/conv0/kernel"].shape[2]
    compare(adapter, "encoder_block", precision, pixels.repeat(first, axis=-1), weights, "encoder/block0",
            model, allowance=allowance)  # fmt: skip
    block = f"{trunk_of(model, 'phase')}/block0"
    width = weights[f"{block}/conv0/kernel"].shape[2]
    compare(adapter, "decoder_block", precision, pixels.repeat(width, axis=-1) / width, weights, block, model,
            allowance=allowance)  # fmt: skip


@PRECISIONS
@settings(max_examples=max(4, settings.default.max_examples // 8))
@given(case=of_patches)
def test_encode_decode_and_patches(adapter, precision, case):
    weights, model = in_double(case.weights), case.config.model
    fed = case.intensity_scale * case.batch.diffraction_amplitude.astype(np.float64)
    encoded = reference.encode(fed / case.intensity_scale, weights, model)
    allowance = CHAINS[precision]
    compare(adapter, "encode", precision, fed / case.intensity_scale, weights, model, allowance=allowance)
    compare(adapter, "decode", precision, encoded, weights, model, allowance=allowance)
    compare(adapter, "object_patches", precision, fed, weights, model, allowance=allowance)
    if model.batch_norm:
        # dividing by the spread of the features magnifies their rounding: the allowance is that of outputs
        allowance = ALLOWANCES[f"outputs, {precision}"]
        assert_trains_alike(adapter, precision, "object_patches", fed, weights, model, allowance=allowance)


@PRECISIONS
@given(case=of_patches, x=real_arrays((1, 3, 3, 2)))
def test_head_activation(adapter, precision, case, x):
    for decoder in ("amplitude", "phase"):
        compare(adapter, "head_activation", precision, x, case.config.model, decoder)
