"""Precision, recall and F1 over the score, as a table and a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ghmdet.files import replacing

from .thresholds import ALL, Curve

_POINTS = 1000
_LABELLED = 20  # more lines cannot be told apart
_KINDS = 'precision', 'recall', 'f1'


def write_curves(folder: Path, curves: dict[str, Curve]) -> None:
    """Write `curves.csv` and `curves.png` into a folder, which is created.

    Of a curve with many points 1,000 are written, evenly spread, and the best. In the picture a
    point is the best threshold; there is none if there is nothing to draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / 'curves.csv') as draft, draft.open('w', newline='') as stream:
        writer = csv.writer(stream)
        writer.writerow(['class', 'threshold', *_KINDS])
        for name, curve in curves.items():
            chosen = _choose_points(curve)
            columns = [curve.score, *(getattr(curve, kind) for kind in _KINDS)]
            rows = zip(*(column[chosen].tolist() for column in columns), strict=True)
            writer.writerows([name, *row] for row in rows)
    if not any(curve.true.any() for curve in curves.values()):
        return
    with replacing(folder / 'curves.png') as draft:
        draw_curves(curves).savefig(draft, dpi=120, format='png')


def draw_curves(curves: dict[str, Curve]) -> Figure:
    """Draw the three over the threshold, a line for each class that has objects, all in black."""
    figure = Figure(figsize=(15, 5), layout='constrained')
    shown = [name for name, curve in curves.items() if curve.objects and len(curve.score)]
    few, colors = len(shown) <= _LABELLED + 1, colormaps['tab20']
    for axes, kind in zip(figure.subplots(1, 3), _KINDS, strict=True):
        for number, name in enumerate(shown):
            curve, chosen = curves[name], _choose_points(curves[name])
            # Between two scores the counts are those of the higher one.
            x, y = np.append(curve.score[chosen], 0), getattr(curve, kind)[chosen]
            pooled = name == ALL
            color = 'black' if pooled else colors(number) if few else 'tab:blue'
            (line,) = axes.plot(x, np.append(y, y[-1]), drawstyle='steps-post', color=color)
            line.set(linewidth=2 if pooled else 1, alpha=1 if few or pooled else 0.3)
            line.set_label(name if few or pooled else '_')
            if curve.true.any() and (few or pooled):
                best = curve.f1.argmax()
                axes.plot(curve.score[best], getattr(curve, kind)[best], 'o', color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel='score threshold', ylabel=kind)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper')
    return figure


def _choose_points(curve: Curve) -> np.ndarray:
    """Return indices of points, the best one among them."""
    spread = np.linspace(0, len(curve.score) - 1, min(_POINTS, len(curve.score)))
    best = [curve.f1.argmax()] if len(curve.score) else []
    return np.unique(np.append(spread, best).astype(int))
