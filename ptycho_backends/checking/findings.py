"""Findings of a check: the fault, the evidence, and the cure as an option to copy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Cure:
    """A change of a scan that would mend a finding.

    Attributes
    ----------
    options : str
        For the command line, to copy; empty where no option can help.
    changes : mapping
        The same for `cures.cured`: names of `cures.CHANGES` with their values.
    advice : str
        What else to do, a sentence; empty where the options say all.
    """

    options: str = ""
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    advice: str = ""

    def __str__(self) -> str:
        return "; ".join(text for text in (self.options, self.advice) if text)


@dataclass(frozen=True)
class Finding:
    """One thing about a scan that is wrong, or doubtful.

    Attributes
    ----------
    name : str
        Of the kind, as `swapped_axes`.
    severity : {'error', 'warning'}
        An error is certainly wrong, and refused before training.
    text : str
        What it is, a clause.
    evidence : str
        The numbers that it is concluded from.
    cure : Cure
    """

    name: str
    severity: str
    text: str
    evidence: str
    cure: Cure = field(default_factory=Cure)

    @property
    def is_error(self) -> bool:
        return self.severity == ERROR

    def __str__(self) -> str:
        cure = str(self.cure)
        return f"{self.text} ({self.evidence}){f'; cure: {cure}' if cure else ''}"
