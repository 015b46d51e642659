"""Shows each notebook of `notebooks/` as a page of the site: a hook of mkdocs.yml."""

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


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
