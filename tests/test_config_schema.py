"""The JSON schemas of files of settings agree with the rules."""

import dataclasses
import json

import pytest
import yaml

from ptycho_backends.config import ExecutionConfig, InferenceConfig, RefinementConfig, TrainingConfig
from ptycho_backends.config_file import SECTIONS, save_config
from ptycho_backends.config_schema import json_schema
from ptycho_backends.config_sections import sections_text
from ptycho_backends.errors import ConfigError
from ptycho_backends.recipes import training_recipe


def test_every_field_of_every_section_has_a_meaning_and_a_kind():
    schema = json.loads(json.dumps(json_schema()))
    assert set(schema["properties"]) == set(SECTIONS)
    for name, cls in SECTIONS.items():
        fields = schema["properties"][name]["properties"]
        assert set(fields) == {field.name for field in dataclasses.fields(cls)} - {"model", "n_images"}
        for field, described in fields.items():
            assert described["description"], field
            assert described.keys() & {"type", "enum", "anyOf"}, field
    training = schema["properties"]["training"]["properties"]
    assert (training["nll_weight"]["minimum"], training["nll_weight"]["maximum"]) == (0, 1)
    assert training["nll_weight"]["default"] == 1.0
    assert schema["properties"]["execution"]["properties"]["precision"]["enum"][0] == "32-true"


def test_a_schema_of_one_configuration_holds_the_model():
    assert "N" in json_schema("training")["properties"]["model"]["properties"]
    with pytest.raises(ConfigError, match="section: got 'train', want one of model, training"):
        json_schema("train")


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema", reason="in the dependency group test")

    def make(section=None):
        schema = json_schema(section)
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator(schema)

    return make


def test_files_that_are_written_are_valid(validator, tmp_path):
    execution = ExecutionConfig(finetune_stages=({"epochs": 3, "rates": {"decoder": 0.5}},))
    configs = {
        "training": training_recipe(), "inference": InferenceConfig(), "refinement": RefinementConfig(),
        "execution": execution,
    }  # fmt: skip
    validator().validate(yaml.safe_load(sections_text(configs)))
    for section, config in configs.items():
        path = save_config(config, tmp_path / "one.yaml")
        validator(section).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "field",
    [field for field in dataclasses.fields(TrainingConfig) + dataclasses.fields(ExecutionConfig)
     if "rule" in field.metadata and field.name not in ("n_images", "backend")],
    ids=lambda field: field.name,
)  # fmt: skip
def test_the_schema_refuses_and_accepts_as_the_rule_does(validator, field):
    section = "training" if field in dataclasses.fields(TrainingConfig) else "execution"
    rule, check = field.metadata["rule"], validator(section)
    for value in (None, True, "", "auto", "cuda:1", "cuda:x", "mlflow", -1, 0, 1, 2, 0.5, 1.0, 1.5, [], {}):
        accepted = rule.accepts(rule.convert(value))
        valid = check.is_valid({field.name: value})
        # powers of two and text of paths are for the reader to check; JSON has one kind of whole number
        if valid and not accepted:
            assert isinstance(value, float) or field.name in ("batch_size", "strategy"), (value, rule.text)
        assert valid or not accepted, (value, rule.text)
