"""From COCOeval's arrays to the numbers that are reported.

COCOeval's own summary is limited to 100 detections for the overall mAP and to ten IoU thresholds;
this one is not. An `Item` says where a number is: the array, then the indices on its IoU, area and
max_dets axes. Precision, and the score at which its recall is reached, are (IoU, recall, class,
area, max_dets), recall has no second axis; values without ground truth are -1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

Item = tuple[str, int | slice, int, int]


def check_limits(limits: int | Sequence[int], name: str, metric: str = 'CocoMetric') -> list[int]:
    """Return them in ascending order, as COCOeval keeps them; `name` is that of the argument."""
    many = [limits] if isinstance(limits, int) else limits
    good = isinstance(many, Sequence) and all(isinstance(n, int) and n > 0 for n in many)
    if not good or not many:
        raise ValueError(f'{metric}: {name} must be positive integers, got {limits!r}')
    return sorted(set(many))


def check_iou_thrs(
    iou_thrs: float | Sequence[float] | None, metric: str = 'CocoMetric'
) -> np.ndarray:
    """Return the thresholds (T,), COCO's ten where none are given."""
    if iou_thrs is None:
        return np.linspace(0.5, 0.95, 10)
    thresholds = np.atleast_1d(np.asarray(iou_thrs, dtype=np.float64))
    if thresholds.size == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f'{metric}: iou_thrs must be within (0, 1], got {iou_thrs!r}')
    return thresholds


def check_metric_items(names: Sequence[str], items: dict[str, Item]) -> None:
    """Raise ValueError where a name is not among the `summary_items`."""
    for name in (name for name in names if name not in items):
        threshold = re.fullmatch(r'mAP_(\d+(\.\d+)?)', name)
        hint = f'; it needs {float(threshold[1]) / 100:g} among the iou_thrs' if threshold else ''
        raise ValueError(
            f'CocoMetric: metric_items has {name!r}{hint}; valid names are {list(items)}'
        )


def summary_items(
    iou_thrs: np.ndarray, max_dets: Sequence[int], overall: int | None = None
) -> dict[str, Item]:
    """Return the item of each number that these settings allow, by MMDetection's name.

    Args:
        iou_thrs: (T,) thresholds; each has its item, 0.5 is `mAP_50`.
        max_dets: limits of detections per image and class, ascending.
        overall: that for `mAP`; None is 100 if that is one of them, else the largest, which the
            other items use.
    """
    all_ious, most = slice(None), max_dets[-1]
    overall = max_dets.index(overall or 100) if (overall or 100) in max_dets else -1
    items: dict[str, Item] = {'mAP': ('precision', all_ious, 0, overall)}
    for index, iou in enumerate(iou_thrs.tolist()):
        items.setdefault(f'mAP_{100 * iou:.6g}', ('precision', index, 0, -1))
    sizes = list(enumerate('sml', 1))
    items |= {f'mAP_{size}': ('precision', all_ious, area, -1) for area, size in sizes}
    items |= {f'AR@{n}': ('recall', all_ious, 0, i) for i, n in enumerate(max_dets)}
    items |= {f'AR_{size}@{most}': ('recall', all_ious, area, -1) for area, size in sizes}
    return items


def default_names(items: dict[str, Item], given_thrs: bool) -> dict[str, list[str]]:
    """Return the `summary_items` of 'mAP' and of 'AR' that are reported by default.

    These are all where the IoU thresholds were given; of COCO's ten, 0.5 and 0.75 are reported.
    """
    hidden = () if given_thrs else {f'mAP_{n}' for n in range(100)} - {'mAP_50', 'mAP_75'}
    shown = [name for name in items if name not in hidden]
    return {kind: [name for name in shown if name.startswith(kind)] for kind in ('mAP', 'AR')}


def mean_value(arrays: dict[str, np.ndarray], item: Item) -> float:
    """Return the mean over all entries of an item that have ground truth, -1 where none has."""
    name, iou, area, max_dets = item
    values = arrays[name][iou, ..., area, max_dets]
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def class_values(
    precision: np.ndarray, classes: Sequence[str], items: dict[str, Item]
) -> dict[str, list[float]]:
    """Return each item of precision for each class, at the largest max_dets, nan for no objects."""
    values = {}
    for label, name in enumerate(classes):
        arrays = {'precision': precision[:, :, label]}
        means = (mean_value(arrays, (*item[:3], -1)) for item in items.values())
        values[name] = [float('nan') if mean == -1 else mean for mean in means]
    return values


def format_table(header: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> str:
    """Return a plain text table with a row per entry, nan and None as 'n/a', counts as they are."""
    rows = [[str(word) for word in header]]
    for name, numbers in values.items():
        rows.append([name, *map(_format_number, numbers)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _format_number(number: float | None) -> str:
    if number is None or np.isnan(number):
        return 'n/a'
    return f'{number:,}' if isinstance(number, int) else f'{number:.3f}'
