"""Configuration of the documentation site: Sphinx, MyST-NB and furo, without network access."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "docs" / "_extensions"))
# Executed pages run in a kernel of their own. It must import this checkout, on one thread.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

project = "world-env"
author = "The world-env contributors"
copyright = author
release = re.search(  # read as text: the build of a page imports the package only when it needs it
    r'__version__ = "(.+?)"', (ROOT / "world_env" / "__init__.py").read_text(encoding="utf-8")
)[1]
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "readable_docstrings",
    "generated_pages",
]
exclude_patterns = ["_build", "_extensions", "**/.jupyter_cache"]
root_doc = "index"

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 3

# "cache" executes a page when its code has changed since the last build, "force" always, "off" never.
nb_execution_mode = os.environ.get("DOCS_EXECUTE", "cache")
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
maximum_signature_line_length = 88
add_module_names = False
default_role = "code"
smartquotes = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "world-env"
html_static_path = ["_static"]
html_css_files = ["world-env.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "monokai"


def setup(app: Any) -> None:
    """Connect the hook below."""
    app.connect("source-read", _without_empty_toctree)


def _without_empty_toctree(app: Any, docname: str, source: list[str]) -> None:
    # The pages of docs/results are generated. Without any, the toctree would be a warning.
    if docname == "results" and not any((ROOT / "docs" / "results").glob("*.md")):
        source[0] = re.sub(r"```\{toctree\}.*?```\n", "", source[0], flags=re.S)
