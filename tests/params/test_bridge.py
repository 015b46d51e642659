"""Between the dataclasses and the legacy dictionary."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_backends.config import (
    ATTENTION_FIELDS,
    LATER_FIELDS,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
)
from ptycho_backends.errors import ConfigError
from ptycho_backends.params import params
from ptycho_backends.params.bridge import (
    dataclass_to_legacy_dict,
    training_config_from_legacy_dict,
    update_legacy_dict,
)

trainings = st.builds(
    TrainingConfig,
    model=st.builds(
        ModelConfig,
        N=st.sampled_from([64, 128, 256]),
        gridsize=st.integers(1, 4),
        object_big=st.booleans(),
        probe_big=st.booleans(),
        probe_mask=st.booleans(),
        amp_activation=st.sampled_from(["sigmoid", "swish", "softplus", "relu"]),
        offset=st.integers(0, 9),
    ),
    train_data_file=st.none() | st.sampled_from([Path("a/b.npz")]),
    batch_size=st.sampled_from([1, 8, 64]),
    nphotons=st.floats(1.0, 1e12),
    n_groups=st.integers(1, 2000),
    probe_trainable=st.booleans(),
    intensity_scale_trainable=st.booleans(),
    positions_provided=st.booleans(),
    n_subsample=st.none() | st.integers(1, 99),
    tv_weight=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)


def test_numbers_that_come_from_the_data_are_those_of_ptychopinn() -> None:
    flat = dataclass_to_legacy_dict(TrainingConfig())
    assert (flat["nphotons"], flat["n_groups"]) == (1e9, 512)
    for name in ("nphotons", "n_groups"):
        del flat[name]
    config = training_config_from_legacy_dict(flat)
    assert (config.nphotons, config.n_groups) == (1e9, 512)


def test_flattens_and_renames() -> None:
    config = TrainingConfig(
        model=ModelConfig(N=128, object_big=False, probe_big=False, probe_mask=True),
        train_data_file=Path("in/train.npz"),
        test_data_file=Path("in/test.npz"),
        output_dir=Path("out"),
        probe_trainable=True,
        intensity_scale_trainable=False,
        positions_provided=False,
        seed=7,
    )
    flat = dataclass_to_legacy_dict(config)
    expected = {
        "N": 128,
        "object.big": False,
        "probe.big": False,
        "probe.mask": True,
        "probe.trainable": True,
        "intensity_scale.trainable": False,
        "positions.provided": False,
        "output_prefix": "out",
        "train_data_file_path": str(Path("in/train.npz")),
        "test_data_file_path": str(Path("in/test.npz")),
        "npseed": 7,
        "n_subsample": None,
    }
    assert expected.items() <= flat.items()
    dataclass_names = {"model", "object_big", "probe_big", "probe_mask", "output_dir", "seed", "n_images"}
    assert not dataclass_names & flat.keys()


def test_each_kind_of_configuration() -> None:
    assert dataclass_to_legacy_dict(ModelConfig(N=0))["N"] == 0
    flat = dataclass_to_legacy_dict(InferenceConfig(model_path=Path("wts.h5.zip"), debug=True))
    assert (flat["model_path"], flat["debug"], flat["N"]) == ("wts.h5.zip", True, 64)


def test_execution_never_enters() -> None:
    cfg: dict[str, object] = {"N": 64}
    for other in (ExecutionConfig(), {"N": 128}, None):
        with pytest.raises(ConfigError, match="want ModelConfig, TrainingConfig or InferenceConfig"):
            update_legacy_dict(cfg, other)  # type: ignore[arg-type]
    assert cfg == {"N": 64}


def test_update_skips_what_is_open_and_keeps_other_keys() -> None:
    cfg = params.defaults() | {"train_data_file_path": "before.npz", "own": 1}
    update_legacy_dict(cfg, TrainingConfig(model=ModelConfig(N=0)))
    assert (cfg["train_data_file_path"], cfg["own"], cfg["N"]) == ("before.npz", 1, 128)
    assert (cfg["gridsize"], cfg["nepochs"], cfg["label"]) == (1, 50, "")


def test_an_invalid_configuration_changes_nothing() -> None:
    cfg = params.defaults()
    config = TrainingConfig()
    config.model.gridsize = 0
    config.nepochs = 0
    with pytest.raises(ConfigError, match=r"model\.gridsize: got 0.*nepochs: got 0"):
        update_legacy_dict(cfg, config)
    assert cfg == params.defaults()


def test_spellings_and_n_images_assigned_later_are_translated_and_the_configuration_stays() -> None:
    config = TrainingConfig()
    config.model.amp_activation, config.backend, config.n_images = "silu", "torch", 9
    before = copy.deepcopy(config)
    with pytest.warns(DeprecationWarning, match="n_groups"):
        flat = dataclass_to_legacy_dict(config)
    assert (flat["amp_activation"], flat["backend"], flat["n_groups"]) == ("swish", "pytorch", 9)
    assert config == before


@given(config=trainings)
def test_there_and_back(config: TrainingConfig) -> None:
    cfg = params.defaults()
    update_legacy_dict(cfg, config)
    assert training_config_from_legacy_dict(cfg) == config
    assert training_config_from_legacy_dict(dataclass_to_legacy_dict(config)) == config
    json.dumps(cfg)


@given(config=trainings)
def test_what_the_bridge_writes_is_valid(config: TrainingConfig) -> None:
    before = dict(params.cfg)
    try:
        update_legacy_dict(params.cfg, config)
        params.validate()
    finally:
        params.cfg.clear()
        params.cfg.update(before)


def test_back_from_a_dictionary_with_other_things_in_it() -> None:
    cfg = {
        **params.defaults(),
        "N": np.int64(64),
        "gridsize": np.array(2),
        "amp_activation": "silu",
        "fno_modes": 12,
        "probe": np.ones((64, 64, 1), np.complex64),
        "intensity_scale": 31.25,
        "n_images": 5,
    }
    config = training_config_from_legacy_dict(cfg)
    assert (config.model.N, config.model.gridsize, config.model.amp_activation) == (64, 2, "swish")
    assert (config.model.architecture, config.n_groups, config.n_images) == ("cnn", 5, None)
    assert training_config_from_legacy_dict({**cfg, "n_groups": 6}).n_groups == 6


def test_back_reports_every_invalid_and_missing_key_under_its_legacy_name() -> None:
    cfg = {**params.defaults(), "N": 0, "object.big": 3, "nepochs": 0, "npseed": -1, "output_prefix": None}
    del cfg["probe.mask"], cfg["probe_scale"]
    with pytest.raises(ConfigError) as caught:
        training_config_from_legacy_dict(cfg)
    for part in (
        "probe.mask: missing",
        "probe_scale: missing",
        "N: got 0",
        "object.big: got 3, want True or False",
        "nepochs: got 0, want an integer >= 1",
        "npseed: got -1",
        "output_prefix: got None, want a path",
    ):
        assert part in str(caught.value)


@pytest.mark.shared
@pytest.mark.parametrize("case", ["ptychopinn_gs1", "ptychopinn_gs2alt"])
def test_dictionaries_of_the_genuine_package(shared: Path, case: str) -> None:
    with np.load(shared / "golden" / f"{case}.npz") as recorded:
        genuine = json.loads(str(recorded["params_json"]))
    config = training_config_from_legacy_dict(genuine)
    flat = dataclass_to_legacy_dict(config)
    known = {
        key: value
        for key, value in flat.items()
        if value is not None and key not in (*ATTENTION_FIELDS, *LATER_FIELDS)
    }
    assert known.items() <= genuine.items()
