"""What a report shows of detections: classes, confusions, kinds of error, the worst images."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from confusion_matrix import count_pairs
from matplotlib.figure import Figure
from results.error_types import DESCRIPTIONS, KINDS, find_errors
from results.image_scores import score_images

from ghmdet.evaluation.coco_annotations import CocoAnnotations
from ghmdet.evaluation.matching import Matches
from ghmdet.evaluation.thresholds import ALL, Curve
from ghmdet.reports.plots import COLORS, LINE_STYLES
from ghmdet.visualization.marked_pictures import WRONG, Mark, Pictures, mark_image

_SIDES = 360, 480  # pixels of the longer side of a picture
_PICTURES, _LISTED = 12, 10  # images, and errors named in each
_CELLS = 20  # classes of a matrix that is shown as a whole, and confusions listed
_POINTS = 200  # of a line
_STYLES = [(COLORS[i % 6], LINE_STYLES[i % 4]) for i in range(12)]  # all differ; black is for all


def _draw_lines(
    lines: Sequence[tuple[np.ndarray, np.ndarray, bool]], xlabel: str, ylabel: str
) -> Figure:
    """Draw lines x (k,), y (k,) within [0, 1]; the flag: thick and black."""
    figure = Figure(figsize=(5, 3.6), layout='constrained')
    axes, styles = figure.subplots(), iter(_STYLES)
    for x, y, is_all in lines:
        color, style = (COLORS[-1], '-') if is_all else next(styles)
        axes.plot(x, y, color=color, linestyle=style, linewidth=2.2 if is_all else 1.3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return figure


def list_classes(
    curves: Mapping[str, Curve], columns: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return the figures of each class and last of all, and charts with the largest classes.

    Args:
        curves: as `make_curves` returns them.
        columns: further figures by name, in the same order; below 0 or nan is shown as none.
    """
    rows = []
    for index, (name, curve) in enumerate(curves.items()):
        best = curve.find_best()
        row: dict[str, Any] = {key: values[index] for key, values in columns.items()}
        row |= dict(best, name=name, found=0, false=0)
        if best['threshold'] is not None:
            at = curve.f1.argmax()
            row |= dict(found=int(curve.true[at]), false=int(curve.count[at] - curve.true[at]))
        rows.append(row)
    order = sorted(curves.items(), key=lambda item: -item[1].objects)
    shown = [(name, curve) for name, curve in order if curve.true.any()][: len(_STYLES) + 1]
    precision, f1 = [], []
    for name, curve in shown:
        spread = np.geomspace(1, len(curve.score), _POINTS) - 1  # few objects have high scores
        points = np.unique(np.append(spread, curve.f1.argmax()).astype(int))
        precision.append((curve.recall[points], curve.precision[points], name == ALL))
        f1.append((curve.score[points], curve.f1[points], name == ALL))
    legend = zip((name for name, _ in shown if name != ALL), _STYLES, strict=False)
    figures = _draw_lines(precision, 'recall', 'precision'), _draw_lines(f1, 'threshold', 'F1')
    return dict(rows=rows, figures=figures if shown else (), legend=list(legend))


def count_confusions(matches: Matches) -> dict[str, Any]:
    """Return the matrix of few classes with the shares of its rows, and the largest confusions."""
    counts, names = count_pairs(matches), [*matches.classes, 'background']
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    others = counts[:-1, :-1] * (1 - np.eye(len(matches.classes), dtype=int))
    largest = np.argsort(-others, axis=None, kind='stable')[:_CELLS].tolist()
    pairs = [divmod(index, len(others)) for index in largest if others.flat[index]]
    listed = [(names[i], names[j], int(counts[i, j]), float(shares[i, j])) for i, j in pairs]
    shown = counts.any() and len(names) <= _CELLS + 1
    rows = np.stack([counts, shares], axis=-1).tolist() if shown else []
    return dict(names=names, rows=rows, listed=listed)


def count_errors(matches: Matches) -> dict[str, Any]:
    """Return name, meaning, count and dAP of each kind of error, and AP; see `find_errors`."""
    errors = find_errors(matches)
    counts = dict(zip(KINDS, errors.counts.sum(axis=1).tolist(), strict=True))
    kinds = [(key, text, counts.get(key), errors.dap[key]) for key, text in DESCRIPTIONS.items()]
    return dict(kinds=kinds, ap50=errors.ap50)


def draw_images(matches: Matches, truth: CocoAnnotations, img_dir: Path | None) -> dict[str, Any]:
    """Draw the images of the lowest F1, with the number of all that have an error.

    Raises:
        ValueError: none of these images can be read.
    """
    scores = [each for each in score_images(matches, truth) if each.f1 < 1]
    pictures, shown = Pictures(img_dir), []
    for score in scores[:_PICTURES]:
        marks = mark_image(matches, matches.image_ids.index(score.image_id))
        (objects, missed), (detections, false) = map(_number_errors, marks)
        panels = pictures.make_panels(score.file_name, objects, detections, _SIDES)
        if panels is not None:
            shown.append((score, list(zip(map(_to_uri, panels), (missed, false), strict=True))))
    if pictures.faults and not shown:
        raise ValueError(f'{pictures.faults[0]}; --data-root DIR names the folder of the data')
    return dict(shown=shown, count=len(scores), listed=_LISTED)


def _number_errors(marks: Sequence[Mark]) -> tuple[list[Mark], list[str]]:
    """Put numbers in place of the texts, which OpenCV cannot write in every script."""
    wrong = [mark for mark in reversed(marks) if mark.color == WRONG]  # the highest scores first
    numbers = {id(mark): str(n) for n, mark in enumerate(wrong[:_LISTED], 1)}
    drawn = [mark._replace(text=numbers.get(id(mark), '')) for mark in marks]
    return drawn, [mark.text for mark in wrong]


def _to_uri(picture: np.ndarray) -> tuple[str, int, int]:
    """Return the address of an RGB picture that contains it, its width and height."""
    _, content = cv2.imencode('.jpg', picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    height, width = picture.shape[:2]
    return f'data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}', width, height
