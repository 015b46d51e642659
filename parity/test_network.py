"""Every stage of `network` on each framework against the reference, in both precisions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_backends.reference import network as reference
from ptycho_backends.reference.model import in_double
from ptycho_backends.testing.agreement import Allowance, assert_agrees
from ptycho_backends.testing.strategies import cases, real_arrays

PRECISIONS = pytest.mark.parametrize("precision", ["float64", "float32"])

# Several convolutions in a row: not one stage, and not yet the model.
CHAINS = {
    "float64": Allowance(1e-12, "up to ten convolutions one after the other"),
    "float32": Allowance(1e-5, "up to ten convolutions one after the other"),
}


def compare(side, stage, precision, *arguments, allowance=None):
    want = getattr(reference, stage)(*arguments)
    got = side.call(f"network.{stage}", *arguments, precision=precision)
    assert_agrees(f"{side.name}: {stage}", got, want, allowance or f"stages, {precision}")


@PRECISIONS
@given(data=st.data(), height=st.sampled_from([2, 6]), ins=st.integers(1, 3), outs=st.integers(1, 4))
def test_conv3x3(side, precision, data, height, ins, outs):
    image = data.draw(real_arrays((2, height, 4, ins)))
    layer = {
        "layer/kernel": data.draw(real_arrays((3, 3, ins, outs))),
        "layer/bias": data.draw(real_arrays((outs,))),
    }
    compare(side, "conv3x3", precision, image, layer, "layer")


@PRECISIONS
@pytest.mark.parametrize("name", ["sigmoid", "swish", "silu", "softplus", "relu"])
@given(x=real_arrays((50,)), factor=st.sampled_from([1.0, 0.01, 10.0]))
def test_activation(side, precision, name, x, factor):
    compare(side, "activation", precision, name, factor * x)


@pytest.mark.parametrize("name", ["sigmoid", "swish", "softplus", "relu"])
def test_activation_far_out(side, name):
    compare(side, "activation", "float64", name, np.array([-700.0, -60.0, -30.0, 0.0, 30.0, 60.0, 700.0]))


def test_unknown_activation_is_refused(side):
    with pytest.raises(ValueError, match="tanh"):
        side.call("network.activation", "tanh", np.zeros(3))


@PRECISIONS
@given(image=real_arrays((2, 4, 6, 3)))
def test_pool_and_upsample(side, precision, image):
    compare(side, "max_pool", precision, image)
    compare(side, "upsample", precision, image)


@PRECISIONS
@settings(max_examples=max(3, settings.default.max_examples // 8))
@given(case=cases(n_filters_scale=1), pixels=real_arrays((2, 8, 8, 1)))
def test_blocks(side, precision, case, pixels):
    weights = in_double(case.weights)
    first = weights["encoder/block0/conv0/kernel"].shape[2]
    compare(side, "encoder_block", precision, pixels.repeat(first, axis=-1), weights, "encoder/block0",
            allowance=CHAINS[precision])  # fmt: skip
    width = weights["phase/block0/conv0/kernel"].shape[2]
    compare(side, "decoder_block", precision, pixels.repeat(width, axis=-1) / width, weights,
            "phase/block0", allowance=CHAINS[precision])  # fmt: skip


@PRECISIONS
@settings(max_examples=max(4, settings.default.max_examples // 8))
@given(case=cases(n_filters_scale=1))
def test_encode_decode_and_patches(side, precision, case):
    weights, model = in_double(case.weights), case.config.model
    fed = case.intensity_scale * case.batch.diffraction_amplitude.astype(np.float64)
    encoded = reference.encode(fed / case.intensity_scale, weights, model)
    allowance = CHAINS[precision]
    compare(side, "encode", precision, fed / case.intensity_scale, weights, model, allowance=allowance)
    for decoder in ("amplitude", "phase"):
        compare(side, "decode", precision, encoded, weights, model, decoder, allowance=allowance)
    compare(side, "object_patches", precision, fed, weights, model, allowance=allowance)


@PRECISIONS
@given(case=cases(), x=real_arrays((1, 3, 3, 2)))
def test_head_activation(side, precision, case, x):
    for decoder in ("amplitude", "phase"):
        compare(side, "head_activation", precision, x, case.config.model, decoder)
