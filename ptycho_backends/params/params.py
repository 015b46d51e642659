"""`params.cfg`, the flat dictionary of the legacy package: a face that is filled, never asked.

Nothing in this library reads it to decide anything; values are arguments here. Backends fill it from the
configuration before they touch data (rule CONFIG-001), and loading an archive fills it too.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ptycho_backends import constants
from ptycho_backends.checks import raise_if_any
from ptycho_backends.config import (
    AMPLITUDE_ACTIVATIONS,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
)
from ptycho_backends.errors import ConfigError
from ptycho_backends.params.bridge import dataclass_to_legacy_dict, forget_defaults, legacy_name
from ptycho_backends.rules import Rule, boolean, choice, integer, number, optional, shown

_DEFAULTS: dict[str, Any] = {
    "N": 128,
    "offset": constants.DEFAULT_OFFSET_PX,
    "gridsize": 2,
    "outer_offset_train": None,
    "outer_offset_test": None,
    "batch_size": 16,
    "nepochs": 60,
    "n_filters_scale": 2,
    "output_prefix": "outputs",
    "big_gridsize": 10,
    "max_position_jitter": constants.DEFAULT_MAX_POSITION_JITTER_PX,
    "sim_jitter_scale": 0.0,
    "default_probe_scale": constants.DEFAULT_PROBE_SCALE,
    "mae_weight": 0.0,
    "nll_weight": 1.0,
    "tv_weight": 0.0,
    "realspace_mae_weight": 0.0,
    "realspace_weight": 0.0,
    "nphotons": 1e9,
    "nimgs_train": 9,
    "nimgs_test": 3,
    "data_source": "generic",
    "probe.trainable": False,
    "intensity_scale.trainable": False,
    "positions.provided": False,
    "object.big": True,
    "probe.big": False,
    "probe_scale": 10.0,
    "set_phi": False,
    "probe.mask": True,
    "pad_object": True,
    "model_type": "pinn",
    "label": "",
    "size": 392,
    "amp_activation": "sigmoid",
    "h5_path": "wts.h5",
    "npseed": 42,
    "debug": True,
    "gaussian_smoothing_sigma": 0.0,
    "use_xla_translate": True,
}


def _text() -> Rule:
    return Rule("text", lambda value: isinstance(value, str))


def _rules() -> dict[str, Rule]:
    """Rule of each known key: that of its configuration field, or one of its own."""
    rules = {
        legacy_name(field.name): field.metadata["rule"]
        for cls in (InferenceConfig, TrainingConfig, ModelConfig)
        for field in dataclasses.fields(cls)
        if "rule" in field.metadata
    }
    # paths are text in the dictionary, and the legacy package knows both names of swish
    for key in ("output_prefix", "train_data_file_path", "test_data_file_path", "model_path"):
        rules[key] = _text()
    rules["amp_activation"] = choice(*AMPLITUDE_ACTIVATIONS, "silu")
    rules |= {key: optional(integer(0)) for key in ("outer_offset_train", "outer_offset_test")}
    rules |= {key: integer(1) for key in ("big_gridsize", "nimgs_train", "nimgs_test", "size")}
    rules |= {key: boolean() for key in ("set_phi", "debug", "use_xla_translate")}
    rules |= {key: _text() for key in ("data_source", "label", "h5_path")}
    rules["sim_jitter_scale"] = number(0)
    rules["default_probe_scale"] = number(0, exclusive=True)
    rules["intensity_scale"] = Rule("a number > 0", _is_positive)
    return rules


def _is_positive(value: Any) -> bool:
    """Also for the scalar arrays and tensors in which legacy code keeps the intensity scale."""
    if isinstance(value, str | bytes | bool):
        return False
    try:
        return number(0, exclusive=True).accepts(np.asarray(value, np.float64).item())
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor that tracks its gradient
        return False


_RULES = _rules()


def defaults() -> dict[str, Any]:
    """A fresh dictionary of every key with its default."""
    return dict(_DEFAULTS)


cfg: dict[str, Any] = defaults()
"""The live dictionary. Legacy callers may change it in place; `validate` lists the values they broke."""

_ABSENT = object()


def get(key: str, default: Any = _ABSENT) -> Any:
    """The value of `key`; `bigN` is derived.

    Raises
    ------
    KeyError
        If there is no such key and no `default` was given. The text offers the nearest key.
    """
    if key == "bigN" and {"N", "gridsize", "offset"} <= cfg.keys():
        return _big_side()
    if key in cfg:
        return cfg[key]
    if default is not _ABSENT:
        return default
    near = difflib.get_close_matches(str(key), [*cfg, "bigN"], n=1)
    raise KeyError(f"params has no {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def set(key: str, value: Any) -> None:
    """Check `value`, then store it under `key`; a key of one's own is allowed and not checked.

    Raises
    ------
    ConfigError
        If `key` is derived or no text, or does not allow `value`; nothing is stored then.
    """
    if not isinstance(key, str) or not key:
        raise ConfigError(f"params: got the key {shown(key)}, want text")
    if key == "bigN":
        raise ConfigError("params: bigN is derived from N, gridsize and offset; set those")
    raise_if_any("params", _problem(key, value))
    cfg[key] = value


def params() -> dict[str, Any]:
    """A copy of `cfg` with the derived `bigN`, the side of the square that a group's patterns cover."""
    return {**cfg, "bigN": get("bigN")}


def snapshot(config: TrainingConfig, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The whole dictionary for one model: defaults, then `base`, then all that `config` decides.

    `cfg` takes no part: another run, or the host program, may have filled it. Unlike
    `bridge.update_legacy_dict`, a field that `config` leaves open is open here too.
    """
    initial, decided = defaults(), dataclass_to_legacy_dict(config)
    merged = {**initial, **(base or {})}
    forget_defaults(merged, decided)
    merged |= decided
    return {key: value for key, value in merged.items() if value is not None or key in initial}


def validate() -> None:
    """Check every known key of `cfg`, and that none of `defaults` is missing.

    Raises
    ------
    ConfigError
        Lists every bad and missing key.
    """
    problems = [
        f"{key}: missing, default {default!r}" for key, default in _DEFAULTS.items() if key not in cfg
    ]
    for key, value in cfg.items():
        problems += _problem(key, value)
    raise_if_any("params", problems)


def _problem(key: str, value: Any) -> list[str]:
    rule = _RULES.get(key)
    if rule is None or rule.accepts(value):
        return []
    return [f"{key}: got {shown(value)}, want {rule.text}"]


def _big_side() -> int:
    return cfg["N"] + (cfg["gridsize"] - 1) * cfg["offset"]
