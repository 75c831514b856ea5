"""Hooks of mkdocs: pages that lie outside of docs/, links between files, and the API reference.

Pages are written to be read in the repository. On the site, links to files that are no page of it,
such as tests, are shown as text.
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "experiments/RESULTS.md": "experiments.md",
    "experiments/NOTES.md": "notes.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
}
"""File of the repository -> page of the site."""
MODULES = ("models.py", "datasets.py")
"""Files at the root whose public names are the API reference."""
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside of docs/ and the API reference."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(REPOSITORY / source).read_text()))
    files.append(File.generated(config, "api.md", content=reference()))
    return files


def reference() -> str:
    """Return the page of the API reference: the interface, and the public names of `MODULES`."""
    blocks = ["# Python interface", "::: paraclap.inference.api.ParaCLAP"]
    for file in MODULES:
        tree = ast.parse((REPOSITORY / file).read_text())
        names = next(
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        )
        module = file.removesuffix(".py")
        blocks += [f"## {module}", *(f"::: {module}.{name}" for name in names)]
    return "\n\n".join(blocks) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links of the repository links of the site."""
    sources = {page: source for source, page in PAGES.items()}
    name = page.file.src_uri
    folder = posixpath.dirname(sources.get(name, f"docs/{name}"))
    return LINK.sub(lambda found: _link(*found.groups(), folder=folder), markdown)


def _link(image: str, text: str, target: str, folder: str) -> str:
    path, mark, anchor = target.partition("#")
    if "://" in target or not path:
        return f"{image}[{text}]({target})"
    path = posixpath.normpath(posixpath.join(folder, path))
    if path in PAGES:
        return f"{image}[{text}]({PAGES[path]}{mark}{anchor})"
    if path.startswith("docs/"):
        return f"{image}[{text}]({path.removeprefix('docs/')}{mark}{anchor})"
    return text
