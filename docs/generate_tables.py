"""Write the tables of the pages in docs/ from the code they describe: `python docs/generate_tables.py`.

`tests/test_docs.py` fails while a page and the code differ.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ptycho_backends.builtin_backends import BUILT_IN
from ptycho_backends.config import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.export.formats import FORMATS, ExportFormat
from ptycho_backends.params import params
from ptycho_backends.params.bridge import LEGACY_NAMES
from ptycho_backends.testing.agreement import ALLOWANCES
from ptycho_backends.testing.fields import field_rows
from ptycho_backends.testing.measurements import PROFILE_CASES, PROFILE_VERBS, PROFILES

DOCS = Path(__file__).parent
CLASSES = (ModelConfig, TrainingConfig, InferenceConfig, ExecutionConfig)


def configuration_tables() -> dict[str, str]:
    """`{name: Markdown}` of the tables in configuration.md."""
    generated = {cls.__name__: field_table(cls) for cls in CLASSES}
    generated["params.cfg"] = _table(
        ("key", "default"), [(_code(key), _code(repr(value))) for key, value in params.defaults().items()]
    )
    generated["bridge"] = _table(
        ("field", "key of `params.cfg`"), [(_code(field), _code(key)) for field, key in LEGACY_NAMES.items()]
    )
    return generated


def parity_tables() -> dict[str, str]:
    """`{name: Markdown}` of the tables in parity.md."""
    allowances = [
        (name, f"{allowed.bound:.3g}", allowed.unit, allowed.reason) for name, allowed in ALLOWANCES.items()
    ]
    profiles = [
        (name, str(PROFILE_CASES[name]), str(PROFILE_VERBS[name]), *map(str, dataclasses.astuple(effort)))
        for name, effort in PROFILES.items()
    ]
    efforts = ("directions of a gradient", "reorderings of a float32 gradient", "steps after the first")
    return {
        "allowances": _table(("what", "allowed", "measured as", "reason"), allowances),
        "profiles": _table(("profile", "cases of batches", "cases of verbs", *efforts), profiles),
        "fields": _table(("field", "other value", "what becomes of it", "beside"), field_rows()),
    }


def ptychodus_tables() -> dict[str, str]:
    """`{name: Markdown}` of the tables in ptychodus-settings.md."""
    from ptycho_torch.settings_table import SECTIONS, SETTINGS, USES

    generated = {}
    for cls, settings in SETTINGS.items():
        rows = [
            (
                " ".join(_code(key) for key in setting.key.split(", ")) if setting.key else "(constant)",
                _code(setting.field),
                _code(repr(getattr(cls(), setting.field))),
                setting.rule.text,
                setting.use,
                setting.text,
            )
            for setting in settings
        ]
        generated[SECTIONS[cls]] = _table(("key", "keyword", "stock", "allowed", "use", "what it does"), rows)
    generated["uses"] = _table(("use", "means"), [(use, text) for use, text in USES.items()])
    return generated


def export_tables() -> dict[str, str]:
    """`{name: Markdown}` of the table in export.md."""
    rows = []
    for one in FORMATS.values():
        how = [_how_written(one, name) for name in BUILT_IN]
        endings = " ".join(_code(suffix) for suffix in one.suffixes)
        needs = " ".join(_code(module) for module in one.modules)
        opens = f"`examples/{one.consumer}`"
        rows.append((_code(one.name), one.label, one.source, endings, *how, needs, one.content, opens))
    labels = tuple(entry.label for entry in BUILT_IN.values())
    heading = ("format", "file", "written from", "endings", *labels, "needs", "content", "opened by")
    return {"formats": _table(heading, rows)}


def _how_written(one: ExportFormat, backend: str) -> str:
    if one.writer is None or one.writer == backend:
        return "yes"
    return f"through {BUILT_IN[one.writer].label}, where it is installed"


PAGES: Mapping[str, Callable[[], dict[str, str]]] = {
    "configuration.md": configuration_tables,
    "export.md": export_tables,
    "parity.md": parity_tables,
    "ptychodus-settings.md": ptychodus_tables,
}
"""Each page that has generated tables, and what makes them."""


def field_table(cls: type[Any]) -> str:
    """One row per field of `cls`: name, default, allowed values, meaning."""
    rows = []
    for field in dataclasses.fields(cls):
        doc = field.metadata["doc"]
        if "rule" not in field.metadata:
            rows.append((_code(field.name), "`ModelConfig()`", "a ModelConfig", doc))
            continue
        default = str(field.default) if isinstance(field.default, Path) else repr(field.default)
        default = field.metadata["default_text"] or _code(default)
        rows.append((_code(field.name), default, field.metadata["rule"].text, doc))
    return _table(("field", "default", "allowed", "meaning"), rows)


def updated(page: str, text: str) -> str:
    """The `text` of `page` with every table between its markers replaced by the generated one."""
    for name, table in PAGES[page]().items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if len(block.findall(text)) != 1:
            raise ValueError(f"{page}: want {begin} ... {end} exactly once")
        text = block.sub(lambda _, new=f"{begin}\n{table}\n{end}": new, text)
    return text


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    for page in PAGES:
        path = DOCS / page
        path.write_text(updated(page, path.read_text()))
