"""Archives written for PtychoPINN, as Keras itself sees them.

PtychoPINN's own layers are replaced by stand-ins that this file registers under the same names.
"""

import zipfile

import numpy as np
import pytest

from ptycho_backends.archive.genuine_archive import layer_numbers
from ptycho_backends.archive.genuine_export import write_genuine_archive
from ptycho_backends.archive.genuine_graph import ordered_nodes
from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.reference import network
from ptycho_backends.reference.initial_weights import initial_weights
from ptycho_backends.values import TrainedModel

keras = pytest.importorskip("keras", reason="Keras is not installed")
tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

CONFIGS = {
    "golden 1": ModelConfig(n_filters_scale=1),
    "golden 2": ModelConfig(n_filters_scale=1, gridsize=2, amp_activation="swish", probe_big=False),
    "group with border": ModelConfig(n_filters_scale=1, gridsize=2),
    "not padded": ModelConfig(n_filters_scale=1, pad_object=False, amp_activation="relu"),
    "one patch": ModelConfig(n_filters_scale=1, gridsize=2, object_big=False, amp_activation="softplus"),
    "N=128": ModelConfig(N=128, n_filters_scale=1),
    "N=256": ModelConfig(N=256, n_filters_scale=1, probe_big=False),
}
SCALE = 7.5


class StandIn(keras.layers.Layer):
    """Accepts any setting; passes its first input on with the shape that the original gives it."""

    def __init__(self, **settings):
        known = {key: settings.pop(key) for key in ("name", "trainable", "dtype") if key in settings}
        super().__init__(**known)
        self.settings = settings

    def call(self, inputs):
        first = inputs[0] if isinstance(inputs, list | tuple) else inputs
        return self.forward(first, inputs)

    def forward(self, first, inputs):
        return first


class Divided(StandIn):
    def forward(self, first, inputs):
        return first / SCALE


class Activation(StandIn):
    def forward(self, first, inputs):
        function = getattr(keras.activations, self.settings["activation_name"])
        return self.settings["scale"] * function(first)


class Polar(StandIn):
    def forward(self, first, inputs):
        amplitude, phase = inputs
        return tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, dtype="complex64")


class BorderMask(StandIn):
    def forward(self, first, inputs):
        side, margin = self.settings["N"], self.settings["N"] // 4
        mask = np.ones((side, side, 1), np.float32)
        mask[margin:-margin, margin:-margin] = 0
        return first * 0 + mask


class Resized(StandIn):
    def compute_output_spec(self, inputs):
        first = inputs[0] if isinstance(inputs, list | tuple) else inputs
        side = next(
            (self.settings[key] for key in ("padded_size", "output_size", "N") if key in self.settings), 74
        )
        return keras.KerasTensor((None, side, side, first.shape[-1]), dtype="complex64")


class TwoOutputs(StandIn):
    def compute_output_spec(self, inputs):
        tensor = keras.KerasTensor(inputs[0].shape, dtype="float32")
        return tensor, tensor


STAND_INS = {
    "ptycho>IntensityScaler": Divided,
    "ptycho>ActivationLayer": Activation,
    "ptycho>CombineComplexLayer": Polar,
    "CenterMaskLayer": BorderMask,
    "ptycho>ReassemblePatchesLayer": Resized,
    "ptycho>PadReconstructionLayer": Resized,
    "ptycho>TrimReconstructionLayer": Resized,
    "ptycho>ExtractPatchesPositionLayer": Resized,
    "ptycho>PadAndDiffractLayer": TwoOutputs,
    "ptycho>ProbeIllumination": StandIn,
    "ptycho>FlatToChannelLayer": StandIn,
    "ptycho>IntensityScaler_inv": StandIn,
    "ptycho>SquareLayer": StandIn,
}


def loaded(archive_path, tmp_path, name):
    with zipfile.ZipFile(archive_path) as archive:
        file = tmp_path / f"{name}.keras"
        file.write_bytes(archive.read(f"{name}/model.keras"))
    return keras.models.load_model(file, custom_objects=STAND_INS, compile=False)


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def exported(request, tmp_path):
    config = request.param
    probe = np.full((config.N, config.N), 0.1 + 0.2j)
    weights = initial_weights(config, seed=5, probe=probe, intensity_scale=SCALE)
    model = TrainedModel(TrainingConfig(model=config), weights, SCALE, backend="torch")
    return model, write_genuine_archive(model, tmp_path / "wts.h5.zip")


@pytest.mark.parametrize("name", ["autoencoder", "diffraction_to_obj"])
def test_keras_orders_layers_as_predicted_and_weights_arrive(exported, tmp_path, name):
    model, path = exported
    config = model.config.model
    found = loaded(path, tmp_path, name)
    assert [op.name for op in found.operations] == [node.name for node in ordered_nodes(config, name)]
    for layer, number in layer_numbers(config).items():
        kernel, bias = found.get_layer(f"conv2d_{number}" if number else "conv2d").get_weights()
        np.testing.assert_array_equal(kernel, model.weights[f"{layer}/kernel"])
        np.testing.assert_array_equal(bias, model.weights[f"{layer}/bias"])


def test_keras_predicts_the_same_patches(exported, tmp_path):
    model, path = exported
    config = model.config.model
    found = loaded(path, tmp_path, "diffraction_to_obj")
    patches = keras.Model(found.inputs[0], found.get_layer("obj").output)
    shape = (1, config.N, config.N, config.group_size)
    fed = SCALE * np.random.default_rng(0).random(shape).astype(np.float32)
    got = np.asarray(patches(fed))
    want = network.object_patches(fed.astype(np.float64), model.weights, config)
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["gs1", "gs2alt"])
def test_weights_arrive_in_the_order_of_the_genuine_file(shared, tmp_path, case):
    from ptycho_backends.archive.model_file import load_archive

    genuine_path = shared / "golden" / f"ptychopinn_{case}.wts.h5.zip"
    ours_path = write_genuine_archive(load_archive(genuine_path), tmp_path / "wts.h5.zip")
    (tmp_path / "genuine").mkdir()
    for name in ("autoencoder", "diffraction_to_obj"):
        genuine, ours = loaded(genuine_path, tmp_path / "genuine", name), loaded(ours_path, tmp_path, name)
        assert [layer.name for layer in ours.layers] == [layer.name for layer in genuine.layers]
        for got, want in zip(ours.get_weights(), genuine.get_weights(), strict=True):
            np.testing.assert_array_equal(got, want)
