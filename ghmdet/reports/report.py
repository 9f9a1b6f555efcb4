"""The page of a report: HTML without scripts, and charts to stand in it."""

from __future__ import annotations

import io
import re
import time
import warnings
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

from ghmdet.files import replacing
from ghmdet.version import __version__

_FOLDER = Path(__file__).parent
_NO_METADATA = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))  # addresses, and the time


def write_page(file: Path, template: Path = _FOLDER / 'report.html.j2', **values: Any) -> None:
    """Write a template with these values; all text in them is escaped.

    The template may include those beside this module.
    """
    pages = Environment(
        loader=FileSystemLoader([template.parent, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters['svg'] = to_svg
    today = time.strftime('%Y-%m-%d')
    page = pages.get_template(template.name).render(version=__version__, today=today, **values)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:  # names of files need not be text
        draft.write_bytes(page.encode(errors='backslashreplace'))


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Return an `svg` element without metadata and outside addresses; its text stays text.

    `name` begins the ids in it, so that several charts can stand in one page.
    """
    stream = io.StringIO()
    with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': name}), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # the browser has other fonts
        figure.savefig(stream, format='svg', metadata=_NO_METADATA)
    text = stream.getvalue()
    text = text[text.index('<svg') :]
    text = re.sub('<[^>]*>', lambda tag: _shorten_tag(tag[0], name), text)
    return Markup(text.replace('<svg', f'<svg role="img" aria-label="{escape(alt)}"', 1))


def _shorten_tag(tag: str, name: str) -> str:
    tag = re.sub(r'\b(id="|url\(#|href="#)', rf'\g<1>{name}-', tag)
    return re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', '', tag)
