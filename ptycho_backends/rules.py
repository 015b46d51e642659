"""Rules for the fields of a configuration, which check values, convert spellings and fill tables of docs."""

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Python refuses to print integers of more than some 14,000 bits.
LONGEST_SHOWN_BITS = 256


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Rule:
    """Allowed values of a field.

    Attributes
    ----------
    text : str
        The allowed values in words, for error messages and tables.
    accepts : callable
        True for an allowed value.
    convert : callable
        Brings an accepted spelling into the one form that the library uses; leaves all other values alone.
    explain : callable, optional
        Problems with a value, in more detail than "got X, want Y": each the rest of a line that begins with
        the field's name.
    open_value : object, optional
        Stands for "not known until the data are seen".
    schema : mapping
        The allowed values as a JSON schema, as closely as one can say it.
    """

    text: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = _unchanged
    explain: Callable[[Any], list[str]] | None = None
    open_value: Any = None
    schema: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def problems(self, name: str, value: Any, *, may_be_open: bool = False) -> list[str]:
        """Lines "name: got X, want Y"; none for an allowed value, or an open one where that `may_be_open`."""
        if self.accepts(value) or (may_be_open and self._is_open(value)):
            return []
        details = [] if self.explain is None else self.explain(value)
        return [f"{name}{detail}" for detail in details] or [f"{name}: got {shown(value)}, want {self.text}"]

    def _is_open(self, value: Any) -> bool:
        return (
            self.open_value is not None and type(value) is type(self.open_value) and value == self.open_value
        )


def choice(*allowed: object, spellings: dict[str, str] | None = None, open_value: object = None) -> Rule:
    """One of `allowed`; `spellings` are other names of some of them."""
    names = ", ".join(repr(value) for value in allowed)
    other = spellings or {}
    return Rule(
        f"one of {names}",
        lambda value: any(type(value) is type(a) and value == a for a in allowed),
        lambda value: other.get(value, value) if isinstance(value, str) else value,
        open_value=open_value,
        schema={"enum": [*allowed, *other, *([] if open_value is None else [open_value])]},
    )


def integer(minimum: int, *, power_of_two: bool = False, odd: bool = False) -> Rule:
    """An integer of at least `minimum`."""
    kind = "a power of two" if power_of_two else "an odd integer" if odd else "an integer"

    def accepts(value: Any) -> bool:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < minimum:
            return False
        return not (power_of_two and int(value) & (int(value) - 1)) and not (odd and int(value) % 2 == 0)

    schema: dict[str, Any] = {"type": "integer", "minimum": minimum}
    return Rule(f"{kind} >= {minimum}", accepts, schema=schema | ({"not": {"multipleOf": 2}} if odd else {}))


def even_integer(minimum: int, *, open_value: object = None) -> Rule:
    """An even integer of at least `minimum`."""
    whole = integer(minimum)
    return Rule(
        f"an even integer >= {minimum}",
        lambda value: whole.accepts(value) and int(value) % 2 == 0,
        open_value=open_value,
        schema={"anyOf": [{**whole.schema, "multipleOf": 2}, {"const": open_value}]},
    )


def number(minimum: float, maximum: float = math.inf, *, exclusive: bool = False) -> Rule:
    """A real number in [minimum, maximum], without the minimum if `exclusive`; becomes a float."""

    def accepts(value: Any) -> bool:
        if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
            return False
        above = value > minimum if exclusive else value >= minimum
        # the largest float, because an integer may be larger than any
        return bool(above and value <= min(maximum, sys.float_info.max))

    schema = {"type": "number", "exclusiveMinimum" if exclusive else "minimum": minimum}
    if math.isinf(maximum):
        return _real(f"a number {'>' if exclusive else '>='} {minimum:g}", accepts, schema)
    schema["maximum"] = maximum
    return _real(f"a number in {'(' if exclusive else '['}{minimum:g}, {maximum:g}]", accepts, schema)


def fraction(*, zero: bool = False) -> Rule:
    """A number below 1 and above 0; with `zero`, 0 too."""
    within = number(0, 1, exclusive=not zero)
    return _real(
        f"a number in {'[' if zero else '('}0, 1)",
        lambda value: within.accepts(value) and value < 1,
        {"type": "number", "minimum" if zero else "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    )


def _real(text: str, accepts: Callable[[Any], bool], schema: Mapping[str, Any]) -> Rule:
    def convert(value: Any) -> Any:
        return float(value) if type(value) is int and accepts(value) else value

    return Rule(text, accepts, convert, schema=schema)


def boolean() -> Rule:
    """True or False."""
    return Rule("True or False", lambda value: isinstance(value, bool | np.bool_), schema={"type": "boolean"})


def path() -> Rule:
    """A `Path`; text becomes one."""
    return Rule(
        "a path",
        lambda value: isinstance(value, Path),
        lambda value: Path(value) if isinstance(value, str) else value,
        schema={"type": "string"},
    )


def name_of(kind: str, convert: Callable[[str], str] = _unchanged) -> Rule:
    """Text that is not blank; `convert` knows its spellings."""
    return Rule(
        f"the name of a {kind}",
        lambda value: isinstance(value, str) and bool(value.strip()),
        lambda value: convert(value) if isinstance(value, str) else value,
        schema={"type": "string", "pattern": r"\S"},
    )


def optional(rule: Rule) -> Rule:
    """None, or a value that `rule` allows."""
    return dataclasses.replace(
        rule,
        text=f"{rule.text}, or None",
        accepts=lambda value: value is None or rule.accepts(value),
        convert=lambda value: None if value is None else rule.convert(value),
        schema={"anyOf": [rule.schema, {"type": "null"}]},
    )


def setting(
    default: Any,
    rule: Rule,
    doc: str,
    *,
    only: tuple[str, ...] = (),
    later: bool = False,
    default_text: str = "",
) -> Any:
    """A dataclass field that knows its rule and its one-line explanation (`docs/configuration.md`).

    `only` names the architectures that know the field; empty if every one does. `later` marks a field that
    archives did not have at first: where it is absent it has its default. `default_text` describes a default that
    depends on the machine.
    """
    explanation = f"{', '.join(only)}: {doc}" if only else doc
    metadata = {"rule": rule, "doc": explanation, "only": only, "later": later, "default_text": default_text}
    return dataclasses.field(default=default, metadata=metadata)


def part(cls: type, doc: str) -> Any:
    """A dataclass field that is a configuration itself."""
    return dataclasses.field(default_factory=cls, metadata={"doc": doc})


def shown(value: Any) -> str:
    """Text of `value` for an error message: short, whatever it holds."""
    if type(value) is int and value.bit_length() > LONGEST_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value) if not isinstance(value, dict | list | np.ndarray) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
