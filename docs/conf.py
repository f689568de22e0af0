"""How Sphinx makes the documentation: Markdown by MyST, the API from docstrings. ``scripts/docs`` runs it."""

from __future__ import annotations

import re
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

project = "smartedge"
author = "The smartedge authors"
copyright = "The smartedge authors, Apache-2.0"
version = release = installed("smartedge")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["conf.py"]
myst_heading_anchors = 3  # links to headings: page.md#heading

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"  # its fonts are those of the reader's system: a page loads nothing from elsewhere
html_title = "smartedge"
html_show_sphinx = False
html_copy_source = False

DOCS = Path(__file__).parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#]+)\)")
SHAPE = re.compile(r"(?<=[(, ])\*(?=[\w,])")  # docstrings have no emphasis
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$", re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Change pages as they are read."""
    app.connect("source-read", _for_the_site)
    app.connect("autodoc-process-docstring", _escape_shapes)


def _for_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """Say which blocks no test runs. Links to files that are not part of the documentation become their text."""
    folder = (DOCS / page).parent

    def shown(link: re.Match[str]) -> str:
        inside = (folder / link[2]).resolve().is_relative_to(DOCS)
        return link[0] if inside else link[1]

    text = NOT_RUN.sub(r"*The tests do not run these lines: \1.*", source[0])
    source[0] = LINK.sub(shown, text)


def _escape_shapes(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """The star of a shape such as (B, *F) begins no emphasis."""
    lines[:] = [SHAPE.sub(r"\\*", line) for line in lines]
