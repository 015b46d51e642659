"""The configuration dataclasses: defaults, spellings, and errors that list every bad field."""

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends import config as configuration
from ptycho_backends.config import (
    ExecutionConfig,
    FinetuneStage,
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    validate,
    with_side,
)
from ptycho_backends.errors import ConfigError, PtychoBackendsError

CLASSES = (ModelConfig, TrainingConfig, InferenceConfig, ExecutionConfig)
FIELDS = [(cls, field) for cls in CLASSES for field in dataclasses.fields(cls) if field.name != "model"]


def field_ids(value: Any) -> str | None:
    return getattr(value, "name", None) or getattr(value, "__name__", None)


@pytest.mark.parametrize("cls", CLASSES, ids=field_ids)
def test_defaults_are_valid_and_every_field_explains_itself(cls: type) -> None:
    validate(cls())
    for field in dataclasses.fields(cls):
        doc = field.metadata["doc"]
        assert doc
        assert "\n" not in doc
        assert doc == doc.strip()


def test_defaults_of_the_specification() -> None:
    model = ModelConfig()
    assert (model.N, model.gridsize, model.n_filters_scale, model.probe_scale) == (64, 1, 2, 4.0)
    assert (model.object_big, model.probe_big, model.probe_mask, model.pad_object) == (
        True,
        True,
        False,
        True,
    )
    training = TrainingConfig()
    assert (training.batch_size, training.nepochs, training.nphotons, training.n_groups) == (
        16,
        50,
        None,
        None,
    )
    assert training.output_dir == Path("training_outputs")
    assert (training.intensity_scale_trainable, training.probe_trainable) == (True, False)
    inference = InferenceConfig()
    assert (inference.n_groups, inference.output_dir) == (None, Path("inference_outputs"))
    execution = ExecutionConfig()
    assert (execution.precision, execution.deterministic, execution.early_stop_patience) == (
        "32-true",
        True,
        100,
    )
    assert PyTorchExecutionConfig is ExecutionConfig


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=field_ids)
def test_every_field_refuses_what_no_field_allows(cls: type, field: dataclasses.Field) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**{field.name: object()})
    assert str(caught.value).startswith(f"{cls.__name__}: {field.name}: got <object")
    assert str(caught.value).endswith(f"want {field.metadata['rule'].text}")


def test_all_bad_fields_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(
            model=_broken_model(),
            batch_size=12,
            nepochs=0,
            mae_weight=1.5,
            nphotons=0,
        )
    text = str(caught.value)
    for part in (
        "model.gridsize: got 3.5, want an integer >= 1",
        "model.probe_mask: got 'yes', want True or False",
        "batch_size: got 12, want a power of two >= 1",
        "nepochs: got 0, want an integer >= 1",
        "mae_weight: got 1.5, want a number in [0, 1]",
        "nphotons: got 0, want a number > 0",
    ):
        assert part in text
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PtychoBackendsError)


