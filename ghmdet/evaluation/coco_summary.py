"""From COCOeval's arrays to the numbers that are reported.

COCOeval's own summary knows no other detection limit than 100 for the overall mAP and no other IoU
thresholds than its ten; this one takes any. A number's place is an item: the array, then the index
on its IoU, its area and its max_dets axis. Precision is (IoU, recall, class, area, max_dets),
recall lacks the second axis; -1 fills what has no ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Item = tuple[str, int | slice, int, int]


def check_proposal_nums(proposal_nums: Sequence[int]) -> list[int]:
    """Return them in ascending order, as COCOeval keeps them."""
    if not proposal_nums or not all(isinstance(n, int) and n > 0 for n in proposal_nums):
        raise ValueError(
            f'CocoMetric: proposal_nums must be positive integers, got {proposal_nums!r}'
        )
    return sorted(proposal_nums)


def check_iou_thrs(iou_thrs: float | Sequence[float] | None) -> np.ndarray:
    """Return the thresholds (T,), COCO's ten where none are given."""
    if iou_thrs is None:
        return np.linspace(0.5, 0.95, 10)
    thresholds = np.atleast_1d(np.asarray(iou_thrs, dtype=np.float64))
    if thresholds.size == 0 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f'CocoMetric: iou_thrs must be within (0, 1], got {iou_thrs!r}')
    return thresholds


def check_metric_items(names: Sequence[str], items: dict[str, Item]) -> None:
    """Raise ValueError where a name is not among the `summary_items`."""
    for name in names:
        if name not in items:
            lost = name in ('mAP_50', 'mAP_75')
            hint = f'; it needs 0.{name[-2:]} among the iou_thrs' if lost else ''
            raise ValueError(
                f'CocoMetric: metric_items has {name!r}{hint}; valid names are {list(items)}'
            )


def summary_items(iou_thrs: np.ndarray, max_dets: Sequence[int]) -> dict[str, Item]:
    """Return the place of each number that these settings allow, by MMDetection's name.

    Args:
        iou_thrs: (T,) thresholds; `mAP_50`, `mAP_75` exist where 0.5, 0.75 are among them.
        max_dets: detections per image and class, ascending. `mAP` counts 100 where that is among
            them, else the most, as all others do.

    Example:
        >>> summary_items(np.array([0.5]), [10])['mAP_50']
        ('precision', 0, 0, -1)
        >>> list(summary_items(np.array([0.3]), [10]))
        ['mAP', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@10', 'AR_s@10', 'AR_m@10', 'AR_l@10']
    """
    all_ious, most = slice(None), max_dets[-1]
    overall = max_dets.index(100) if 100 in max_dets else -1
    items: dict[str, Item] = {'mAP': ('precision', all_ious, 0, overall)}
    for name, iou in (('mAP_50', 0.5), ('mAP_75', 0.75)):
        for index in np.flatnonzero(np.isclose(iou_thrs, iou))[:1].tolist():
            items[name] = ('precision', index, 0, -1)
    sizes = list(enumerate('sml', 1))
    items |= {f'mAP_{size}': ('precision', all_ious, area, -1) for area, size in sizes}
    items |= {f'AR@{n}': ('recall', all_ious, 0, i) for i, n in enumerate(max_dets)}
    items |= {f'AR_{size}@{most}': ('recall', all_ious, area, -1) for area, size in sizes}
    return items


def mean_value(arrays: dict[str, np.ndarray], item: Item) -> float:
    """Return the mean over all entries of an item that have ground truth, -1 where none has.

    Example:
        >>> recall = np.array([0.5, 1.0, -1.0]).reshape(1, 3, 1, 1)  # three classes
        >>> mean_value({'recall': recall}, ('recall', 0, 0, 0))
        0.75
    """
    name, iou, area, max_dets = item
    values = arrays[name][iou, ..., area, max_dets]
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def class_values(
    precision: np.ndarray, classes: Sequence[str], items: dict[str, Item]
) -> dict[str, list[float]]:
    """Return each class's value of each mAP item, nan where it has no ground truth.

    Args:
        precision: COCOeval's array, its class axis in the order of `classes`.
        classes: names in the order of the labels.
        items: of `summary_items`; recall is left out, max_dets is the most for all.
    """
    places = [(*item[:3], -1) for item in items.values() if item[0] == 'precision']
    values = {}
    for label, name in enumerate(classes):
        arrays = {'precision': precision[:, :, label]}
        means = (mean_value(arrays, place) for place in places)
        values[name] = [float('nan') if mean == -1 else mean for mean in means]
    return values


def format_table(header: Sequence[str], values: dict[str, list[float]]) -> str:
    """Return a plain text table with a row per entry, nan as 'n/a'.

    Example:
        >>> print(format_table(['category', 'mAP'], {'cat': [0.25], 'dog': [float('nan')]}))
        category  mAP
        cat       0.250
        dog       n/a
    """
    rows = [list(header)]
    rows += [
        [name, *('n/a' if np.isnan(number) else f'{number:.3f}' for number in numbers)]
        for name, numbers in values.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows)
