"""Settings of several configurations together: one file of sections, single assignments, and their text."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptycho_backends.config import ModelConfig
from ptycho_backends.config_file import (
    SECTIONS,
    assigned_value,
    config_lines,
    holds_sections,
    nearest_settings,
    read_mapping,
    sections_of,
)
from ptycho_backends.errors import ConfigError

Values = Mapping[str, Any]
"""Values by the name of the field."""


@dataclass(frozen=True)
class Settings:
    """Settings that a file and assignments give, by section; the assignments win.

    Attributes
    ----------
    file : mapping of str to mapping or None
        Sections of a file of sections; None for a section that is null.
    assigned : mapping of str to mapping
        Sections of single assignments.
    flat_file : path, optional
        A file of the fields of one configuration, which is read where that configuration is known.
    """

    file: Mapping[str, Values | None] = field(default_factory=dict)
    assigned: Mapping[str, Values] = field(default_factory=dict)
    flat_file: str | os.PathLike[str] | None = None

    def of_file(self, section: str) -> dict[str, Any]:
        """Values that the file gives to a section."""
        return dict(self.file.get(section) or {})

    def given(self, section: str) -> dict[str, Any]:
        """Values that assignments give to a section."""
        return dict(self.assigned.get(section) or {})


def settings_of(
    path: str | os.PathLike[str] | None, assignments: Sequence[str], sections: Sequence[str]
) -> Settings:
    """Read a file and single assignments.

    Parameters
    ----------
    path : path, optional
        A YAML file of sections, or of the fields of one configuration.
    assignments : sequence of str
        Each as `training.nll_weight=0.5`; the value is YAML.
    sections : sequence of str
        Of `SECTIONS`, those that assignments may name. A file may have others, which are checked and left alone.

    Raises
    ------
    ConfigError
        For an unknown section or field, with the nearest names; for a value that cannot be read.
    """
    assigned: dict[str, dict[str, Any]] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"set: got {text!r}, want SECTION.FIELD=VALUE, as in training.nll_weight=0.5")
        section, _, key = name.partition(".")
        fields = (
            {one.name: one for one in dataclasses.fields(SECTIONS[section])} if section in SECTIONS else {}
        )
        if key not in fields or key == "model":
            raise ConfigError(f"set: {name}: unknown{nearest_settings(name)}")
        if section not in sections:
            raise ConfigError(f"set: {name}: means nothing here; want a setting of {', '.join(sections)}")
        assigned.setdefault(section, {})[key] = assigned_value(value.strip(), f"set: {name}", fields[key])
    if path is None:
        return Settings(assigned=assigned)
    content = read_mapping(path, f"settings, or of the sections {', '.join(SECTIONS)}")
    if not holds_sections(content):
        return Settings(assigned=assigned, flat_file=path)
    return Settings(sections_of(content, path), assigned)


def sections_text(configs: Mapping[str, Any]) -> str:
    """YAML of configurations by section, as `--config` takes it, each field with its meaning.

    Parameters
    ----------
    configs : mapping of str to configuration or None
        The `model` of a configuration becomes a section of its own, unless there is one. None is written as null.
    """
    shown = dict(configs)
    for config in configs.values():
        if isinstance(inner := getattr(config, "model", None), ModelConfig):
            shown.setdefault("model", inner)
    lines = ["# Settings of ptycho-backends"]
    for section in SECTIONS:
        if section not in shown:
            continue
        config = shown[section]
        if config is None:
            lines += ["", f"{section}: null"]
            continue
        lines += ["", f"{section}:", *(f"  {line}" for line in _own_lines(config))]
    return "\n".join([*lines, ""])


def _own_lines(config: Any) -> list[str]:
    """Lines of the fields of `config`, without those of the model in it."""
    if not hasattr(config, "model"):
        return config_lines(config)
    lines = config_lines(config)
    # the model's lines come first, and end with an empty one
    return lines[lines.index("") + 1 :]
