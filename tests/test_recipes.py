"""Recipes: what the command line and the verbs train by default."""

import dataclasses

import pytest

from ptycho_backends.config import ARCHITECTURES, ExecutionConfig, TrainingConfig
from ptycho_backends.errors import ConfigError
from ptycho_backends.recipes import execution_recipe, synthetic_recipe, training_recipe


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_recipe_is_valid_and_left_to_the_data(architecture):
    config = training_recipe(architecture)
    assert config.model.architecture == architecture
    assert (config.model.N, config.nphotons, config.n_groups) == (0, None, None)
    assert execution_recipe(architecture).problems() == []


def test_old_architectures_train_as_they_did():
    for architecture in ("cnn", "attention"):
        plain = TrainingConfig()
        plain.model = dataclasses.replace(plain.model, architecture=architecture, N=0)
        assert training_recipe(architecture) == plain
        assert execution_recipe(architecture) == ExecutionConfig()


def test_unknown_architectures_are_named():
    with pytest.raises(ConfigError, match="architecture: got 'mlp'"):
        training_recipe("mlp")


def test_synthetic_scans_have_labels():
    assert synthetic_recipe().model.model_type == "supervised"
