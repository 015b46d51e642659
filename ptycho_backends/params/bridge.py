"""Translation between the configuration dataclasses and the flat dictionary `params.cfg`.

The dataclasses decide; the dictionary is a face for code that was written against the legacy package.
"""

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ptycho_backends import builtin_backends
from ptycho_backends.checks import raise_if_any
from ptycho_backends.config import (
    ATTENTION_FIELDS,
    LATER_MODEL_FIELDS,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
    from_values,
)
from ptycho_backends.errors import ConfigError
from ptycho_backends.rules import shown

LEGACY_NAMES = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "positions_provided": "positions.provided",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
    "seed": "npseed",
}
"""Fields whose key in `params.cfg` is spelt differently; every other field is its own key."""

LEGACY_DEFAULTS: Mapping[str, float | int] = MappingProxyType({"nphotons": 1e9, "n_groups": 512})
"""PtychoPINN's defaults of training fields that are None here until the data are seen."""

# The legacy package has known one architecture only for most of its life, so its dictionaries may lack it,
# and the fields of another one.
OPTIONAL_MODEL_FIELDS = frozenset({"architecture", *ATTENTION_FIELDS, *LATER_MODEL_FIELDS})


def legacy_name(field: str) -> str:
    """Key of `params.cfg` that holds the configuration field `field`."""
    return LEGACY_NAMES.get(field, field)


def dataclass_to_legacy_dict(config: ModelConfig | TrainingConfig | InferenceConfig) -> dict[str, Any]:
    """One flat dictionary under legacy names: the nested model unfolded, paths as text.

    Parameters
    ----------
    config : ModelConfig, TrainingConfig or InferenceConfig
        Unchanged. `N=0` (from the data) is passed on as it is; `n_images` becomes `n_groups`. Training fields that
        are None have the `LEGACY_DEFAULTS`.

    Returns
    -------
    dict
        Plain Python values; fields that are not set are None. `LATER_MODEL_FIELDS` are left out where they have
        their default.

    Raises
    ------
    ConfigError
        If a field is invalid, or `config` is another kind of object. An `ExecutionConfig` is refused:
        how to run never enters `params.cfg`.
    """
    if not isinstance(config, ModelConfig | TrainingConfig | InferenceConfig):
        raise ConfigError(
            f"config: got {type(config).__name__}, want ModelConfig, TrainingConfig or InferenceConfig; "
            "only what to compute enters params.cfg"
        )
    checked, problems = from_values(type(config), copy.deepcopy(vars(config)))
    raise_if_any(type(config).__name__, problems)
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(checked):
        value = getattr(checked, field.name)
        if isinstance(checked, ModelConfig) and field.name in LATER_MODEL_FIELDS and value == field.default:
            continue
        if value is None and isinstance(checked, TrainingConfig):
            value = LEGACY_DEFAULTS.get(field.name)
        if isinstance(value, ModelConfig):
            flat |= dataclass_to_legacy_dict(value)
        elif field.name == "backend":
            flat[field.name] = builtin_backends.legacy_name(value)
        elif field.name != "n_images":
            flat[legacy_name(field.name)] = str(value) if isinstance(value, Path) else value
    return flat


def update_legacy_dict(
    cfg: MutableMapping[str, Any], config: ModelConfig | TrainingConfig | InferenceConfig
) -> None:
    """Write the values of `config` into `cfg`, which is usually `params.cfg`.

    A field that `config` leaves open (None, and `N=0`) keeps its value in `cfg`. All or nothing: an invalid
    configuration changes nothing.

    Raises
    ------
    ConfigError
        As `dataclass_to_legacy_dict`.
    """
    flat = dataclass_to_legacy_dict(config)
    forget_defaults(cfg, flat)
    cfg.update({key: value for key, value in flat.items() if value is not None and (key, value) != ("N", 0)})


def forget_defaults(cfg: MutableMapping[str, Any], flat: Mapping[str, Any]) -> None:
    """Remove from `cfg` those of `LATER_MODEL_FIELDS` that `flat` lacks because they have their default in it."""
    for name in LATER_MODEL_FIELDS:
        if name not in flat:
            cfg.pop(name, None)


def training_config_from_legacy_dict(cfg: Mapping[str, Any]) -> TrainingConfig:
    """The configuration that a `params.cfg` dictionary describes, that of an archive for instance.

    Parameters
    ----------
    cfg : mapping
        Unchanged. Keys that are no field of `TrainingConfig` or `ModelConfig` are ignored. A training
        key that is absent takes PtychoPINN's default; one that shapes the model must be there.

    Raises
    ------
    ConfigError
        Lists every invalid and every missing key under its legacy name.
    """
    model_values, missing = _fields_in(cfg, ModelConfig)
    training_values, _ = _fields_in(cfg, TrainingConfig)
    if "n_groups" in training_values:
        training_values.pop("n_images", None)
    elif training_values.get("n_images") is not None:
        # an old dictionary is nobody's deprecated call, so it is translated without a warning
        training_values["n_groups"] = training_values.pop("n_images")
    training_values |= {
        name: default for name, default in LEGACY_DEFAULTS.items() if training_values.get(name) is None
    }
    model, model_problems = from_values(ModelConfig, model_values)
    training, training_problems = from_values(TrainingConfig, training_values)
    problems = [
        f"{key}: missing, want the model's value" for key in missing if key not in OPTIONAL_MODEL_FIELDS
    ]
    for problem in model_problems + training_problems:
        field, _, text = problem.partition(":")
        problems.append(f"{legacy_name(field)}:{text}")
    if _plain(cfg.get("N")) == 0:
        problems.append(f"N: got {shown(cfg['N'])}, want the side of the patterns")
    raise_if_any("params", problems)
    training.model = model
    return training


def _fields_in(cfg: Mapping[str, Any], cls: type) -> tuple[dict[str, Any], list[str]]:
    """`{field: value}` of the fields of `cls` that `cfg` has, and the keys of those it lacks."""
    values, missing = {}, []
    for field in dataclasses.fields(cls):
        key = legacy_name(field.name)
        if field.name == "model":
            continue
        if key in cfg:
            values[field.name] = _plain(cfg[key])
        else:
            missing.append(key)
    return values, missing


def _plain(value: Any) -> Any:
    """A scalar that an archive kept as an array without axes, as a Python number."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
