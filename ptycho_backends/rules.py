"""What the fields of a configuration may hold, in a form that checks values, tells users and makes tables."""

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Rule:
    """What values a field may hold: `accepts` decides, `text` says it to the user."""

    text: str
    accepts: Callable[[Any], bool]


def choice(*allowed: object) -> Rule:
    names = ", ".join(repr(value) for value in allowed)
    return Rule(f"one of {names}", lambda value: any(type(value) is type(a) and value == a for a in allowed))


def integer(minimum: int, *, power_of_two: bool = False, odd: bool = False) -> Rule:
    kind = "a power of two" if power_of_two else "an odd integer" if odd else "an integer"

    def accepts(value: Any) -> bool:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
            return False
        return not (power_of_two and int(value) & (int(value) - 1)) and not (odd and int(value) % 2 == 0)

    return Rule(f"{kind} >= {minimum}", accepts)


def number(minimum: float, maximum: float = math.inf, *, exclusive: bool = False) -> Rule:
    def accepts(value: Any) -> bool:
        if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
            return False
        above = value > minimum if exclusive else value >= minimum
        # the largest float, because an integer may be larger than any
        return bool(above and value <= min(maximum, sys.float_info.max))

    if math.isinf(maximum):
        return Rule(f"a number {'>' if exclusive else '>='} {minimum:g}", accepts)
    return Rule(f"a number in {'(' if exclusive else '['}{minimum:g}, {maximum:g}]", accepts)


def fraction() -> Rule:
    above = number(0, 1, exclusive=True)
    return Rule("a number in (0, 1)", lambda value: above.accepts(value) and value < 1)


def share() -> Rule:
    return Rule("a number in [0, 1)", lambda value: number(0, 1).accepts(value) and value < 1)


def boolean() -> Rule:
    return Rule("True or False", lambda value: isinstance(value, bool | np.bool_))


def path() -> Rule:
    return Rule("a path", lambda value: isinstance(value, Path))


def name_of(what: str) -> Rule:
    return Rule(f"the name of a {what}", lambda value: isinstance(value, str) and bool(value.strip()))


def optional(rule: Rule) -> Rule:
    return Rule(f"{rule.text}, or None", lambda value: value is None or rule.accepts(value))


def setting(default: Any, rule: Rule, doc: str, *, only: str = "", later: bool = False) -> Any:
    """A dataclass field that knows its rule and its one-line explanation (`docs/configuration.md`).

    `only` names the one architecture that knows the field; '' if every one does. `later` marks a field that
    archives did not have at first: where it is absent it has its default.
    """
    told = f"{only}: {doc}" if only else doc
    metadata = {"rule": rule, "doc": told, "only": only, "later": later}
    return dataclasses.field(default=default, metadata=metadata)


def part(cls: type, doc: str) -> Any:
    """A dataclass field that is a configuration itself."""
    return dataclasses.field(default_factory=cls, metadata={"doc": doc})


def shown(value: Any) -> str:
    """`value` as an error message shows it: short, whatever it holds."""
    text = repr(value) if not isinstance(value, dict | list | np.ndarray) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
