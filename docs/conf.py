"""How Sphinx makes the site of these pages: `make docs`. Why so: docs/decisions.

The pages are plain reStructuredText that reads well without Sphinx, too. So links between them are
links to files, and diagrams are pictures; both are turned into what a site needs here.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from gridmap import __version__  # noqa: E402

project = "GridMap"
author = "GridMap developers"
copyright = author
release = version = __version__

extensions = ["sphinx.ext.autodoc", "myst_parser"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
nitpicky = True
# Names of others, whose documents are not looked at, since a build needs no network.
nitpick_ignore_regex = [("py:.*", r"(?!gridmap\b).*")]
default_role = "py:obj"
highlight_language = "text"
smartquotes_action = "D"  # dashes only

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"GridMap {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Makes a link to a page's file a link to the page, and that to another file one to a copy.

    One that leads nowhere is a warning.
    """
    here = posixpath.dirname(app.env.docname)
    for link in list(doctree.findall(nodes.reference)):
        path = link.get("refuri", "")
        if not path or re.match(r"[\w.+-]+:|#", path):
            continue
        page, suffix = posixpath.splitext(posixpath.normpath(posixpath.join(here, path)))
        text = nodes.inline("", link.astext())
        if suffix in source_suffix:
            target: nodes.Element = addnodes.pending_xref("", text, refdomain="std", reftype="doc")
            target.update_all_atts({"reftarget": f"/{page}", "refdoc": app.env.docname})
            target.update_all_atts({"refexplicit": True, "refwarn": True})
        else:
            target = addnodes.download_reference("", "", text, reftarget=path, refdoc=path)
        link.replace_self(target)


def inline_diagrams(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Puts diagrams into the page itself, so that they take the colors that its reader chose."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        path = HERE / image["uri"]
        if path.parent.name == "diagrams":
            svg = f'<div class="diagram">{path.read_text()}</div>'
            image.replace_self(nodes.raw("", svg, format="html"))


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", link_files, priority=400)  # before copies are made
    app.connect("doctree-resolved", inline_diagrams)
