"""Charts of the gradient norms that the GHM losses count, before and after harmonising."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from ghmdet.reports.plots import COLORS, LINE_STYLES

_BIN = re.compile(r'ghm/(.+)/bin_(\d+)')
_MARKERS = 'os^vDP*X'
_LOSSES = {'loss_cls': 'GHM-C, classification', 'loss_bbox': 'GHM-R, boxes'}


def draw_densities(content: Mapping[str, Any]) -> Figure:
    """Draw what `ghm_report.json` holds: a row for each loss that has entries.

    Left is the density (entries per unit of the gradient norm) of each level, in the middle that of
    all before and after harmonising, right the share of the total gradient. A second model, for
    which the levels are left out, has dashed lines.
    """
    models = content['models']
    keys = [key for key in _LOSSES if any(np.any(model[key]['counts']) for model in models)]
    figure = Figure(figsize=(15, 4.5 * len(keys)), layout='constrained')
    for key, panels in zip(keys, figure.subplots(len(keys), 3, squeeze=False), strict=True):
        for number, part in enumerate(model[key] for model in models):
            bins = len(part['edges']) - 1
            before, after = (np.sum(part[name], 0) * bins for name in ('counts', 'harmonised'))
            levels = [] if number else zip(part['levels'], part['counts'], strict=True)
            lines = {'all': before, **{name: np.multiply(row, bins) for name, row in levels}}
            _draw_lines(panels[0], lines, number)
            _draw_lines(panels[1], {'before': before, 'after harmonising': after}, number)
            _draw_lines(panels[2], part['shares'], number)
        for axes in panels[:2]:
            axes.set(yscale='log', ylabel='density, entries per unit of the norm')
        panels[2].set(ylabel='share of the total gradient', ylim=(0, None))
        for axes in panels:
            axes.set(title=_LOSSES[key], xlabel='gradient norm', xlim=(0, 1))
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    return figure


def _draw_lines(axes: Axes, lines: Mapping[str, Any], number: int) -> None:
    """Draw values of bins, without those of 0; `number` is that of the model."""
    for i, (name, values) in enumerate(lines.items()):
        values = np.array(values, float)
        axes.plot(
            (np.arange(len(values)) + 0.5) / len(values),
            np.where(values > 0, values, np.nan),
            LINE_STYLES[number],
            color=COLORS[i % len(COLORS)],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4,
            label=name + (' (compared)' if number else ''),
        )


def draw_history(records: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the counts of the bins over the iterations, a panel for each loss.

    `records` are what `GHMStatsHook` writes, with `iter`. White is no entry, or no record.

    Raises:
        ValueError: no record has counts.
    """
    found = [match for record in records for key in record if (match := _BIN.fullmatch(key))]
    if not found:
        raise ValueError('no record has counts of a GHM loss, such as ghm/loss_cls/bin_00')
    names = list(dict.fromkeys(match[1] for match in found))
    figure = Figure(figsize=(12, 3 * len(names)), layout='constrained')
    for name, axes in zip(names, figure.subplots(len(names), squeeze=False).flat, strict=True):
        bins = 1 + max(int(match[2]) for match in found if match[1] == name)
        keys = [f'ghm/{name}/bin_{i:02}' for i in range(bins)]
        used = [record for record in records if any(key in record for key in keys)]
        steps = [record['iter'] for record in used]
        steps.append(steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1))
        counts = np.array([[record.get(key, 0) for record in used] for key in keys], float)
        mesh = axes.pcolormesh(
            steps,
            np.linspace(0, 1, bins + 1),
            np.ma.masked_less(counts, 1),
            norm=LogNorm(1, max(2, counts.max())),
            cmap='cividis',
            rasterized=True,
        )
        figure.colorbar(mesh, ax=axes, label='entries')
        axes.set(title=name, xlabel='iteration', ylabel='gradient norm')
    return figure
