"""JSON schemas of configuration files, with which editors complete, explain and check them."""

import dataclasses
from pathlib import Path
from typing import Any

from ptycho_backends.config import EVEN_SIDES, ModelConfig
from ptycho_backends.config_file import SECTIONS
from ptycho_backends.errors import ConfigError

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(section: str | None = None) -> dict[str, Any]:
    """The schema of a YAML file of settings, generated from the dataclasses.

    Parameters
    ----------
    section : str, optional
        Of `config_file.SECTIONS`, for a file of the fields of one configuration, as those that a run writes. Default:
        a file of all sections.

    Returns
    -------
    dict
        Plain values, for `json.dump`. Each field has its meaning, its default, and its allowed values as far as a
        schema can express them; fields that depend on one another are checked when the file is read.

    Raises
    ------
    ConfigError
        If there is no such section.
    """
    if section is None:
        sections = {name: _section_schema(name) for name in SECTIONS}
        return {
            "$schema": DIALECT,
            "title": "Settings of ptycho-backends",
            "type": "object",
            "additionalProperties": False,
            "properties": sections,
        }
    if section not in SECTIONS:
        raise ConfigError(f"section: got {section!r}, want one of {', '.join(SECTIONS)}")
    schema = _class_schema(SECTIONS[section], with_model=True)
    return {"$schema": DIALECT, "title": f"{SECTIONS[section].__name__} of ptycho-backends", **schema}


def _section_schema(name: str) -> dict[str, Any]:
    schema = _class_schema(SECTIONS[name], with_model=False)
    if name == "refinement":
        schema["type"] = ["object", "null"]
        schema["description"] += " null: no refinement."
    return schema


def _class_schema(cls: type[Any], *, with_model: bool) -> dict[str, Any]:
    fields = {
        field.name: _field_schema(cls, field)
        for field in dataclasses.fields(cls)
        if field.name != "n_images" and (with_model or "rule" in field.metadata)
    }
    return {
        "type": "object",
        "description": (cls.__doc__ or "").partition("\n")[0],
        "additionalProperties": False,
        "properties": fields,
    }


def _field_schema(cls: type[Any], field: dataclasses.Field) -> dict[str, Any]:
    if "rule" not in field.metadata:
        return _class_schema(ModelConfig, with_model=False)
    # any side that one of the architectures takes
    rule = EVEN_SIDES if (cls, field.name) == (ModelConfig, "N") else field.metadata["rule"]
    schema = {**rule.schema, "description": f"{field.metadata['doc']} ({rule.text})"}
    if field.metadata["default_text"]:
        return schema
    default = field.default
    if isinstance(default, tuple):
        default = list(default)
    return {**schema, "default": str(default) if isinstance(default, Path) else default}