def _broken_model() -> ModelConfig:
    model = ModelConfig()
    model.gridsize = 3.5  # type: ignore[assignment]
    model.probe_mask = "yes"  # type: ignore[assignment]
    return model


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (ModelConfig, "N", 100),
        (ModelConfig, "N", False),
        (ModelConfig, "N", 64.0),
        (ModelConfig, "gridsize", True),
        (ModelConfig, "gridsize", 0),
        (ModelConfig, "object_big", 1),
        (ModelConfig, "probe_scale", float("nan")),
        (ModelConfig, "probe_scale", float("inf")),
        (ModelConfig, "probe_scale", 10**400),
        (ModelConfig, "probe_scale", "4"),
        (ModelConfig, "gaussian_smoothing_sigma", -0.1),
        (ModelConfig, "amp_activation", "tanh"),
        (ModelConfig, "amp_activation", np.zeros(3)),
        (TrainingConfig, "model", {"N": 64}),
        (TrainingConfig, "model", ExecutionConfig()),
        (TrainingConfig, "model", None),
        (TrainingConfig, "output_dir", 3),
        (TrainingConfig, "output_dir", None),
        (TrainingConfig, "backend", ""),
        (TrainingConfig, "backend", 3),
        (TrainingConfig, "subsample_seed", -1),
        (InferenceConfig, "n_groups", 0),
        (ExecutionConfig, "checkpoint_save_top_k", -2),
        (ExecutionConfig, "gradient_clip_val", 0),
        (ExecutionConfig, "logger_backend", "neptune"),
        (ExecutionConfig, "picture_every", -1),
        (ExecutionConfig, "precision", 32),
    ],
)
def test_refuses(cls: type, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{cls.__name__}: {name}: got "):
        cls(**{name: value})


def test_error_text_stays_short_whatever_was_given() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(gridsize="x" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_accepted_spellings_are_brought_into_one_form() -> None:
    assert ModelConfig(amp_activation="silu").amp_activation == "swish"
    for spelt, known in {
        "torch": "torch",
        "TF": "tensorflow",
        "PyTorch": "torch",
        "Mine": "mine",
    }.items():
        assert TrainingConfig(backend=spelt).backend == known
    config = TrainingConfig(train_data_file="scan.npz", output_dir="out")  # type: ignore[arg-type]
    assert config.train_data_file == Path("scan.npz")
    assert config.output_dir == Path("out")


def test_numpy_scalars_become_python_numbers_and_integers_floats_where_a_float_is_meant() -> None:
    config = TrainingConfig(
        model=ModelConfig(N=np.int64(128), object_big=np.bool_(False), probe_scale=np.float32(2)),  # type: ignore[arg-type]
        nphotons=1000,
        batch_size=np.uint8(8),  # type: ignore[arg-type]
    )
    kinds = {type(value) for value in (*vars(config.model).values(), *vars(config).values())}
    assert not [kind for kind in kinds if issubclass(kind, np.generic)]
    assert type(config.nphotons) is float
    assert type(config.batch_size) is int
    assert config.model.object_big is False


def test_side_may_wait_for_the_data() -> None:
    config = TrainingConfig(model=ModelConfig(N=0))
    with pytest.raises(ConfigError, match=r"model\.N: got 0, want one of 64, 128, 256"):
        validate(config)
    config.model.N = 128
    validate(config)


def test_validate_sees_what_was_assigned_later_and_normalises_it() -> None:
    config = TrainingConfig()
    config.model.amp_activation = "silu"
    config.backend = "pytorch"
    config.output_dir = "out"  # type: ignore[assignment]
    validate(config)
    assert (config.model.amp_activation, config.backend, config.output_dir) == (
        "swish",
        "torch",
        Path("out"),
    )
    config.model.gridsize = 0
    with pytest.raises(ConfigError, match=r"model\.gridsize: got 0"):
        validate(config)


def test_n_images_means_n_groups_and_warns_at_the_caller() -> None:
    with pytest.warns(DeprecationWarning, match="use n_groups") as warned:
        config = TrainingConfig(n_images=7)
    assert warned[0].filename == __file__
    assert (config.n_groups, config.n_images) == (7, None)
    with pytest.warns(DeprecationWarning, match="n_groups"):
        assert InferenceConfig(n_images=7).n_groups == 7
    config.n_images = 7
    with pytest.warns(DeprecationWarning, match="n_groups") as warned:
        validate(config)
    assert warned[0].filename == __file__


def test_n_images_that_contradicts_n_groups_is_an_error() -> None:
    with pytest.raises(ConfigError, match="n_images: contradicts n_groups"):
        TrainingConfig(n_images=7, n_groups=8)


@pytest.mark.parametrize("config", [TrainingConfig(model=ModelConfig(N=0)), ModelConfig(N=0)], ids=field_ids)
def test_with_side_completes_a_deep_copy(config: TrainingConfig | ModelConfig) -> None:
    before = copy.deepcopy(config)
    completed = with_side(config, 128)
    assert getattr(completed, "model", completed).N == 128
    assert config == before
    getattr(completed, "model", completed).gridsize = 2
    assert config == before


@pytest.mark.parametrize("named", [0, 64])
def test_with_side_refuses_patterns_without_an_architecture(named: int) -> None:
    with pytest.raises(ConfigError, match=r"100 x 100 pixels, want one of 64, 128, 256"):
        with_side(TrainingConfig(model=ModelConfig(N=named)), 100)


def test_with_side_refuses_another_side_than_the_data_have() -> None:
    with pytest.raises(ConfigError, match=r"N: got 64, but the patterns are 128 x 128 pixels"):
        with_side(TrainingConfig(), 128)


def test_derived_sizes() -> None:
    model = ModelConfig(N=64, gridsize=3, offset=5, max_position_jitter=6)
    assert (model.group_size, model.canvas_size, model.patch_channels) == (9, 64 + 2 * 5 + 6, 9)
    assert ModelConfig(gridsize=3, object_big=False).patch_channels == 1


@pytest.mark.parametrize("cls", CLASSES, ids=field_ids)
def test_survives_pickling_and_copying(cls: type) -> None:
    config = cls()
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config
    assert dataclasses.replace(config) == config


@given(st.integers(-3, 2**70))
def test_power_of_two(value: int) -> None:
    is_power = value > 0 and bin(value).count("1") == 1
    assert configuration.integer(1, power_of_two=True).accepts(value) == is_power


@given(st.floats() | st.integers() | st.booleans() | st.none() | st.text())
def test_a_number_rule_accepts_finite_numbers_in_its_range_only(value: object) -> None:
    accepted = configuration.number(0, 1, exclusive=True).accepts(value)
    assert accepted == (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1)


def test_from_values_tells_problems_and_raises_nothing() -> None:
    config, problems = configuration.from_values(TrainingConfig, {"nepochs": 0, "backend": "tf"})
    assert problems == ["nepochs: got 0, want an integer >= 1"]
    assert config.backend == "tensorflow"


@pytest.mark.parametrize("cls", CLASSES, ids=field_ids)
def test_plain_dictionaries_there_and_back(cls: type) -> None:
    plain = configuration.config_to_plain(cls())
    assert json.loads(json.dumps(plain)) == plain
    assert configuration.config_from_plain(cls, plain) == cls()


def test_plain_dictionaries_with_mistakes() -> None:
    with pytest.raises(ConfigError, match="nephochs: no such field"):
        configuration.config_from_plain(TrainingConfig, {"nephochs": 3})
    with pytest.raises(ConfigError, match="gridsize: got 0"):
        configuration.config_from_plain(TrainingConfig, {"model": {"gridsize": 0}})


# --- fine-tuning stages


def test_stages_are_values() -> None:
    stage = FinetuneStage(np.int64(2), {"decoder": 1, "encoder_top": np.float32(0.5)})  # type: ignore[arg-type]
    assert (type(stage.epochs), stage.rates) == (int, {"decoder": 1.0, "encoder_top": 0.5})
    assert stage == FinetuneStage(2, {"encoder_top": 0.5, "decoder": 1.0})
    assert len({stage, copy.deepcopy(stage)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage.epochs = 3  # type: ignore[misc]
    execution = ExecutionConfig(finetune_stages=[{"epochs": 3, "rates": {"decoder": 1}}, stage])  # type: ignore[arg-type, list-item]
    assert execution.finetune_stages == (FinetuneStage(3, {"decoder": 1.0}), stage)
    assert execution.finetune_epochs == 5
    plain = configuration.config_to_plain(execution)
    assert configuration.config_from_plain(ExecutionConfig, json.loads(json.dumps(plain))) == execution


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        ({"epochs": 0, "rates": {"decoder": 1}}, "epochs: got 0, want an integer >= 1"),
        ({"epochs": 1, "rates": {"head": 1}}, "rates: got 'head', want one of encoder_bottom, encoder_top"),
        ({"epochs": 1, "rates": {"decoder": -1}}, r"rates\['decoder'\]: got -1, want a number >= 0"),
        ({"epochs": 1, "rates": {"decoder": 0}}, "rates: nothing is trained"),
        ({"epochs": 1, "rates": [1]}, "rates: got a list, want a mapping of parts to factors"),
        ({"epochs": 1}, "got a dict, want a mapping of epochs and rates"),
        (7, "got 7, want a mapping of epochs and rates"),
    ],
)
def test_what_is_no_stage_is_told(stage: object, problem: str) -> None:
    good = FinetuneStage(1, {"decoder": 1.0})
    with pytest.raises(ConfigError, match=rf"finetune_stages\[1\]: {problem}"):
        ExecutionConfig(finetune_stages=(good, stage))  # type: ignore[arg-type]
    if isinstance(stage, dict) and "rates" in stage:
        with pytest.raises(ConfigError, match=problem):
            FinetuneStage(**stage)
    with pytest.raises(ConfigError, match="finetune_stages: got 'all', want a sequence of FinetuneStage"):
        ExecutionConfig(finetune_stages="all")  # type: ignore[arg-type]


def test_a_share_is_below_one() -> None:
    for value in (1, 1.0, -0.1, float("nan"), True):
        with pytest.raises(ConfigError, match=r"validation_share: got .*, want a number in \[0, 1\)"):
            TrainingConfig(validation_share=value)


@pytest.mark.parametrize(
    ("accelerator", "kind", "number"), [("auto", "auto", None), ("cuda:1", "cuda", 1), ("gpu:0", "gpu", 0)]
)
def test_a_device_may_have_a_number(accelerator, kind, number):
    execution = ExecutionConfig(accelerator=accelerator)
    assert (execution.device_kind, execution.device_number) == (kind, number)


@pytest.mark.parametrize("accelerator", ["cuda:", "cuda:-1", "cuda:x", "cpu:0", "mps:1", 1])
def test_other_numbers_of_devices_are_refused(accelerator):
    with pytest.raises(ConfigError, match="accelerator: got"):
        ExecutionConfig(accelerator=accelerator)


def test_one_device_that_is_named_is_one():
    with pytest.raises(ConfigError, match="devices: got 2 with accelerator='cuda:1', which names one"):
        ExecutionConfig(accelerator="cuda:1", devices=2)
