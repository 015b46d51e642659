"""The network `attention` in the reference: the meaning of its stages, its names, its settings, its archives."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from scipy.signal import correlate2d

from ptycho_backends.archive.genuine_export import write_genuine_archive
from ptycho_backends.archive.model_file import inspect_archive, load_archive, save_archive
from ptycho_backends.config import (
    AMPLITUDE_ACTIVATIONS,
    ATTENTION_FIELDS,
    ModelConfig,
    TrainingConfig,
    with_side,
)
from ptycho_backends.errors import ArchiveError, ConfigError
from ptycho_backends.reference import model as reference
from ptycho_backends.reference import network
from ptycho_backends.reference.initial_weights import (
    border_channels,
    cbam_width,
    eca_side,
    initial_weights,
    is_running_value,
    layer_channels,
    weight_shapes,
)
from ptycho_backends.testing.cases import Case
from ptycho_backends.values import TrainedModel

DRAW = np.random.default_rng(0)


def attention(**fields):
    return ModelConfig(architecture="attention", n_filters_scale=1, **fields)


def weights_of(config, seed=0):
    return initial_weights(config, seed, probe=np.ones((config.N, config.N)), intensity_scale=20.0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- stages


def test_channel_attention_as_the_paper_says_it():
    image = DRAW.normal(size=(2, 4, 6, 8))
    shapes = {"c/mlp0/kernel": (8, 3), "c/mlp0/bias": (3,), "c/mlp1/kernel": (3, 8), "c/mlp1/bias": (8,)}
    weights = {name: DRAW.normal(size=shape) for name, shape in shapes.items()}

    def perceptron(vector):
        hidden = np.maximum(vector @ weights["c/mlp0/kernel"] + weights["c/mlp0/bias"], 0)
        return hidden @ weights["c/mlp1/kernel"] + weights["c/mlp1/bias"]

    got = network.channel_attention(image, weights, "c")
    for b in range(2):
        pixels = image[b].reshape(-1, 8)
        gate = sigmoid(perceptron(pixels.mean(axis=0)) + perceptron(pixels.max(axis=0)))
        np.testing.assert_allclose(got[b], image[b] * gate, atol=1e-13)


@pytest.mark.parametrize("side", [1, 3, 7])
def test_spatial_attention_is_a_correlation_of_mean_and_maximum(side):
    image = DRAW.normal(size=(2, 9, 8, 5))
    weights = {"s/kernel": DRAW.normal(size=(side, side, 2, 1)), "s/bias": DRAW.normal(size=1)}
    got = network.spatial_attention(image, weights, "s")
    for b in range(2):
        pooled = (image[b].mean(axis=-1), image[b].max(axis=-1))
        said = weights["s/bias"] + sum(
            correlate2d(pooled[i], weights["s/kernel"][:, :, i, 0], mode="same") for i in range(2)
        )
        np.testing.assert_allclose(got[b], image[b] * sigmoid(said)[..., None], atol=1e-13)


def test_eca_is_a_correlation_over_channels():
    image, kernel = DRAW.normal(size=(2, 4, 6, 8)), DRAW.normal(size=3)
    got = network.efficient_channel_attention(image, {"e/kernel": kernel}, "e")
    for b in range(2):
        said = np.correlate(image[b].mean(axis=(0, 1)), kernel, mode="same")
        np.testing.assert_allclose(got[b], image[b] * sigmoid(said), atol=1e-13)


def test_widths_are_those_of_the_papers():
    assert [eca_side(channels) for channels in (8, 16, 32, 64, 128, 256, 512)] == [3, 3, 3, 3, 5, 5, 5]
    for channels in range(1, 2000):
        whole = int((np.log2(channels) + 1) / 2)
        assert eca_side(channels) == (whole if whole % 2 else whole + 1)
    assert [cbam_width(channels) for channels in (8, 64, 128, 512)] == [4, 4, 8, 32]


def test_batch_norm_brings_each_channel_to_beta_and_gamma():
    image = 3 + 5 * DRAW.normal(size=(4, 8, 8, 3))
    norm = {"n/gamma": np.array([1.0, 2, 3]), "n/beta": np.array([0.0, 1, -1])}
    norm |= {"n/mean": np.array([3.0, 3, 3]), "n/variance": np.array([25.0, 25, 25])}
    statistics = {}
    got = network.batch_norm(image, norm, "n", statistics)
    np.testing.assert_allclose(got.mean(axis=(0, 1, 2)), norm["n/beta"], atol=1e-12)
    np.testing.assert_allclose(got.std(axis=(0, 1, 2)), norm["n/gamma"], rtol=1e-6)
    np.testing.assert_allclose(statistics["n/variance"], image.reshape(-1, 3).var(axis=0))
    alone = network.batch_norm(image[:1], norm, "n")
    np.testing.assert_array_equal(alone, network.batch_norm(image, norm, "n")[:1])
    moved = network.moved_running_values(norm, statistics)
    np.testing.assert_allclose(moved["n/mean"], 0.9 * norm["n/mean"] + 0.1 * statistics["n/mean"])
    assert set(moved) == {"n/mean", "n/variance"}


# --- the network


def test_without_additions_it_is_the_cnn():
    case = Case(gridsize=2, seed=3)
    bare = dataclasses.replace(case.config.model, architecture="attention")
    assert weight_shapes(bare) == weight_shapes(case.config.model)
    for name, value in weights_of(bare, 5).items():
        np.testing.assert_array_equal(value, weights_of(case.config.model, 5)[name])
    want = reference.predict(case.config.model, case.weights, case.batch)
    np.testing.assert_array_equal(reference.predict(bare, case.weights, case.batch).object, want.object)


def test_each_addition_brings_its_weights_and_changes_what_is_predicted():
    batch = Case(seed=1).batch
    plain = weight_shapes(attention())
    before = reference.predict(attention(), weights_of(attention()), batch).object
    for field, places in {
        "cbam_encoder": {f"encoder/block{i}/cbam" for i in range(3)},
        "cbam_bottleneck": {"encoder/bottleneck/cbam"},
        "cbam_decoder": {
            f"{d}/{b}/cbam" for d in ("amplitude", "phase") for b in ("block0", "block1", "border")
        },
        "eca_encoder": {f"encoder/block{i}/eca" for i in range(3)},
        "eca_decoder": {
            f"{d}/{b}/eca" for d in ("amplitude", "phase") for b in ("block0", "block1", "border")
        },
        "spatial_decoder": {
            f"{d}/{b}/spatial" for d in ("amplitude", "phase") for b in ("block0", "block1", "border")
        },
    }.items():
        config = attention(**{field: True})
        added = set(weight_shapes(config)) - set(plain)
        parts = ("/mlp0", "/mlp1", "/spatial")
        roots = {name.rpartition("/")[0] for name in added}
        if field.startswith("cbam"):
            assert roots == {place + part for place in places for part in parts}, field
        else:
            assert roots == places, field
        after = reference.predict(config, weights_of(config), batch).object
        assert np.abs(after - before).max() > 1e-3 * np.abs(before).max(), field


def test_decoders_share_their_blocks_and_not_their_heads():
    layers = layer_channels(attention(use_shared_decoder=True))
    heads = {layer for layer in layers if layer.endswith("_head")}
    assert heads == {f"{d}/{h}_head" for d in ("amplitude", "phase") for h in ("inner", "border")}
    assert not any(layer.startswith(("amplitude/b", "phase/b")) for layer in set(layers) - heads)
    assert layers["decoder/border/conv0"] == (4, 32)


def test_channels_set_aside_for_the_border():
    for fraction, aside in ((0.125, 4), (0.5, 16), (0.001, 1), (0.999, 31)):
        config = attention(decoder_last_c_outer_fraction=fraction)
        assert border_channels(config) == aside
        assert layer_channels(config)["phase/inner_head"] == (32 - aside, 1)
        assert layer_channels(config)["phase/border/conv0"] == (aside, 32)
    assert border_channels(dataclasses.replace(attention(), n_filters_scale=2)) == 8
    assert border_channels(ModelConfig()) == 4


@pytest.mark.parametrize("pad_object", [True, False])
def test_nothing_is_predicted_in_the_rim(pad_object):
    config = attention(edge_pad=5, pad_object=pad_object)
    patches = network.object_patches(DRAW.random((1, 64, 64, 1)), weights_of(config), config)[0, :, :, 0]
    assert not patches[:5].any()
    assert not patches[:, -5:].any()
    assert patches[5, 5:-5].any()
    assert patches[5:-5, -6].any()


def test_predictions_do_not_know_their_batch_but_training_does():
    case = Case(architecture="attention", batch_norm=True, groups=3, seed=4)
    statistics = reference.batch_statistics(case.config.model, case.weights, case.batch)
    assert set(statistics) == {name for name in case.weights if is_running_value(name)}
    judged = reference.loss(case.config, case.weights, case.batch, training=False)["total"]
    assert reference.loss(case.config, case.weights, case.batch)["total"] != judged
    followed = {**case.weights, **statistics}
    assert reference.loss(case.config, followed, case.batch, training=False)["total"] == pytest.approx(
        reference.loss(case.config, case.weights, case.batch)["total"], rel=1e-12
    )


def test_first_weights():
    config = attention(cbam_encoder=True, eca_decoder=True, batch_norm=True)
    weights = weights_of(config, 7)
    assert {name: value.shape for name, value in weights.items()} == weight_shapes(config)
    block = "encoder/block0"
    assert not any(name.startswith(f"{block}/conv0/bias") for name in weights)
    for kind, value in {"gamma": 1, "beta": 0, "mean": 0, "variance": 1}.items():
        assert (weights[f"{block}/conv0/norm/{kind}"] == value).all()
    for name, fans in {
        f"{block}/cbam/mlp0/kernel": 32 + 4,
        f"{block}/cbam/spatial/kernel": 49 * (2 + 1),
        "phase/block0/eca/kernel": 3 * 2,
    }.items():
        limit = np.sqrt(6 / fans)
        assert 0.3 * limit < np.abs(weights[name]).max() <= limit, name


@pytest.mark.parametrize("pad_object", [True, False])
@pytest.mark.parametrize("activation", AMPLITUDE_ACTIVATIONS)
def test_a_new_object_is_bright_and_flat_whatever_the_activation(activation, pad_object):
    """An object near zero has amplitudes of either sign, and trains into a saturated phase."""
    config = attention(gridsize=2, amp_activation=activation, pad_object=pad_object, cbam_encoder=True)
    fed = np.random.default_rng(0).random((2, 64, 64, 4))
    inner = network.object_patches(fed, weights_of(config), config)[:, 16:48, 16:48]
    assert np.abs(np.abs(inner) - 0.5).max() < 0.25
    assert np.abs(np.angle(inner)).max() < 1.0
    cnn = weights_of(dataclasses.replace(config, architecture="cnn", cbam_encoder=False))
    assert not any(value.any() for name, value in cnn.items() if name.endswith("bias"))


# --- settings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field.name, True) for field in dataclasses.fields(ModelConfig) if field.name in ATTENTION_FIELDS
          and field.default is False),
        ("decoder_spatial_kernel", 3), ("edge_pad", 1), ("decoder_last_c_outer_fraction", 0.25),
    ],
)  # fmt: skip
def test_a_cnn_has_none_of_it(field, value):
    with pytest.raises(ConfigError, match=rf"{field}: got {value}.*'cnn'.*architecture='attention'"):
        ModelConfig(**{field: value})
    assert getattr(attention(**{field: value}), field) == value


def test_bad_values_are_refused():
    for changes, told in (
        ({"decoder_spatial_kernel": 4}, "want an odd integer >= 1"),
        ({"decoder_last_c_outer_fraction": 1.0}, r"want a number in \(0, 1\)"),
        ({"decoder_last_c_outer_fraction": 0.0}, r"want a number in \(0, 1\)"),
        ({"edge_pad": -1}, "want an integer >= 0"),
        ({"edge_pad": 16}, "want less than N/4 = 16"),
        ({"batch_norm": 1}, "want True or False"),
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(changes))}: got .*{told}"):
            attention(**changes)
    waiting = attention(N=0, edge_pad=20)
    with pytest.raises(ConfigError, match="edge_pad: got 20, want less than N/4 = 16"):
        with_side(waiting, 64)
    assert with_side(waiting, 128).edge_pad == 20


# --- archives


def model_of(**fields):
    case = Case(architecture="attention", seed=2, **fields)
    return TrainedModel(case.config, case.weights, case.intensity_scale, backend="torch")


def test_archives_keep_every_bit_and_tell_what_is_in_them(tmp_path):
    model = model_of(
        cbam_encoder=True, eca_decoder=True, use_shared_decoder=True, batch_norm=True, edge_pad=2
    )
    path = save_archive(model, tmp_path)
    loaded = load_archive(path)
    assert loaded.config == model.config
    for name, value in model.weights.items():
        assert loaded.weights[name].tobytes() == value.tobytes(), name
    assert "cbam_encoder=True" in str(inspect_archive(path))


def test_archives_of_a_cnn_are_what_they_were(tmp_path):
    """Readers from before this architecture, and files that they wrote, know none of its fields."""
    case = Case(seed=2)
    path = save_archive(TrainedModel(case.config, case.weights, case.intensity_scale), tmp_path)
    with zipfile.ZipFile(path) as archive:
        fields = json.loads(archive.read("config.json"))["training"]["model"]
    assert not set(fields) & set(ATTENTION_FIELDS)
    assert load_archive(path).config == case.config
    assert "cbam" not in str(inspect_archive(path))


def test_a_negative_variance_is_refused(tmp_path):
    model = model_of(batch_norm=True)
    weights = dict(model.weights)
    weights["encoder/block0/conv0/norm/variance"] = -weights["encoder/block0/conv0/norm/variance"]
    with pytest.raises(ArchiveError, match=r"norm/variance: got -.*want numbers >= 0"):
        save_archive(dataclasses.replace(model, weights=weights), tmp_path)


def test_it_is_not_exported_for_a_package_that_lacks_it(tmp_path):
    with pytest.raises(ConfigError, match=r"architecture: got 'attention'.*'cnn' alone"):
        write_genuine_archive(model_of(), tmp_path / "wts.h5.zip")
    assert not list(tmp_path.iterdir())
    assert TrainingConfig().model.own_fields == tuple(
        field.name
        for field in dataclasses.fields(ModelConfig)
        if field.name not in (*ATTENTION_FIELDS, "n_steps", "n_rounds")
    )
