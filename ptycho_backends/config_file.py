"""Configurations as YAML files: they come back exactly, and all mistakes are reported at once."""

import copy
import dataclasses
import difflib
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, overload

import yaml

from ptycho_backends.config import (
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    RefinementConfig,
    TrainingConfig,
    from_values,
    raise_if_any,
)
from ptycho_backends.errors import ConfigError
from ptycho_backends.files.budget import DAMAGE, MAX_CONFIG_BYTES, Budget, bounded_bytes
from ptycho_backends.files.output import replaced_atomically
from ptycho_backends.rules import shown

# A configuration has some sixty fields.
MAX_VALUES = 2000
MAX_DIGITS = 64
MAX_PROBLEMS = 50

C = TypeVar("C", ModelConfig, TrainingConfig, InferenceConfig, RefinementConfig, ExecutionConfig)

SECTIONS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "model": ModelConfig,
        "training": TrainingConfig,
        "inference": InferenceConfig,
        "refinement": RefinementConfig,
        "execution": ExecutionConfig,
    }
)
"""Sections of a file that holds several configurations."""

# YAML 1.1 wants a dot and a signed exponent in a number, and knows no None; people write 1e9 and None.
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)[eE][-+]?[0-9]+$")
_NONE = re.compile(r"None$")


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that reads 1e9 and None as they are meant, and refuses a key given twice.

    It knows no references to other parts of the text, by which a few lines become any number of values.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._budget, self._depth = Budget(ConfigError, objects=MAX_VALUES), 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "a reference (*name), want the value itself", mark)
        self._budget.spend_objects()
        self._depth += 1
        self._budget.require_depth(self._depth)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r:.80} is given twice", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # quadratic in its length, and Python refuses to print a long one
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"an integer of {len(node.value)} digits", node.start_mark
            )
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class _Dumper(yaml.SafeDumper):
    """`yaml.SafeDumper` that quotes the text which `_Loader` would not read as text."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
    _class.add_implicit_resolver("tag:yaml.org,2002:null", _NONE, ["N"])


@overload
def load_config(path: str | os.PathLike[str]) -> TrainingConfig: ...
@overload
def load_config(path: str | os.PathLike[str], cls: type[C]) -> C: ...
def load_config(path: str | os.PathLike[str], cls: type[Any] = TrainingConfig) -> Any:
    """Read a configuration from a YAML file.

    Parameters
    ----------
    path : path
        A mapping of field names to values, the model's fields under `model`; or one of `SECTIONS` to such
        mappings, of which that of `cls` is read. Fields that are not named take their defaults.
    cls : type
        `TrainingConfig`, `InferenceConfig`, `ModelConfig`, `RefinementConfig` or `ExecutionConfig`.

    Returns
    -------
    cls
        With every path a `Path`. `N: 0` (from the data) is accepted.

    Raises
    ------
    ConfigError
        If the file cannot be read or is no mapping, a key is unknown or given twice, or a value is
        invalid. The text names the file and lists every problem; an unknown key is answered with the
        nearest field name.
    """
    return load_config_with_names(path, cls)[0]


def load_config_with_names(path: str | os.PathLike[str], cls: type[Any]) -> tuple[Any, set[str]]:
    """As `load_config`, with the names of the fields that the file gives, the model's among them.

    The file is read once, so it may be a pipe.
    """
    content = read_mapping(path, f"the fields of {cls.__name__}")
    if holds_sections(content):
        content = _section_for(cls, sections_of(content, path))
    return config_of(content, path, cls), set(content) | set(content.get("model") or {})


def holds_sections(content: Mapping[Any, Any]) -> bool:
    """True for the content of a file of `SECTIONS`; one of a single configuration may have `model` alone."""
    return any(name in content for name in SECTIONS if name != "model")


def sections_of(content: Mapping[Any, Any], path: str | os.PathLike[str]) -> dict[str, dict[str, Any] | None]:
    """The sections in the file `path`; None for one that is null.

    Raises
    ------
    ConfigError
        Lists every unknown section, unknown field and invalid value.
    """
    found: dict[str, dict[str, Any] | None] = {}
    problems: list[str] = []
    for name, fields in content.items():
        if name not in SECTIONS:
            problems.append(f"{name}: no section{nearest_settings(str(name))}")
        elif fields is not None and not isinstance(fields, dict):
            problems.append(f"{name}: got {shown(fields)}, want a mapping of the fields of its section")
        elif fields is not None and name != "model" and "model" in fields:
            problems.append(f"{name}.model: the model is a section of its own, beside {name}")
        else:
            found[name] = fields and _checked_fields(name, fields, problems)
    raise_if_any(str(path), problems)
    return found


def _checked_fields(section: str, values: dict[Any, Any], problems: list[str]) -> dict[str, Any]:
    """The `values` of a section, each by itself; fields that depend on one another wait for the configuration."""
    fields = {field.name: field for field in dataclasses.fields(SECTIONS[section])}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            problems.append(f"{section}.{name}: unknown{nearest_settings(f'{section}.{name}')}")
            continue
        found[name] = _whole(value, fields[name])
        rule = fields[name].metadata["rule"]
        # sides depend on the architecture
        if name != "N":
            problems += rule.problems(f"{section}.{name}", rule.convert(found[name]))
    return found


def _section_for(cls: type[Any], sections: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    (name,) = (name for name, of in SECTIONS.items() if of is cls)
    content = dict(sections.get(name) or {})
    inner = sections.get("model")
    return content | {"model": inner} if inner and name in ("training", "inference") else content


def setting_names() -> list[str]:
    """Every setting of every section, as `training.nepochs`."""
    return [
        f"{section}.{field.name}"
        for section, cls in SECTIONS.items()
        for field in dataclasses.fields(cls)
        if field.name not in ("model", "n_images")
    ]


def nearest_settings(name: str) -> str:
    """End of the error for an unknown setting `name`, with a section or without: those that it may mean."""
    known = setting_names()
    field = name.rpartition(".")[2]
    same = [one for one in known if one.endswith(f".{field}")]
    nearest = same or [
        one
        for close in difflib.get_close_matches(
            field, {one.partition(".")[2] for one in known}, n=3, cutoff=0.6
        )
        for one in known
        if one.endswith(f".{close}")
    ]
    # those of the section that was named first
    nearest.sort(key=lambda one: one.partition(".")[0] != name.partition(".")[0])
    nearest = nearest or difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return f"; did you mean {' or '.join(nearest[:3])}?"


def assigned_value(text: str, name: str, field: dataclasses.Field) -> Any:
    """The value that `text`, in YAML, gives to the setting `name`; text stays as it is where the field takes text.

    Raises
    ------
    ConfigError
        If it is no YAML.
    """
    value = _parsed(text.encode(), name)
    takes_text = field.type in (str, str | None, Path, Path | None)
    return text if takes_text and value is not None and not isinstance(value, str) else _whole(value, field)


def config_of(content: dict[Any, Any], path: str | os.PathLike[str], cls: type[Any]) -> Any:
    """The configuration that the mapping in the file `path` describes.

    Raises
    ------
    ConfigError
        As `load_config`.
    """
    config, problems = _built(cls, content)
    raise_if_any(f"{path}: {cls.__name__}", problems)
    return config


def read_mapping(path: str | os.PathLike[str], of: str) -> dict[Any, Any]:
    """The mapping that a YAML (or JSON) file holds; `of` names its content in the error.

    Raises
    ------
    ConfigError
        If the file cannot be read, holds something else, or gives a key twice.
    """
    return mapping_of(bounded_bytes(Path(path), MAX_CONFIG_BYTES, ConfigError), path, of)


def mapping_of(data: bytes, path: str | os.PathLike[str], of: str) -> dict[Any, Any]:
    """As `read_mapping`, of the content `data` of the file `path`."""
    content = _parsed(data, path)
    if not isinstance(content, dict):
        what = "nothing" if content is None else shown(content)
        raise ConfigError(f"{path}: holds {what}, want a mapping of {of}")
    return content


def save_config(
    config: ModelConfig | TrainingConfig | InferenceConfig | RefinementConfig | ExecutionConfig,
    path: str | os.PathLike[str],
) -> Path:
    """Write `config` as a YAML file that `load_config` reads back equal, each field with its meaning.

    The file is written whole or not at all.

    Raises
    ------
    ConfigError
        If a field is invalid.
    OutputError
        If the file cannot be written; an earlier file stays untouched.
    """
    path = Path(path)
    checked, problems = from_values(type(config), copy.deepcopy(vars(config)))
    raise_if_any(type(config).__name__, problems)
    text = "\n".join([f"# {type(config).__name__} of ptycho-backends", *config_lines(checked), ""])
    with replaced_atomically(path) as stream:
        stream.write(text.encode())
    return path


def _parsed(data: bytes, path: str | os.PathLike[str]) -> Any:
    try:
        return yaml.load(data, _Loader)
    except ConfigError as error:
        raise ConfigError(f"{path}: not readable as YAML ({error})") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{path}: {line}{error.problem}") from error
    except (yaml.YAMLError, *DAMAGE) as error:
        # no line is known: not text, a date that no calendar has, a tag that its value does not fit
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{path}: not readable as YAML ({reason:.300})") from error


def _built(cls: type[Any], content: dict[Any, Any]) -> tuple[Any, list[str]]:
    """The configuration that `content` describes, and every problem with it."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in content.items():
        if len(problems) > MAX_PROBLEMS:
            problems.append(f"and so on; the file gives {len(content)} values")
            break
        if key not in fields:
            problems.append(f"{key}: unknown{_suggestion(str(key), cls)}")
        elif "rule" in fields[key].metadata:
            values[key] = _whole(value, fields[key])
        elif isinstance(value, dict):
            values[key], nested = _built(ModelConfig, value)
            problems += [f"{key}.{problem}" for problem in nested]
        else:
            problems.append(f"{key}: got {shown(value)}, want a mapping of the fields of ModelConfig")
    # the nested problems are listed already
    model = values.pop("model", None)
    config, found = from_values(cls, values)
    if model is not None:
        config.model = model
    return config, problems + found


