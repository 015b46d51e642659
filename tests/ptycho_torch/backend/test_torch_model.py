"""The torch mirror against the float64 reference; the parity suite does the same at length."""

import itertools

import numpy as np
import pytest
import torch

from ptycho_backends.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_backends.protocol import Backend
from ptycho_backends.reference import model as reference
from ptycho_backends.reference.initial_weights import initial_weights, weight_shapes
from ptycho_backends.testing.agreement import step_deviation
from ptycho_backends.testing.cases import Case
from ptycho_backends.values import Batch
from ptycho_torch.backend import model, network
from ptycho_torch.backend.arrays import tensors_from_weights, weights_from_tensors
from ptycho_torch.backend.backend import TorchBackend
from ptycho_torch.backend.inference import DEFAULT_BATCH, gpu_batch

DOUBLE = ExecutionConfig(precision="64-true", accelerator="cpu")
SINGLE = ExecutionConfig(accelerator="cpu")

CONFIGS = {
    "defaults": {},
    "group of 4": {"gridsize": 2, "amp_activation": "swish"},
    "group of 9, no border branch": {"gridsize": 3, "probe_big": False, "amp_activation": "softplus"},
    "one patch a group": {"gridsize": 2, "object_big": False, "amp_activation": "relu"},
    "unpadded": {"pad_object": False, "probe_mask": True},
    "smoothed, wide": {"gridsize": 2, "gaussian_smoothing_sigma": 0.7, "n_filters_scale": 2},
    "N 128": {"N": 128, "gridsize": 2},
    "N 256": {"N": 256},
}


def case(seed=0, groups=2, **changes):
    """A configuration, weights that use every parameter, and a batch with off-centre offsets."""
    config = ModelConfig(**{"n_filters_scale": 1, **changes})
    generator = np.random.default_rng(seed)
    N, C = config.N, config.group_size

    def noise(*shape):
        return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(np.complex64)

    weights = initial_weights(config, seed, probe=noise(N, N), intensity_scale=20.0)
    for name in weights:
        if name.endswith("bias"):
            weights[name] = generator.normal(0, 0.1, weights[name].shape).astype(np.float32)
    batch = Batch(
        diffraction_amplitude=generator.gamma(0.5, 1.0, (groups, N, N, C)).astype(np.float32),
        relative_offsets_px=generator.uniform(-4, 4, (groups, 1, 2, C)).astype(np.float32),
        intensity_scale=19.0,
        object_patches=noise(groups, N, N, C),
        object_at_centre=noise(groups, N, N, 1),
    )
    return config, weights, batch


def deviation(got, want):
    return np.linalg.norm((np.asarray(got) - want).ravel()) / np.linalg.norm(np.asarray(want).ravel())


@pytest.fixture(scope="module")
def backend():
    return TorchBackend()


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_agree_with_the_reference(backend, name):
    config, weights, batch = case(**CONFIGS[name])
    want = reference.predict(config, weights, batch)
    for execution, allowed in ((DOUBLE, 1e-11), (SINGLE, 2e-5)):
        got = backend.forward(config, weights, batch, execution=execution)
        for output in ("object", "amplitude", "intensity"):
            assert getattr(got, output).shape == getattr(want, output).shape
            assert deviation(getattr(got, output), getattr(want, output)) < allowed, output


LOSSES = {
    "poisson": {},
    "mae": {"nll_weight": 0.0, "mae_weight": 1.0},
    "mixture": {
        "mae_weight": 0.5,
        "realspace_weight": 1.0,
        "realspace_mae_weight": 3.0,
        "tv_weight": 0.1,
    },
}


@pytest.mark.parametrize("object_big", [True, False])
@pytest.mark.parametrize("name", [*LOSSES, "supervised"])
def test_losses_agree_with_the_reference(backend, name, object_big):
    supervised = name == "supervised"
    model, weights, batch = case(
        gridsize=2, object_big=object_big, model_type="supervised" if supervised else "pinn"
    )
    config = TrainingConfig(model=model, **LOSSES.get(name, {}))
    want = reference.loss(config, weights, batch)
    got = backend.loss(config, weights, batch, execution=DOUBLE)
    assert got.keys() == want.keys()
    for term, value in want.items():
        assert got[term] == pytest.approx(value, rel=1e-11), term


@pytest.mark.parametrize("name", [*LOSSES, "supervised"])
def test_gradients_are_the_slopes_of_the_reference(backend, name):
    """Central differences of the float64 reference along a random direction in all weights at once."""
    model, weights, batch = case(
        seed=5, gridsize=2, model_type="supervised" if name == "supervised" else "pinn"
    )
    config = TrainingConfig(model=model, **LOSSES.get(name, {}))
    gradients = backend.gradients(config, weights, batch, execution=DOUBLE)
    assert list(gradients) == list(weight_shapes(model))
    generator = np.random.default_rng(1)
    direction = {}
    for key, gradient in gradients.items():
        step = generator.normal(size=gradient.shape)
        if np.iscomplexobj(gradient):
            step = step + 1j * generator.normal(size=gradient.shape)
        direction[key] = step
    slope = sum(np.vdot(direction[key], gradients[key]).real for key in gradients)

    def along(t):
        moved = {key: np.asarray(weights[key]) + t * direction[key] for key in weights}
        return reference.loss(config, moved, batch)["total"]

    h = 1e-7
    assert (along(h) - along(-h)) / (2 * h) == pytest.approx(slope, rel=2e-5)


