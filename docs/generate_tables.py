"""Writes the tables of docs/configuration.md from the code they describe: `python docs/generate_tables.py`.

`tests/test_docs.py` fails while the page and the code differ.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

from ptycho_backends.config import ExecutionConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_backends.legacy import params
from ptycho_backends.legacy.bridge import LEGACY_NAMES

PAGE = Path(__file__).with_name("configuration.md")
CLASSES = (ModelConfig, TrainingConfig, InferenceConfig, ExecutionConfig)


def tables() -> dict[str, str]:
    """`{name: Markdown}` of every generated table."""
    generated = {cls.__name__: field_table(cls) for cls in CLASSES}
    generated["params.cfg"] = _table(
        ("key", "default"), [(_code(key), _code(repr(value))) for key, value in params.defaults().items()]
    )
    generated["bridge"] = _table(
        ("field", "key of `params.cfg`"), [(_code(field), _code(key)) for field, key in LEGACY_NAMES.items()]
    )
    return generated


def field_table(cls: type[Any]) -> str:
    """One row per field of `cls`: name, default, what is allowed, meaning."""
    rows = []
    for field in dataclasses.fields(cls):
        doc = field.metadata["doc"]
        if "rule" not in field.metadata:
            rows.append((_code(field.name), "`ModelConfig()`", "a ModelConfig", doc))
            continue
        default = str(field.default) if isinstance(field.default, Path) else repr(field.default)
        rows.append((_code(field.name), _code(default), field.metadata["rule"].text, doc))
    return _table(("field", "default", "allowed", "meaning"), rows)


def updated(page: str) -> str:
    """`page` with every table between its markers replaced by the generated one."""
    for name, table in tables().items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        if len(block.findall(page)) != 1:
            raise ValueError(f"{PAGE.name}: want {begin} ... {end} exactly once")
        page = block.sub(lambda _, text=f"{begin}\n{table}\n{end}": text, page)
    return page


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heading, ("---",) * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
