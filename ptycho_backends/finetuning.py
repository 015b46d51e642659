"""Stages of fine-tuning: the parts of a network, a stage of their rates, and the rule for a setting of stages."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptycho_backends.checks import raise_if_any
from ptycho_backends.rules import Rule, integer, number, shown

ENCODER_BOTTOM, ENCODER_TOP, DECODER, PHASE_HEAD = "encoder_bottom", "encoder_top", "decoder", "phase_head"
PARTS = (ENCODER_BOTTOM, ENCODER_TOP, DECODER, PHASE_HEAD)
"""What fine-tuning tells apart in a network (`training.schedule.parts_of_weights`)."""


@dataclass(frozen=True)
class FinetuneStage:
    """Some more epochs after the main ones, in which each part of the network has a rate of its own.

    Attributes
    ----------
    epochs : int
        At most so many; fewer when the loss stops falling (`finetune_early_stop_patience`).
    rates : mapping of str to float
        Of `PARTS`, the factor on the first learning rate. A part that is not named, or has 0, is frozen.

    Raises
    ------
    ConfigError
        Lists everything that is wrong.
    """

    epochs: int
    rates: Mapping[str, float] = dataclasses.field(hash=False)

    def __post_init__(self) -> None:
        raise_if_any("FinetuneStage", stage_problems({"epochs": self.epochs, "rates": self.rates}))
        object.__setattr__(self, "epochs", int(self.epochs))
        object.__setattr__(self, "rates", {name: float(rate) for name, rate in self.rates.items()})


def stage_problems(values: object, where: str = "") -> list[str]:
    """Problems with `values`, a mapping or a `FinetuneStage`; each begins with `where`."""
    if isinstance(values, FinetuneStage):
        values = vars(values)
    if not isinstance(values, Mapping) or set(values) != {"epochs", "rates"}:
        return [f"{where or 'stage: '}got {shown(values)}, want a mapping of epochs and rates"]
    problems = []
    if not integer(1).accepts(values["epochs"]):
        problems.append(f"{where}epochs: got {shown(values['epochs'])}, want {integer(1).text}")
    rates = values["rates"]
    if not isinstance(rates, Mapping):
        return [*problems, f"{where}rates: got {shown(rates)}, want a mapping of parts to factors"]
    for name, given in rates.items():
        rate = given.item() if isinstance(given, np.generic) else given
        if name not in PARTS:
            problems.append(f"{where}rates: got {shown(name)}, want one of {', '.join(PARTS)}")
        elif not number(0).accepts(rate):
            problems.append(f"{where}rates[{name!r}]: got {shown(rate)}, want {number(0).text}")
    if not problems and not any(rates.values()):
        problems.append(f"{where}rates: nothing is trained; name a part with a factor > 0")
    return problems


def _all_stages(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(stage, FinetuneStage) for stage in value)


def _as_stages(value: Any) -> Any:
    """Stages of a sequence that a file or a caller gives; bad ones stay as they are, to be reported."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(
        FinetuneStage(**stage) if isinstance(stage, Mapping) and not stage_problems(stage) else stage
        for stage in value
    )


def _problems_of_stages(value: Any) -> list[str]:
    if not isinstance(value, tuple):
        return []
    return [problem for i, stage in enumerate(value) for problem in stage_problems(stage, f"[{i}]: ")]


STAGES = Rule(
    "a sequence of FinetuneStage",
    _all_stages,
    _as_stages,
    _problems_of_stages,
    schema={
        "type": "array",
        "items": {
            "type": "object",
            "required": ["epochs", "rates"],
            "additionalProperties": False,
            "properties": {
                "epochs": integer(1).schema,
                "rates": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "properties": {part: number(0).schema for part in PARTS},
                },
            },
        },
    },
)
