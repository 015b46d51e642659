"""The layers of a model are modules in a tree, with the names of its weights."""

import numpy as np
import pytest
import tensorflow as tf

from ptycho_backends.reference.initial_weights import is_running_value
from ptycho_backends.tensorflow.model import PtychoModel
from ptycho_backends.testing.cases import Case

ATTENTION = Case(groups=2, architecture="attention", batch_norm=True, cbam_encoder=True, eca_decoder=True)
UNROLLED = Case(architecture="unrolled", N=16, n_steps=2)


@pytest.mark.parametrize("case", [Case(groups=2), ATTENTION, UNROLLED], ids=["cnn", "attention", "unrolled"])
def test_every_layer_is_a_module(case):
    model = PtychoModel(case.config.model, case.weights)
    layers = {name.rpartition("/")[0] for name in case.weights}
    prefixes = {"/".join(layer.split("/")[:end]) for layer in layers for end in range(1, 9) if layer}
    assert {model.layer(name) for name in prefixes} == set(model.submodules)
    for name in prefixes:
        assert isinstance(model.layer(name), tf.Module)
        assert model.layer(name).name == name.rpartition("/")[2]
        inside = {variable.name.partition(":")[0] for variable in model.layer(name).variables}
        assert inside == {weight for weight in case.weights if weight.startswith(f"{name}/")}
    assert len(model.variables) == len(case.weights)
    trained = {variable.name.partition(":")[0] for variable in model.trainable_variables}
    assert trained == {name for name in case.weights if not is_running_value(name)}
    with pytest.raises(AttributeError):
        model.layer("encoder/block99")


def test_variables_of_layers_are_those_of_the_model():
    case = ATTENTION
    model = PtychoModel(case.config.model, case.weights)
    assert list(model.tensors) == list(case.weights)
    model.layer("encoder/block0/conv0").kernel.assign_add(
        tf.ones_like(model.tensors["encoder/block0/conv0/kernel"])
    )
    name = "encoder/block0/conv0/kernel"
    np.testing.assert_array_equal(model.weights()[name], case.weights[name] + 1)
