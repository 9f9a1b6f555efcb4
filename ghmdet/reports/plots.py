"""What all charts share, and curves of trainings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure

from ghmdet.reports.logs import RunLog

COLORS = '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'
"""Colours that colour-blind people can tell apart (Okabe and Ito); lines also differ in style."""
LINE_STYLES = '-', '--', '-.', ':'
_MARKED = 30  # most points of a line that are marked; one alone would not be seen


def draw_curves(
    runs: Sequence[RunLog],
    keys: Sequence[str],
    by_epoch: bool = False,
    legend: Sequence[str] = (),
) -> Figure:
    """Draw logged values over iterations: losses in one panel, metrics of validations in another.

    Each other value has its own panel; of several runs each has a colour. `legend` has a text for
    each line: the keys of the first run, then of the next.

    Raises:
        ValueError: a run lacks a key, or with `by_epoch` the epochs.
    """
    texts, lines = iter(legend), list[tuple[str, int, str, list[float], list[float]]]()
    for index, run in enumerate(runs):
        length = run.epoch_length() if by_epoch else 1
        if length is None:
            raise ValueError(f'{run.name} has no epochs, an iteration-based run: draw iterations')
        for key in map(run.find_key, keys):
            numbers, values = run.column(key)
            is_loss = 'loss' in key and not key.startswith('ghm/')
            is_metric = any(key in record for record in run.val)
            panel = 'loss' if is_loss else 'validation' if is_metric else key
            text = next(texts, f'{key} ({run.name})' if len(runs) > 1 else key)
            lines.append((panel, index, text, [n / length for n in numbers], values))
    panels = list(dict.fromkeys(panel for panel, *_ in lines))
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(6 * (columns or 1), 4 * (rows or 1)), layout='constrained')
    axes = None
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number, sharex=axes)
        axes.set(xlabel='epoch' if by_epoch else 'iteration', ylabel=panel)
        counts = Counter[int]()
        for _, index, text, x, y in (line for line in lines if line[0] == panel):
            style = counts[index]
            counts[index] += 1
            finite = [value if math.isfinite(value) else math.nan for value in y]
            lost = sum(map(math.isnan, finite))
            axes.plot(
                x,
                finite,
                color=COLORS[(index if len(runs) > 1 else style) % len(COLORS)],
                linestyle=LINE_STYLES[(style + index) % len(LINE_STYLES)],
                marker='o' if len(x) <= _MARKED else None,
                markersize=3,
                # `$` would begin a formula.
                label=text.replace('$', r'\$') + (f', {lost} not finite' if lost else ''),
            )
        axes.legend(fontsize='small')
    return figure
