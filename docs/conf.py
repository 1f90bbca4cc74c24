"""The documentation, built by Sphinx with MyST and furo: sphinx-build -W docs build/docs.

Nothing is loaded from elsewhere, neither when it is built nor when it is read.
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import generated

project = "csp_al"
author = "The csp_al developers"
copyright = author  # noqa: A001 - Sphinx's name
release = version_of("csp_al")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["conf.py"]
default_role = "code"  # as docstrings use single quotes
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Floats", "Ints", "Strings", "Bools")}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

html_theme = "furo"
html_title = "csp_al"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # pages that are opened as files cannot fetch others
html_theme_options = {"navigation_with_keys": True}


def setup(app: Any) -> None:
    """Let the code write its part of the reference."""
    app.connect("env-get-outdated", generated.stale)
    app.connect("source-read", generated.fill)
    app.connect("autodoc-process-docstring", generated.indented_is_code)
