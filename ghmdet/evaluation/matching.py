"""The one matching of detections and objects, as COCOeval's at one IoU threshold."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter

import numpy as np

from .coco_annotations import MAX_AREA, CocoAnnotations

_CELLS = 2**22  # of a matrix of IoUs
_MIN_IOU = 0.1  # of a pair, unless detections match from a lower one


@dataclass(eq=False)
class MatchedDetections:
    """The n detections from the score threshold up, image by image, in the order of the results.

    An index of an object is one in `MatchedObjects`, -1 for none.
    """

    image: np.ndarray  # int64 (n,), index of its image
    label: np.ndarray  # int64 (n,)
    score: np.ndarray  # float64 (n,)
    bbox: np.ndarray  # float64 (n, 4) x1, y1, x2, y2 in pixels of the original image
    object: np.ndarray  # int64 (n,), the object of its class that it found
    confused: np.ndarray  # int64 (n,), else the object of another class that it found
    iou: np.ndarray  # float64 (n,), with either, 0 without; with a crowd region the share inside
    ignored: np.ndarray  # bool (n,), `object` is ignored, so that it counts nowhere

    @property
    def is_true(self) -> np.ndarray:
        """Which are true positives: bool (n,)."""
        return (self.object >= 0) & ~self.ignored

    @property
    def is_false(self) -> np.ndarray:
        """Which are false positives: bool (n,)."""
        return self.object < 0


@dataclass(eq=False)
class MatchedObjects:
    """The m boxes of the ground truth, image by image, in the order of the annotation file.

    An index of a detection is one in `MatchedDetections`, -1 for none.
    """

    image: np.ndarray  # int64 (m,), index of its image
    label: np.ndarray  # int64 (m,)
    bbox: np.ndarray  # float64 (m, 4) x1, y1, x2, y2 in pixels of the original image
    detection: np.ndarray  # int64 (m,), the detection of its class that found it
    confused: np.ndarray  # int64 (m,), else the detection of another class that found it
    ignored: np.ndarray  # bool (m,), neither found nor missed: see `CocoMetric`
    is_crowd: np.ndarray  # bool (m,), ignored, and several detections can match it


@dataclass(eq=False)
class Matches:
    """Detections and objects of all images, and their p pairs with an IoU of at least 0.1.

    Pairs are of any classes, sorted by detection, then object, and have less IoU if `iou_thr` is
    lower. With a crowd region the IoU is the share of the detection inside it.
    """

    detections: MatchedDetections
    objects: MatchedObjects
    pair_detection: np.ndarray  # int64 (p,)
    pair_object: np.ndarray  # int64 (p,)
    pair_iou: np.ndarray  # float64 (p,)
    classes: tuple[str, ...]  # by label
    image_ids: list[Hashable]  # by index of the image
    iou_thr: float
    score_thr: float

    def count_objects(self) -> np.ndarray:
        """Return the number of objects to find of each class: int64 (classes,)."""
        labels = self.objects.label[~self.objects.ignored]
        return np.bincount(labels, minlength=len(self.classes))


def match(
    truth: CocoAnnotations,
    images: Sequence[Mapping],
    classes: Sequence[str],
    *,
    iou_thr: float = 0.5,
    score_thr: float = 0.0,
    count_all: bool = False,
) -> Matches:
    """Match detections with the objects of their class, then what is left across classes.

    Within a class as COCOeval does: by falling score (equal ones in the order of the results), each
    with the object of the highest IoU of those that are free, or with an ignored one if there is
    none. So the matches above any higher score threshold are the same. The rest by falling score
    too, with objects to find of other classes. No limit of detections per image.

    Args:
        truth: the annotation file; objects in other images than these do not count.
        images: dicts with `img_id`, `bboxes` (n, 4) x1, y1, x2, y2 in pixels of the original image,
            `scores` (n,) and `labels` (n,).
        classes: names, by label.
        iou_thr: from which a detection can match.
        score_thr: from which a detection counts.
        count_all: which boxes count, see `CocoAnnotations.ground_truth`.

    Raises:
        ValueError: a class is not in the file.
    """
    ids = [image['img_id'] for image in images]
    rows, _, _ = truth.ground_truth(truth.find_categories(classes), ids, count_all)
    rows.sort(key=itemgetter('image_id'))
    xywh = np.array([row['bbox'] for row in rows], np.float64).reshape(-1, 4)
    objects, found = _collect_objects(rows, xywh), _collect_detections(images, score_thr)
    parts = _find_pairs(found, objects, xywh, len(ids), min(_MIN_IOU, iou_thr))
    pairs = detection, object_, iou = [np.concatenate(part) for part in zip(*parts, strict=True)]
    # COCOeval accepts an IoU of 1 that has a rounding error.
    near = iou >= min(iou_thr, 1 - 1e-10)
    same = found.label[detection] == objects.label[object_]
    _assign(found.object, objects.detection, found, objects, pairs, near & same)
    found.ignored[:] = np.append(objects.ignored, False)[found.object]  # of -1: False
    free = (objects.detection < 0) & ~objects.ignored
    left = near & ~same & (found.object < 0)[detection] & free[object_]
    _assign(found.confused, objects.confused, found, objects, pairs, left)
    return Matches(found, objects, detection, object_, iou, tuple(classes), ids, iou_thr, score_thr)


def _collect_objects(rows: Sequence[Mapping], xywh: np.ndarray) -> MatchedObjects:
    image, label, crowd = (
        np.array([row[key] for row in rows], np.int64)
        for key in ('image_id', 'category_id', 'iscrowd')
    )
    area = np.array([row['area'] for row in rows], np.float64)
    bbox = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    ignored = (crowd > 0) | (area < 0) | (area > MAX_AREA)
    none = np.full(len(rows), -1)
    return MatchedObjects(image, label, bbox, none, none.copy(), ignored, crowd > 0)


def _collect_detections(images: Sequence[Mapping], score_thr: float) -> MatchedDetections:
    none = {'labels': np.zeros(0, np.int64), 'scores': np.zeros(0), 'bboxes': np.zeros((0, 4))}
    label, score, bbox = (
        np.concatenate([empty, *(np.asarray(image[key], empty.dtype) for image in images)])
        for key, empty in none.items()
    )
    image = np.repeat(np.arange(len(images)), [len(image['scores']) for image in images])
    counts = score >= score_thr
    image, label, score, bbox = (column[counts] for column in (image, label, score, bbox))
    object_, iou = np.full(len(score), -1), np.zeros(len(score))
    return MatchedDetections(image, label, score, bbox, object_, object_.copy(), iou, iou > 0)


def _find_pairs(
    found: MatchedDetections, objects: MatchedObjects, xywh: np.ndarray, images: int, min_iou: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield detection, object and IoU of all pairs that overlap enough, in parts."""
    yield np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    starts = [
        pairwise(np.searchsorted(image, np.arange(images + 1)).tolist())
        for image in (found.image, objects.image)
    ]
    for (first, last), (begin, end) in zip(*starts, strict=True):
        step = max(1, _CELLS // max(1, end - begin))
        for start in range(first, last, step):
            boxes = found.bbox[start : min(start + step, last)]
            iou = _compute_ious(boxes, xywh[begin:end], objects.is_crowd[begin:end])
            i, j = np.nonzero(iou >= min_iou)
            yield i + start, j + begin, iou[i, j]


def _compute_ious(found: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return (n, m) overlaps with boxes x, y, w, h, to the last bit those of COCOeval."""
    x, y, x2, y2 = found.T[:, :, None]
    w, h = x2 - x, y2 - y
    x_o, y_o, w_o, h_o = objects.T
    width = np.minimum(x + w, x_o + w_o) - np.maximum(x, x_o)
    height = np.minimum(y + h, y_o + h_o) - np.maximum(y, y_o)
    common = np.where((width > 0) & (height > 0), width * height, 0)
    union = np.where(crowd, w * h, w * h + w_o * h_o - common)
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def _assign(
    object_of: np.ndarray,
    detection_of: np.ndarray,
    found: MatchedDetections,
    objects: MatchedObjects,
    pairs: Sequence[np.ndarray],
    chosen: np.ndarray,
) -> None:
    """Match greedily among the chosen pairs; fill in `object_of`, `detection_of` and the IoU."""
    detection, object_, iou = (column[chosen] for column in pairs)
    # Of equal IoUs COCOeval takes the last object.
    keys = -object_, -iou, objects.ignored[object_], detection, -found.score[detection]
    order, crowd = np.lexsort(keys), objects.is_crowd.tolist()
    of_detection, of_object, ious = object_of.tolist(), detection_of.tolist(), found.iou.tolist()
    columns = (column[order].tolist() for column in (detection, object_, iou))
    for i, j, overlap in zip(*columns, strict=True):
        if of_detection[i] < 0 and (of_object[j] < 0 or crowd[j]):
            of_detection[i], of_object[j], ious[i] = j, i, overlap
    object_of[:], detection_of[:], found.iou[:] = of_detection, of_object, ious
