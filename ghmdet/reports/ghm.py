"""Gradient norms of a model's entries, before and after GHM harmonises them, and their charts."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from ghmdet.losses.gradient_density import GradientDensityLoss
from ghmdet.reports.plots import COLORS, LINE_STYLES

_BIN = re.compile(r'ghm/(.+)/bin_(\d+)')
_MARKERS = 'os^vDP*X'
_LOSSES = {'loss_cls': 'GHM-C, classification', 'loss_bbox': 'GHM-R, boxes'}


class GradientCounts:
    """Entries of a loss by the norm of their gradient, counted and weighted by GHM's own code.

    Args:
        loss: of the model. A GHM loss, which is copied, counts in its bins, and weighs entries by
            its running counts as in eval mode: scaled to the entries of a call.
        default: counts in place of a `loss` of another type; with momentum 0, entries are weighed
            by the counts of their own call.
    """

    def __init__(self, loss: nn.Module, default: GradientDensityLoss) -> None:
        self.is_own = isinstance(loss, type(default))
        self.loss: Any = copy.deepcopy(loss if self.is_own else default).eval()
        self._levels: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def add(self, level: str, pred: Tensor, target: Tensor, weight: Tensor) -> None:
        """Count the entries of one call of the loss."""
        self.loss.bin_records = []
        self.loss(pred, target, weight)
        ((counts, weights),) = self.loss.bin_records
        target, weight = self.loss._prepare(pred, target, weight)
        norms = self.loss._gradient(pred.float(), target).abs()
        bins = self.loss._find_bins(norms, weight <= 0).flatten()
        gradients = {'smooth L1 (ASL1)': norms}
        if target.dim() < pred.dim():
            gradients = {'cross entropy': norms, 'focal loss': focal_gradient(norms, target)}
        sums = {'counts': counts.double(), 'harmonised': counts * weights.double()}
        for name, values in gradients.items():
            summed = torch.bincount(bins, values.flatten().double(), self.loss.bins + 1)
            sums[name] = summed[:-1]
        sums['GHM'] = sums[next(iter(gradients))] * weights
        found = self._levels.setdefault(level, {})
        for name, values in sums.items():
            found[name] = found.get(name, 0) + values.cpu()

    def content(self) -> dict[str, Any]:
        """Return the sums over all calls, as JSON: `counts` and `harmonised` have a row per level.

        `shares` are the sums of |dL/dx| of all levels, each loss divided by its total.
        """
        levels = list(self._levels.values())
        rows = {name: torch.stack([level[name] for level in levels]) for name in levels[0]}
        counts, harmonised = rows.pop('counts'), rows.pop('harmonised')
        totals = {name: row.sum(0) / max(row.sum().item(), 1e-12) for name, row in rows.items()}
        return {
            'own_loss': self.is_own,
            'momentum': self.loss.momentum,
            'acc_sum': self.loss.acc_sum.tolist() if self.loss.momentum else None,
            'edges': np.linspace(0, 1, self.loss.bins + 1).tolist(),
            'levels': list(self._levels),
            'counts': counts.long().tolist(),
            'harmonised': harmonised.tolist(),
            'shares': {name: row.tolist() for name, row in totals.items()},
        }


def focal_gradient(norms: Tensor, labels: Tensor) -> Tensor:
    """Return |dL/dx| (n, C) of focal loss, gamma 2 and alpha 0.25, from g = |p - target|.

    It is alpha_t g^2 (g - 2 (1 - g) ln(1 - g)); `labels` are (n,).
    """
    easy = 1 - norms
    value = norms**2 * (norms - 2 * torch.xlogy(easy, easy))
    positive = labels[:, None] == torch.arange(norms.size(1), device=labels.device)
    return value * torch.where(positive, 0.25, 0.75)


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
