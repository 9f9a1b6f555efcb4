"""The charts of the report, as SVG to stand inside a page of HTML."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure

from .plots import COLORS, LINE_STYLES

# The last colour, black, is that of all classes together.
STYLES = [(COLORS[i % 6], LINE_STYLES[i % 4]) for i in range(12)]
"""Colour and line style of the lines that one chart can have: 12 that differ."""
_NO_METADATA = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))  # addresses, and the time


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


def draw_lines(
    lines: Sequence[tuple[np.ndarray, np.ndarray, bool]], xlabel: str, ylabel: str
) -> Figure:
    """Draw lines x (k,), y (k,) within [0, 1] in the order of `STYLES`; the flag: black, thick."""
    figure = Figure(figsize=(5, 3.6), layout='constrained')
    axes, styles = figure.subplots(), iter(STYLES)
    for x, y, is_all in lines:
        color, style = (COLORS[-1], '-') if is_all else next(styles)
        axes.plot(x, y, color=color, linestyle=style, linewidth=2.2 if is_all else 1.3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure


def draw_sizes(sizes: np.ndarray, good: np.ndarray, anchors: np.ndarray) -> Figure:
    """Draw widths and heights (n, 2) of boxes, which of them have an anchor, and of anchors."""
    figure = Figure(figsize=(5, 4.2), layout='constrained', dpi=100)
    axes = figure.subplots()
    for chosen, color, label in (
        (good, COLORS[0], 'has an anchor'),
        (~good, COLORS[1], 'has none'),
    ):
        options: dict[str, Any] = dict(s=6, alpha=0.5, linewidths=0, rasterized=True)
        axes.scatter(*sizes[chosen].T, color=color, label=label, **options)
    axes.plot(*anchors.T, '+', color=COLORS[-1], markersize=8, label='anchor')
    axes.set(xscale='log', yscale='log', xlabel='width, pixels', ylabel='height, pixels')
    axes.legend(fontsize='small', markerscale=1.5)
    return figure


def draw_bins(counts: Mapping[str, np.ndarray]) -> Figure:
    """Draw the counts (bins,) of gradient norms of each loss as bars, on a log scale."""
    figure = Figure(figsize=(5 * len(counts), 3.4), layout='constrained')
    panels = np.atleast_1d(np.array(figure.subplots(1, len(counts))))
    for axes, (name, values) in zip(panels, counts.items(), strict=True):
        axes.bar(np.arange(len(values)), values, color=COLORS[0])
        axes.set(yscale='log', title=name, xlabel='bin of the gradient norm', ylabel='count')
    return figure
