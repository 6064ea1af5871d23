"""How Sphinx builds these pages: `make docs`. It needs no network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP))

from agr import __version__  # noqa: E402

project = "agr"
author = "the agr authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
highlight_language = "none"  # of blocks that name no language: what programs print
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}  # a union of a dozen types

html_theme = "furo"
html_title = f"agr {__version__}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False

# Pages at the top of a checkout, and where this site has them.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "outputs/README.md": "reference/outputs.md",
}


def setup(app: Any) -> None:
    """Have links to pages outside of this folder lead to their copies on this site."""
    app.connect("source-read", _bring_home)


def _bring_home(app: Any, name: str, text: list[str]) -> None:
    up = "../" * (name.count("/") + 1)
    for path, page in ELSEWHERE.items():
        text[0] = text[0].replace(f"]({up}{path}", f"]({up[3:]}{page}")
