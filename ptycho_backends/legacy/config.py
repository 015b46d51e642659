"""`TrainingConfig` with PtychoPINN's defaults, where those of this library come from the data."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ptycho_backends import config
from ptycho_backends.params.bridge import LEGACY_DEFAULTS


def _with_legacy_default(name: str) -> Any:
    known = {field.name: field for field in dataclasses.fields(config.TrainingConfig)}
    return dataclasses.field(default=LEGACY_DEFAULTS[name], metadata=known[name].metadata)


@dataclass
class TrainingConfig(config.TrainingConfig):
    """The training: model, data and loss; by default 1e9 photons and 512 groups."""

    nphotons: float | None = _with_legacy_default("nphotons")
    n_groups: int | None = _with_legacy_default("n_groups")
