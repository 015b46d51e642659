"""One file of sections, and single assignments."""

import re

import pytest
import yaml

from ptycho_backends.config import ExecutionConfig, FinetuneStage, RefinementConfig, TrainingConfig
from ptycho_backends.config_file import SECTIONS, load_config
from ptycho_backends.config_sections import sections_text, settings_of
from ptycho_backends.errors import ConfigError
from ptycho_backends.recipes import execution_recipe, training_recipe


def assigned(*texts, sections=tuple(SECTIONS)):
    return settings_of(None, texts, sections).assigned


def test_values_are_typed_by_their_field():
    given = assigned(
        "training.nll_weight=0.5", "training.nphotons=1e5", "training.n_groups=1e2", "training.output_dir=12",
        "training.probe_trainable=yes", "training.n_subsample=None", "model.architecture = cnn",
        "execution.finetune_stages=[{epochs: 7, rates: {decoder: 0.1}}]",
    )  # fmt: skip
    assert given["training"] == {
        "nll_weight": 0.5, "nphotons": 1e5, "n_groups": 100, "output_dir": "12", "probe_trainable": True,
        "n_subsample": None,
    }  # fmt: skip
    assert type(given["training"]["n_groups"]) is int
    assert given["model"] == {"architecture": "cnn"}
    assert given["execution"]["finetune_stages"] == [{"epochs": 7, "rates": {"decoder": 0.1}}]
    # the last of several wins
    assert assigned("training.seed=1", "training.seed=2") == {"training": {"seed": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.nl_weight=1", "training.nl_weight: unknown; did you mean training.nll_weight"),
        ("nll_weight=1", "did you mean training.nll_weight?"),
        ("train.nepochs=3", "did you mean training.nepochs?"),
        # in another section
        ("training.learning_rate=1", "did you mean execution.learning_rate?"),
        ("training.model=1", "unknown"),
        ("training.nepochs", "want SECTION.FIELD=VALUE"),
        ("training.nepochs=[", "set: training.nepochs: line 1"),
        ("inference.debug=1", "means nothing here; want a setting of training, execution"),
    ],
)
def test_what_is_misspelt_gets_the_nearest_names(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        assigned(text, sections=("training", "execution"))


def test_a_file_of_sections_is_read_by_section(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(
        "model: {architecture: unrolled, n_steps: 4, N: 48}\ntraining: {nepochs: 1e1}\n"
        "refinement: null\nexecution: {learning_rate: 0.01}\n"
    )
    settings = settings_of(path, (), ())
    assert settings.of_file("training") == {"nepochs": 10}
    assert settings.file["refinement"] is None
    assert settings.of_file("inference") == {}
    config = load_config(path)
    assert (config.nepochs, config.model.n_steps, config.batch_size) == (10, 4, TrainingConfig().batch_size)
    assert load_config(path, ExecutionConfig).learning_rate == 0.01
    assert load_config(path, RefinementConfig) == RefinementConfig()


def test_a_file_of_one_configuration_waits_for_its_reader(tmp_path):
    path = tmp_path / "flat.yaml"
    path.write_text("nepochs: 3\nmodel: {N: 64}\n")
    settings = settings_of(path, (), ())
    assert (settings.flat_file, dict(settings.file)) == (path, {})


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    path = tmp_path / "all.yaml"
    path.write_text(
        "training: {nephochs: 3, batch_size: 3, model: {N: 64}}\nexecution: 4\nnepochs: 3\nmodel: {n_steps: 0}\n"
    )
    with pytest.raises(ConfigError) as raised:
        settings_of(path, (), ())
    text = str(raised.value)
    for problem in (
        "training.model: the model is a section of its own",
        "execution: got 4, want a mapping",
        "nepochs: no section; did you mean training.nepochs",
        "model.n_steps: got 0",
    ):
        assert problem in text
    path.write_text("training: {nephochs: 3, batch_size: 3}\n")
    with pytest.raises(
        ConfigError, match=r"nephochs: unknown; did you mean training.nepochs.*batch_size: got 3"
    ):
        settings_of(path, (), ())


def test_what_is_printed_is_read_back_equal(tmp_path):
    training, execution = training_recipe(), execution_recipe()
    execution.finetune_stages = (FinetuneStage(3, {"decoder": 0.5}),)
    text = sections_text({"execution": execution, "training": training, "refinement": None})
    path = tmp_path / "all.yaml"
    path.write_text(text)
    assert list(yaml.safe_load(text)) == ["model", "training", "refinement", "execution"]
    assert load_config(path) == training
    assert load_config(path, ExecutionConfig) == execution
    assert "nll_weight: 1.0  # weight of the Poisson negative log-likelihood" in text
