"""Sphinx settings of the documentation: `make docs`."""

import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from ghmdet.version import __version__  # noqa: E402

project = 'ghmdet'
release = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['results']
highlight_language = 'bash'  # of blocks that name none: commands
html_theme = 'furo'
html_title = f'ghmdet {release}'
html_show_sphinx = html_copy_source = False
myst_heading_anchors = 3
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_preserve_defaults = True
add_module_names = False
default_role = 'code'  # of `x` in docstrings


def link_files(app, name, source):
    """Turn links to files outside of docs/ into downloads: MyST expects a page there."""
    page = DOCS / name

    def replace(match):
        target = (page.parent / match[1]).resolve()
        outside = target.exists() and not target.is_relative_to(DOCS)
        return f'](path:{match[1]})' if outside else match[0]

    source[0] = re.sub(r'\]\(((?!http|#)[^)#]+)(#[^)]*)?\)', replace, source[0])


def setup(app):
    """Register `link_files`."""
    app.connect('source-read', link_files)
