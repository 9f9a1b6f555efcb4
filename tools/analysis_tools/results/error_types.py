"""What kinds of errors a detector makes, and how much AP each of them costs (TIDE)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ghmdet.evaluation.matching import Matches

KINDS = ('Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'Miss')
DESCRIPTIONS = {
    'Cls': 'right place, wrong class',
    'Loc': 'right class, wrong place (IoU 0.1 to 0.5)',
    'Both': 'wrong class, wrong place',
    'Dupe': 'the object has another detection already',
    'Bkg': 'no object there (IoU up to 0.1)',
    'Miss': 'an object that none of these errors concerns',
    'FalsePos': 'all false detections',
    'FalseNeg': 'all objects that were not found',
}
_CLS, _LOC, _MISS = KINDS.index('Cls'), KINDS.index('Loc'), KINDS.index('Miss')
_HIGH, _LOW = 0.5, 0.1
_LIMIT = 100  # detections of an image
_RECALLS = np.arange(101) / 100


class ErrorTypes(NamedTuple):
    """The errors of d detections and o objects, in the order of the `Matches`.

    AP and dAP, what AP gains if one kind is corrected, are in points, from 0 to 100, or nan if
    there is no object to find. The dAPs do not add up.
    """

    kind: np.ndarray  # int64 (d,), index in `KINDS`; -1: true, ignored, or beyond the limit
    target: np.ndarray  # int64 (d,), of Cls and Loc: the object that was meant; else -1
    missed: np.ndarray  # bool (o,), of kind Miss
    ap50: float
    dap: dict[str, float]  # of the names of `DESCRIPTIONS`
    counts: np.ndarray  # int64 (6, classes), by class of the detection, of Miss by that of object


def find_errors(matches: Matches) -> ErrorTypes:
    """Find the errors of all detections, as the paper (Bolya et al., ECCV 2020) and tidecv 1.0.1.

    AP is that at IoU 0.5, over 101 recalls. TIDE differs from COCOeval: 100 detections count for
    each image, not for each image and class; the mean is over classes with objects or detections,
    so one without objects counts as 0; of equal scores a corrected error comes before a true
    detection. An object is corrected once, by the highest score that means it.

    This differs from tidecv: an image of more than 100 objects has as many detections, so the
    ground truth has no errors; a detection that matches a crowd region or an ignored box is no
    error (in tidecv it is counted, at no dAP); of different boxes with the same IoU a detection
    finds the last, as in COCOeval, not the first.

    Args:
        matches: at IoU 0.5, of all detections; its pairs from IoU 0.1.
    """
    found, objects, totals = matches.detections, matches.objects, matches.count_objects()
    by_image = np.lexsort((-found.score, found.image))
    rank = np.argsort(by_image)
    images = np.arange(len(matches.image_ids))
    limit = np.maximum(_LIMIT, np.bincount(objects.image, minlength=len(images)))
    counted = rank < (np.searchsorted(found.image, images) + limit)[found.image]
    correct = counted & found.is_true
    is_found = np.zeros(len(objects.label), bool)
    is_found[found.object[correct]] = True

    kind, target = _find_kinds(matches, counted & ~correct)
    # Of detections that mean the same object the one of the highest score is corrected.
    meant = by_image[target[by_image] >= 0]
    meant = meant[~is_found[target[meant]]]
    chosen, first = np.unique(target[meant], return_index=True)
    correction = np.full_like(target, -1)  # the object that a detection should have found
    correction[meant[first]] = chosen
    missed = ~objects.ignored & ~is_found
    missed[chosen] = False
    num_missed = np.bincount(objects.label[missed], minlength=len(totals))

    counted &= ~found.ignored  # of AP
    ap50 = _mean_ap(counted, correct, found.label, np.lexsort((rank, -found.score)), totals)
    rank += correct * len(rank)
    order, dap = np.lexsort((rank, -found.score)), {}
    for index, name in enumerate(KINDS):
        fixed = (correction >= 0) & (kind == index)
        label = np.where(fixed, np.append(objects.label, -1)[correction], found.label)
        objects_left = totals - num_missed * (index == _MISS)
        shown = (counted & (kind != index)) | fixed
        dap[name] = max(_mean_ap(shown, correct | fixed, label, order, objects_left) - ap50, 0.0)
    true_first = np.lexsort((rank, ~correct))
    dap['FalsePos'] = _mean_ap(counted, correct, found.label, true_first, totals) - ap50
    num_found = np.bincount(found.label[correct], minlength=len(totals))
    dap['FalseNeg'] = _mean_ap(counted, correct, found.label, order, num_found) - ap50
    if not totals.any():
        ap50, dap = float('nan'), dict.fromkeys(dap, float('nan'))

    kind[found.ignored] = target[found.ignored] = -1
    counts = np.zeros((len(KINDS), len(totals)), int)
    np.add.at(counts, (kind[kind >= 0], found.label[kind >= 0]), 1)
    counts[_MISS] = num_missed
    return ErrorTypes(kind, target, missed, ap50, dap, counts)


def _find_kinds(matches: Matches, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kind and target of the detections that are `wrong` (d,); -1 for the others."""
    found, objects = matches.detections, matches.objects
    of, to = matches.pair_detection, matches.pair_object
    used = np.flatnonzero(wrong[of] & ~objects.ignored[to])
    used = used[np.lexsort((-to[used], matches.pair_iou[used]))]  # the last of a detection stays
    same = (found.label[of] == objects.label[to]).astype(int)[used]
    best = np.zeros((2, len(wrong)))  # IoU with an object of another class, of the same class
    nearest = np.full((2, len(wrong)), -1)
    best[same, of[used]] = matches.pair_iou[used]
    nearest[same, of[used]] = to[used]
    # tidecv fills the first of equal boxes of a class first and takes it for the target, COCOeval
    # the last. In both, a false detection does not mean one that is free beside one that is found.
    key = np.column_stack([objects.image, objects.label, objects.ignored, objects.bbox])
    twins = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    last = np.zeros_like(twins)
    last[twins] = np.arange(len(twins))
    last_twin = np.append(last[twins], -1)
    # The first that applies counts.
    tests = {
        'Loc': (best[1] >= _LOW) & (best[1] <= _HIGH),
        'Cls': best[0] >= _HIGH,
        'Dupe': best[1] >= _HIGH,
        'Both': best[0] > _LOW,
    }
    kind = np.select([*tests.values()], [*map(KINDS.index, tests)], KINDS.index('Bkg'))
    target = np.select([kind == _CLS, kind == _LOC], [*last_twin[nearest]], -1)
    return np.where(wrong, kind, -1), np.where(wrong, target, -1)


def _mean_ap(
    shown: np.ndarray, is_true: np.ndarray, label: np.ndarray, order: np.ndarray, totals: np.ndarray
) -> float:
    """Return AP of the detections that are `shown` (d,), in an `order` (d,) of indices.

    The mean is over classes with such or objects; 100 if there are none, nothing being wrong.
    """
    chosen, aps = order[shown[order]], []
    labels, is_true = label[chosen], is_true[chosen]
    for i, total in enumerate(totals.tolist()):
        true = np.cumsum(is_true[labels == i])
        if len(true) or total:
            precision = true / np.arange(1, len(true) + 1)
            precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
            aps.append(precision[np.searchsorted(true / max(total, 1), _RECALLS)].mean())
    return 100 * float(np.mean(aps)) if aps else 100.0
