"""Precision, recall and F1 over the score, and the threshold of the best F1 of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ghmdet.files import replacing, write_table

from .coco_summary import format_table
from .matching import Matches

ALL = '(all)'
_POINTS = 1000
_LABELLED = 20  # more lines cannot be told apart
_KINDS = 'precision', 'recall', 'f1'


@dataclass(eq=False)
class Curve:
    """Counts of one class or of all, for each different score as the threshold, falling.

    Detections from the threshold up count, but those that match an ignored object.
    """

    objects: int  # to find
    score: np.ndarray  # float64 (k,)
    true: np.ndarray  # int64 (k,), true positives
    count: np.ndarray  # int64 (k,), detections

    @property
    def precision(self) -> np.ndarray:
        """Share of the detections that are true: float64 (k,)."""
        return self.true / self.count

    @property
    def recall(self) -> np.ndarray:
        """Share of the objects that are found: float64 (k,), nan without objects."""
        return self.true / (self.objects or np.nan)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of the two: float64 (k,), 0 without objects."""
        return 2 * self.true / (self.count + self.objects)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All four by name, the score as `threshold`."""
        return {'threshold': self.score} | {kind: getattr(self, kind) for kind in _KINDS}

    def find_best(self) -> dict[str, Any]:
        """Return the highest score at which F1 is highest, and the figures there.

        That is `threshold`, `precision`, `recall`, `f1`, all None if no detection is true; and
        `objects` and `detections`, the numbers of all.
        """
        best = int(self.f1.argmax()) if self.true.any() else None
        values = {k: None if best is None else float(v[best]) for k, v in self.columns.items()}
        return {**values, 'objects': self.objects, 'detections': int(self.count.max(initial=0))}


def make_curves(matches: Matches) -> dict[str, Curve]:
    """Return the curve of each class by name, and last, as `ALL`, that of all detections together.

    `matches` must have been made with a `score_thr` of 0, or below the scores of interest.
    """
    found, totals = matches.detections, matches.count_objects()
    order = np.argsort(-found.score)
    order = order[~found.ignored[order]]
    labels = found.label[order]
    chosen = {name: order[labels == label] for label, name in enumerate(matches.classes)}
    counts = [*totals.tolist(), int(totals.sum())]
    curves = {}
    for (name, indices), count in zip([*chosen.items(), (ALL, order)], counts, strict=True):
        score, true = found.score[indices], np.cumsum(found.is_true[indices])
        last = np.flatnonzero(np.diff(score, append=-np.inf))  # of each group of equal scores
        curves[name] = Curve(count, score[last], true[last], last + 1)
    return curves


def best_thresholds(curves: dict[str, Curve], iou_thr: float) -> dict[str, Any]:
    """Return the best threshold of each class, for JSON.

    The content is `iou_thr`, `classes`, by name what `Curve.find_best` returns, and `all`, the same
    for one threshold for all. A threshold is a score, not rounded; `score >= threshold` counts.
    """
    best = {name: curve.find_best() for name, curve in curves.items()}
    return {'iou_thr': iou_thr, 'all': best.pop(ALL), 'classes': best}


def format_thresholds(best: dict[str, Any]) -> str:
    """Return a table of what `best_thresholds` returns, 'n/a' for a class without a threshold."""
    rows = {name: [*row.values()] for name, row in {**best['classes'], ALL: best['all']}.items()}
    return format_table(['class', *best['all']], rows)


def write_curves(folder: Path, curves: dict[str, Curve]) -> None:
    """Write `curves.csv` and `curves.png` into a folder, which is created.

    Of a curve with many points 1,000 are written, evenly spread, and the best. In the picture a
    point is the best threshold; there is none if there is nothing to draw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Sequence] = [('class', 'threshold', *_KINDS)]
    for name, curve in curves.items():
        columns = [column[_choose_points(curve)].tolist() for column in curve.columns.values()]
        rows += [(name, *row) for row in zip(*columns, strict=True)]
    write_table(folder / 'curves.csv', rows)
    if any(curve.true.any() for curve in curves.values()):
        with replacing(folder / 'curves.png') as draft:
            draw_curves(curves).savefig(draft, dpi=120, format='png')


def write_recall_curves(
    folder: Path, arrays: dict[str, np.ndarray], iou: int, classes: Sequence[str]
) -> None:
    """Write `recall_curves.csv`: precision and score at the 101 recalls of which AP is the mean.

    `arrays` are COCOeval's, see `coco_summary`, `iou` is an index. Classes without objects are left
    out.
    """
    rows: list[Sequence] = [('class', 'recall', 'precision', 'score')]
    for label, name in enumerate(classes):
        columns = (arrays[key][iou, :, label, 0, -1].tolist() for key in ('precision', 'scores'))
        points = enumerate(zip(*columns, strict=True))
        rows += [(name, recall / 100, *point) for recall, point in points if point[0] >= 0]
    write_table(folder / 'recall_curves.csv', rows)


def draw_curves(curves: dict[str, Curve]) -> Figure:
    """Draw the three over the threshold, a line for each class that has objects, all in black."""
    figure = Figure(figsize=(15, 5), layout='constrained')
    shown = [name for name, curve in curves.items() if curve.objects and len(curve.score)]
    few, colors = len(shown) <= _LABELLED + 1, colormaps['tab20']
    for axes, kind in zip(figure.subplots(1, 3), _KINDS, strict=True):
        for number, name in enumerate(shown):
            curve, pooled = curves[name], name == ALL
            points, y = _choose_points(curve), getattr(curve, kind)
            color = 'black' if pooled else colors(number) if few else 'tab:blue'
            # Between two scores the counts are those of the higher one.
            axes.step(
                np.append(curve.score[points], 0),
                np.append(y[points], y[-1]),
                where='post',
                color=color,
                linewidth=2 if pooled else 1,
                alpha=1 if few or pooled else 0.3,
                label=name if few or pooled else '_',
            )
            if curve.true.any() and (few or pooled):
                best = curve.f1.argmax()
                axes.plot(curve.score[best], y[best], 'o', color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel='score threshold', ylabel=kind)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right upper')
    return figure


def _choose_points(curve: Curve) -> np.ndarray:
    """Return indices of points, the best one among them."""
    count = len(curve.score)
    spread = np.linspace(0, count - 1, min(_POINTS, count))
    return np.unique(np.append(spread, curve.f1.argmax() if count else []).astype(int))