def test_loss_and_gradient_are_finite_where_nothing_was_measured(backend):
    model, weights, batch = case()
    dark = Batch(np.zeros_like(batch.diffraction_amplitude), batch.relative_offsets_px, 19.0)
    weights = {**weights, "probe": np.zeros_like(weights["probe"])}
    for losses in ({}, {"nll_weight": 0.0, "mae_weight": 1.0}):
        config = TrainingConfig(model=model, **losses)
        for batch_ in (dark, batch):
            assert np.isfinite(backend.loss(config, weights, batch_, execution=SINGLE)["total"])
            gradients = backend.gradients(config, weights, batch_, execution=SINGLE)
            assert all(np.isfinite(gradient).all() for gradient in gradients.values())


def test_a_prediction_does_not_depend_on_its_batch(backend):
    config, weights, batch = case(groups=5, gridsize=2)
    together = backend.forward(config, weights, batch, execution=SINGLE)
    for i in range(5):
        one = Batch(
            batch.diffraction_amplitude[i : i + 1],
            batch.relative_offsets_px[i : i + 1],
            batch.intensity_scale,
        )
        alone = backend.forward(config, weights, one, execution=SINGLE)
        assert deviation(alone.object[0], together.object[i]) < 1e-5
        assert deviation(alone.amplitude[0], together.amplitude[i]) < 1e-5


def test_adam_follows_its_definition(backend):
    """Two steps against Algorithm 1 of Kingma and Ba, written out in NumPy."""
    model, weights, batch = case()
    config = TrainingConfig(model=model, probe_trainable=True)
    other = case(seed=9)[2]
    got = backend.train_step(config, weights, [batch, other], execution=DOUBLE)

    def parts(value):
        return np.stack([value.real, value.imag]) if np.iscomplexobj(value) else np.asarray(value, float)

    current = reference.in_double(weights)
    m = dict.fromkeys(current, 0.0)
    v = dict(m)
    for t, step_batch in enumerate([batch, other], start=1):
        gradients = backend.gradients(config, current, step_batch, execution=DOUBLE)
        for key, gradient in gradients.items():
            g = parts(gradient)
            m[key] = 0.9 * m[key] + 0.1 * g
            v[key] = 0.999 * v[key] + 0.001 * g**2
            move = 1e-3 * (m[key] / (1 - 0.9**t)) / (np.sqrt(v[key] / (1 - 0.999**t)) + 1e-7)
            current[key] = current[key] - (move[0] + 1j * move[1] if np.iscomplexobj(gradient) else move)
    for key, value in current.items():
        assert deviation(got[key] - weights[key], value - weights[key]) < 1e-7, key


@pytest.mark.parametrize(("probe", "scale"), [(False, True), (True, False)])
def test_only_what_is_trainable_moves(backend, probe, scale):
    model, weights, batch = case()
    config = TrainingConfig(model=model, probe_trainable=probe, intensity_scale_trainable=scale)
    after = backend.train_step(config, weights, [batch], execution=DOUBLE)
    assert np.array_equal(after["probe"], weights["probe"]) != probe
    assert np.array_equal(after["log_scale"], weights["log_scale"]) != scale


def test_weights_survive_the_way_through_tensors_bit_for_bit():
    _, weights, _ = case(gridsize=2)
    back = weights_from_tensors(tensors_from_weights(weights, torch.float32))
    assert list(back) == list(weights)
    for name, value in weights.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gate_that_is_all_but_open_has_an_exact_gradient(dtype):
    """Adam makes a step of any gradient, however small; y (1 - y) has lost all its digits here."""
    x = torch.tensor([-30.0, 0.0, 15.0, 30.0, 80.0], dtype=dtype, requires_grad=True)
    network.activation("sigmoid", x).sum().backward()
    exact = 1 / (np.exp(x.detach().numpy()) + 2 + np.exp(-x.detach().numpy()))
    np.testing.assert_allclose(x.grad.numpy(), exact, rtol=50 * torch.finfo(dtype).eps)


def test_a_compiled_network_trains_alike(backend, monkeypatch):
    """Through everything that compiling does but generating code, which takes minutes."""
    monkeypatch.setattr(model, "COMPILER", "aot_eager")
    generated = Case(groups=3, architecture="attention", cbam_encoder=True, eca_decoder=True, batch_norm=True)
    batches = list(itertools.islice(generated.batches(), 2))
    steps = [
        backend.train_step(
            generated.config,
            generated.weights,
            batches,
            execution=ExecutionConfig(precision="64-true", compile_network=compiled),
        )
        for compiled in (False, True)
    ]
    error, where = step_deviation(steps[1], steps[0], generated.weights)
    assert error < 1e-9, where


def test_a_gpu_predicts_as_many_pixels_at_once_whatever_a_group_has():
    assert gpu_batch(ModelConfig(N=64)) == 4 * gpu_batch(ModelConfig(N=64, gridsize=2)) == 256
    assert gpu_batch(ModelConfig(N=128)) == 64
    assert gpu_batch(ModelConfig(N=256, gridsize=2)) == DEFAULT_BATCH