def _whole(value: Any, field: dataclasses.Field) -> Any:
    """`value`, as an integer if the field wants one and the file has 1e3 or 512.0."""
    wants_integer = field.type in (int, int | None)
    return int(value) if wants_integer and isinstance(value, float) and value.is_integer() else value


def _suggestion(key: str, cls: type) -> str:
    """End of the error for an unknown `key`: the nearest field of `cls`, or of the model in it."""
    own = [field.name for field in dataclasses.fields(cls)]
    inner = [field.name for field in dataclasses.fields(ModelConfig)] if "model" in own else []
    if key in inner:
        return f"; it belongs under 'model' (model.{key})"
    nearest = difflib.get_close_matches(key, [*own, *inner], n=1, cutoff=0.0)[0]
    return f"; did you mean {nearest!r}{'' if nearest in own else ' under model'}?"


def config_lines(config: Any) -> list[str]:
    """The fields of `config` as lines of YAML, each with its meaning."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, ModelConfig):
            lines += [
                f"{field.name}:  # {field.metadata['doc']}",
                *("  " + line for line in config_lines(value)),
                "",
            ]
        elif field.name != "n_images":
            lines.append(f"{_entry(field.name, value)}  # {field.metadata['doc']}")
    return lines


def _flow(value: Any) -> str:
    return yaml.dump(
        value, Dumper=_Dumper, width=float("inf"), default_flow_style=True, sort_keys=False
    ).rstrip("\n")


def _entry(key: str, value: Any) -> str:
    """`key: value` on one line, whatever the value holds."""
    if isinstance(value, tuple):
        return f"{key}: {_flow([{'epochs': stage.epochs, 'rates': dict(stage.rates)} for stage in value])}"
    plain = str(value) if isinstance(value, Path) else value
    text = yaml.dump({key: plain}, Dumper=_Dumper, width=float("inf"), allow_unicode=True).rstrip("\n")
    if "\n" in text:
        # text that YAML would fold over several lines; in double quotes it has escapes instead
        text = yaml.dump({key: plain}, Dumper=_Dumper, width=float("inf"), default_style='"').rstrip("\n")
        text = text.replace(f'"{key}"', key, 1)
    return text
