"""Hooks of mkdocs.yml: notebooks are pages of the site, and no page asks the network for anything."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

FETCHED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"')


def as_markdown(notebook: dict[str, Any], name: str) -> str:
    """The cells in their order, and below the title a link to the notebook `name` itself."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        cells.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    title, _, rest = cells[0].partition("\n")
    return "\n\n".join([title, f"[The notebook to run]({name})", rest.strip(), *cells[1:]]) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """Add a page beside each notebook, which stays as a file to download."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = Path(str(file.abs_src_path))
        page = as_markdown(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=page))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that would load something from elsewhere."""
    if outside := FETCHED.findall(output):
        raise PluginError(f"{page.file.src_uri}: would load {', '.join(outside)}")
    return output
