"""Precision, recall and F1 over the score, and the threshold of the best F1 of each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .coco_summary import format_table
from .matching import Matches

ALL = '(all)'


@dataclass(eq=False)
class Curve:
    """Counts of one class or of all, for each different score as the threshold, falling.

    A detection counts if its score is at least the threshold. One that matches an ignored object is
    left out.
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

    def find_best(self) -> dict[str, Any]:
        """Return the highest score at which F1 is highest, and the figures there.

        That is `threshold`, `precision`, `recall`, `f1`, all None if no detection is true; and
        `objects` and `detections`, the numbers of all.
        """
        best = int(self.f1.argmax()) if self.true.any() else None
        columns = dict(
            threshold=self.score, precision=self.precision, recall=self.recall, f1=self.f1
        )
        values = {k: None if best is None else float(v[best]) for k, v in columns.items()}
        count = int(self.count[-1]) if len(self.count) else 0
        return {**values, 'objects': self.objects, 'detections': count}


def make_curves(matches: Matches) -> dict[str, Curve]:
    """Return the curve of each class by name, and last, as `ALL`, that of all detections together.

    `matches` must have been made with a `score_thr` of 0, or below the scores of interest.
    """
    detections, objects = matches.detections, matches.count_objects()
    kept = np.flatnonzero(~detections.ignored)
    order = kept[np.lexsort((-detections.score[kept], detections.label[kept]))]
    ends = np.searchsorted(detections.label[order], np.arange(1, len(matches.classes)))
    curves = {
        name: _make_curve(matches, chosen, int(count))
        for name, chosen, count in zip(
            matches.classes, np.split(order, ends), objects.tolist(), strict=True
        )
    }
    order = kept[np.argsort(-detections.score[kept])]
    return curves | {ALL: _make_curve(matches, order, int(objects.sum()))}


def _make_curve(matches: Matches, order: np.ndarray, objects: int) -> Curve:
    score = matches.detections.score[order]
    true = np.cumsum(matches.detections.is_true[order])
    last = np.flatnonzero(np.diff(score, append=-np.inf))  # of each group of equal scores
    return Curve(objects, score[last], true[last], last + 1)


def best_thresholds(curves: dict[str, Curve], iou_thr: float) -> dict[str, Any]:
    """Return the best threshold of each class, for JSON.

    The content is `iou_thr`, `classes`, by name what `Curve.find_best` returns, and `all`, the same
    for one threshold for all classes. A threshold is a score as stored, not rounded; detections
    with `score >= threshold` count.
    """
    best = {name: curve.find_best() for name, curve in curves.items()}
    return {'iou_thr': iou_thr, 'all': best.pop(ALL), 'classes': best}


def format_thresholds(best: dict[str, Any]) -> str:
    """Return a table of what `best_thresholds` returns, 'n/a' for a class without a threshold."""
    rows = {**best['classes'], ALL: best['all']}
    header = ['class', *best['all']]
    return format_table(header, {name: list(row.values()) for name, row in rows.items()})
