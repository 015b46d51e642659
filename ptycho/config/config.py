"""The configuration dataclasses and the bridge from them to `params.cfg`; imports no framework."""

from ptycho_backends.config import InferenceConfig, ModelConfig
from ptycho_backends.legacy.config import TrainingConfig
from ptycho_backends.params.bridge import dataclass_to_legacy_dict, update_legacy_dict

__all__ = [
    "InferenceConfig",
    "ModelConfig",
    "TrainingConfig",
    "dataclass_to_legacy_dict",
    "update_legacy_dict",
]
