"""The TensorFlow mirror against the float64 reference; the parity suite does the same at length."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ptycho_backends.config import ExecutionConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import network as reference_network
from ptycho_backends.reference import physics as reference_physics
from ptycho_backends.reference.initial_weights import weight_shapes
from ptycho_backends.tensorflow import losses, network, physics
from ptycho_backends.tensorflow.arrays import tensors_from_weights, weights_from_tensors
from ptycho_backends.tensorflow.backend import TensorFlowBackend
from ptycho_backends.testing.agreement import assert_agrees
from ptycho_backends.testing.cases import LOSSES, Case
from ptycho_backends.testing.replay import replayed_steps

DOUBLE = ExecutionConfig(precision="64-true", accelerator="cpu")
SINGLE = ExecutionConfig(accelerator="cpu")

CASES = [
    Case(),
    Case(gridsize=2, amp_activation="swish", offsets="uncentred"),
    Case(gridsize=3, probe_big=False, amp_activation="softplus", groups=1),
    Case(gridsize=2, object_big=False, amp_activation="relu", offsets="far"),
    Case(pad_object=False, probe_mask=True, dark=True),
    Case(gridsize=2, gaussian_smoothing_sigma=0.7, n_filters_scale=2, max_position_jitter=7),
    Case(N=128, gridsize=2, groups=1),
    Case(N=256, groups=1),
]


@pytest.fixture(scope="module")
def backend():
    return TensorFlowBackend()


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_outputs_agree_with_the_reference(backend, case):
    model = case.config.model
    want = reference.predict(model, case.weights, case.batch)
    for execution, allowance in ((DOUBLE, "outputs, float64"), (SINGLE, "outputs, float32")):
        got = backend.forward(model, case.weights, case.batch, execution=execution)
        for output in ("object", "amplitude", "intensity"):
            assert_agrees(output, getattr(got, output), getattr(want, output), allowance)


@pytest.mark.parametrize("object_big", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_agree_with_the_reference(backend, loss, object_big):
    case = Case(gridsize=2, loss=loss, object_big=object_big, amp_activation="relu")
    want = reference.loss(case.config, case.weights, case.batch)
    got = backend.loss(case.config, case.weights, case.batch, execution=DOUBLE)
    assert got.keys() == want.keys()
    for term, value in want.items():
        assert got[term] == pytest.approx(value, rel=1e-11), term


@pytest.mark.parametrize("loss", ["nll", "all", "supervised"])
def test_gradients_are_the_slopes_of_the_reference(backend, loss):
    """Central differences of the float64 reference along a random direction in all weights at once."""
    case = Case(gridsize=2, loss=loss, nphotons=1e4, seed=4)
    gradients = backend.gradients(case.config, case.weights, case.batch, execution=DOUBLE)
    assert list(gradients) == list(weight_shapes(case.config.model))
    generator = np.random.default_rng(1)
    direction = {}
    for key, gradient in gradients.items():
        step = generator.normal(size=gradient.shape)
        if np.iscomplexobj(gradient):
            step = step + 1j * generator.normal(size=gradient.shape)
        direction[key] = step
    slope = sum(np.vdot(direction[key], gradients[key]).real for key in gradients)

    def along(t):
        moved = {key: np.asarray(case.weights[key]) + t * direction[key] for key in case.weights}
        return reference.loss(case.config, moved, case.batch)["total"]

    h = 1e-7
    assert (along(h) - along(-h)) / (2 * h) == pytest.approx(slope, rel=2e-5)


@pytest.mark.parametrize("loss", ["nll", "mae", "mae+object", "supervised"])
def test_loss_and_gradient_are_finite_where_everything_is_zero(backend, loss):
    case = Case(loss=loss, amp_activation="relu", probe_big=False)
    zeros = {name: np.zeros_like(value) for name, value in case.weights.items()}
    dark = dataclasses.replace(
        case.batch, diffraction_amplitude=np.zeros_like(case.batch.diffraction_amplitude)
    )
    for weights in (case.weights, zeros):
        for batch in (case.batch, dark):
            assert np.isfinite(backend.loss(case.config, weights, batch, execution=SINGLE)["total"])
            gradients = backend.gradients(case.config, weights, batch, execution=SINGLE)
            assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_phase_of_zero_is_zero_whatever_its_sign():
    image = tf.constant([0.0, -0.0, complex(-0.0, -0.0), -1.0, 1j], tf.complex128)
    parts = tf.stack([tf.math.real(image), tf.math.imag(image)])
    with tf.GradientTape() as tape:
        tape.watch(parts)
        phase = losses._phase(tf.complex(parts[0], parts[1]))
    np.testing.assert_allclose(phase.numpy(), [0, 0, 0, np.pi, np.pi / 2])
    slopes = tape.gradient(phase, parts).numpy()
    np.testing.assert_allclose(slopes, [[0, 0, 0, 0, -1], [0, 0, 0, -1, 0]], atol=1e-15)


def test_the_first_of_equal_maxima_takes_the_gradient():
    """As torch has it; where a pattern is dark all four are equal."""
    for dtype in (tf.float32, tf.float64):
        image = tf.ones((1, 4, 4, 1), dtype)
        with tf.GradientTape() as tape:
            tape.watch(image)
            pooled = network.max_pool(image)
        taken = tape.gradient(pooled, image).numpy()[0, :, :, 0]
        np.testing.assert_array_equal(taken, np.tile([[1, 0], [0, 0]], (2, 2)))


def test_parts_of_the_network_agree_with_the_reference():
    image = np.random.default_rng(0).normal(size=(2, 6, 4, 3))
    np.testing.assert_array_equal(network.upsample(tf.constant(image)), reference_network.upsample(image))
    np.testing.assert_array_equal(network.max_pool(tf.constant(image)), reference_network.max_pool(image))
    wide = np.linspace(-800, 800, 4001)
    for name in ("sigmoid", "swish", "softplus", "relu"):
        got = network.activation(name, tf.constant(wide)).numpy()
        np.testing.assert_allclose(got, reference_network.activation(name, wide), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="activation: got 'tanh'"):
        network.activation("tanh", tf.constant(wide))


@pytest.mark.parametrize("offset", [(0.0, 0.0), (2.0, -3.0), (0.25, 1.75), (40.0, 0.0)])
def test_translation_agrees_with_the_reference(offset):
    generator = np.random.default_rng(0)
    image = generator.normal(size=(7, 9)) + 1j * generator.normal(size=(7, 9))
    got = physics.translate(tf.constant(image), tf.constant(offset, tf.float64)).numpy()
    np.testing.assert_allclose(got, reference_physics.translate(image, np.array(offset)), atol=1e-14)


def test_a_prediction_does_not_depend_on_its_batch(backend):
    case = Case(groups=3, gridsize=2, offsets="uncentred")
    model = case.config.model
    together = backend.forward(model, case.weights, case.batch, execution=SINGLE)
    for i in range(3):
        one = dataclasses.replace(
            case.batch,
            diffraction_amplitude=case.batch.diffraction_amplitude[i : i + 1],
            relative_offsets_px=case.batch.relative_offsets_px[i : i + 1],
            object_patches=None,
            object_at_centre=None,
        )
        alone = backend.forward(model, case.weights, one, execution=SINGLE)
        assert_agrees("object", alone.object[0], together.object[i], "outputs, float32")
        assert_agrees("amplitude", alone.amplitude[0], together.amplitude[i], "outputs, float32")


def test_adam_follows_its_definition(backend):
    """Two steps against Algorithm 1 of Kingma and Ba, written out in NumPy."""
    case = Case(probe_trainable=True)
    batches = case.batches()
    chosen = [next(batches), next(batches)]
    got = backend.train_step(case.config, case.weights, chosen, execution=DOUBLE)
    want = replayed_steps(backend, case.config, case.weights, chosen, DOUBLE)
    for name, value in want.items():
        moved, expected = got[name] - case.weights[name], value - case.weights[name]
        assert_agrees(name, moved, expected, "one step, float64")


@pytest.mark.parametrize(("probe", "scale"), [(False, True), (True, False)])
def test_only_what_is_trainable_moves(backend, probe, scale):
    case = Case(probe_trainable=probe, intensity_scale_trainable=scale)
    after = backend.train_step(case.config, case.weights, [case.batch], execution=DOUBLE)
    assert np.array_equal(after["probe"], case.weights["probe"]) != probe
    assert np.array_equal(after["log_scale"], case.weights["log_scale"]) != scale


def test_weights_survive_the_way_through_tensors_bit_for_bit():
    weights = {**Case(gridsize=2).weights, "probe": np.array([[-0.0 + 1j, complex(1, -0.0)]], np.complex64)}
    back = weights_from_tensors(tensors_from_weights(weights, tf.float32))
    assert list(back) == list(weights)
    for name, value in weights.items():
        assert back[name].dtype == value.dtype
        assert back[name].tobytes() == value.tobytes()


def test_bfloat16_is_confined_to_the_network(backend):
    case = Case()
    model = case.config.model
    want = backend.forward(model, case.weights, case.batch, execution=SINGLE)
    mixed = ExecutionConfig(precision="bf16-mixed", accelerator="cpu")
    got = backend.forward(model, case.weights, case.batch, execution=mixed)
    assert got.object.dtype == np.complex64
    error = np.linalg.norm(got.object - want.object) / np.linalg.norm(want.object)
    assert 1e-5 < error < 3e-2
    gradients = backend.gradients(case.config, case.weights, case.batch, execution=mixed)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "16-mixed"}, "use 'bf16-mixed' or '32-true'"),
        ({"allow_tf32": True}, "use allow_tf32=False or the torch backend"),
        ({"devices": 1000}, "devices: got 1000, but TensorFlow has "),
        ({"strategy": "ddp"}, "strategy: got 'ddp', want one of 'auto', 'mirrored'"),
        ({"accelerator": "mps"}, "accelerator: got 'mps'"),
    ],
)
def test_impossible_settings_are_refused(backend, changes, message):
    case = Case()
    execution = ExecutionConfig(**changes)
    with pytest.raises(ConfigError, match=message):
        backend.forward(case.config.model, case.weights, case.batch, execution=execution)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_a_gate_that_is_all_but_open_has_an_exact_gradient(dtype):
    """Adam makes a step of any gradient, however small; y (1 - y) has lost all its digits here."""
    x = tf.constant([-30.0, 0.0, 15.0, 30.0, 80.0], dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        opened = network.activation("sigmoid", x)
    exact = 1 / (np.exp(x.numpy()) + 2 + np.exp(-x.numpy()))
    slope = tape.gradient(opened, x).numpy()
    np.testing.assert_allclose(slope, exact, rtol=50 * np.finfo(slope.dtype).eps)
