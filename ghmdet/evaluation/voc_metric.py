"""Pascal VOC's average precision, and the recall of boxes without their classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from ghmdet.registry import METRICS

from .coco_annotations import truth_of_sample
from .coco_summary import check_iou_thrs, check_limits, format_table
from .image_results import ImageResults, unique_images

_MODES = {'VOC2007': '11points', 'VOC2012': 'area'}
# MMDetection's: 0.3 is 0.30000000000000004 here, which 3 of 10 objects do not reach.
_POINTS = np.arange(0, 1 + 1e-3, 0.1)


@METRICS.register_module()
class VOCMetric(ImageResults):
    """Average precision by the rules of VOC's devkit, for boxes in pixels of the original image.

    The ground truth is that of the samples. Widths and heights are `x2 - x1 + 1`. In the order of
    scores (equal ones as they are in the results; MMDetection's order of these is not defined), a
    detection takes the object of its class and image with the highest IoU, if that reaches the
    threshold: the first is a true positive, further ones are false positives; those of an object
    to ignore (`difficult`) do not count.

    Values are at full precision, where MMDetection rounds `AP50` to three digits. A class without
    objects is nan, 'n/a' in the table, and not in the means; without any object all are nan.

    Args:
        iou_thrs: one threshold in (0, 1] or several: 0.5 as `AP50`, their mean as `mAP`.
        scale_ranges: only None; MMDetection fails with any.
        metric: 'mAP', or 'recall' for `recall@100@0.5`, the share of objects found by the 100 best
            detections of an image, of any class (MMDetection: of the first class), each taking one
            object, the highest IoU first; with several thresholds also the mean, `AR@100`.
        proposal_nums: limits of detections per image for 'recall'.
        eval_mode: '11points', the mean of the highest precisions at recalls of at least 0, 0.1,
            ..., 1 (VOC2007), or 'area' below the curve of precision over recall (VOC2012).
        collect_device: accepted for MMDetection's configs, not used, see `ImageResults`.
        prefix: put before each key; None is `pascal_voc`.

    Raises:
        ValueError: an argument is not as described above.
    """

    default_prefix = 'pascal_voc'
    reads_samples = True
    format_only = False

    def __init__(
        self,
        iou_thrs: float | Sequence[float] = 0.5,
        scale_ranges: None = None,
        metric: str | Sequence[str] = 'mAP',
        proposal_nums: int | Sequence[int] = (100, 300, 1000),
        eval_mode: str = '11points',
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        name = metric if isinstance(metric, str) else ', '.join(map(str, metric))
        for key, value, valid in (
            ('metric', name, ('mAP', 'recall')),
            ('eval_mode', eval_mode, ('11points', 'area')),
            ('scale_ranges', scale_ranges, (None,)),
        ):
            if value not in valid:
                raise ValueError(f'VOCMetric: {key} must be one of {valid}, got {value!r}')
        self.metric, self.eval_mode = name, eval_mode
        self.iou_thrs = check_iou_thrs(0.5 if iou_thrs is None else iou_thrs, 'VOCMetric').tolist()
        self.proposal_nums = check_limits(proposal_nums, 'proposal_nums', 'VOCMetric')

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        """Set the dataset's metainfo, of which `classes` and `dataset_type` are used."""
        self._dataset_meta = dataset_meta
        kind = dataset_meta.get('dataset_type')
        usual = _MODES.get(str(kind), self.eval_mode)
        if usual != self.eval_mode and self.metric == 'mAP':
            _warn(f'{kind} is usually measured by eval_mode={usual!r}, not {self.eval_mode!r}')

    def result_keys(self) -> list[str]:
        """Names of the values that an evaluation returns."""
        return [f'{self.prefix}/{name}' for name in self._names()]

    def _names(self) -> list[str]:
        if self.metric == 'recall':
            average = [f'AR@{n}' for n in self.proposal_nums] if len(self.iou_thrs) > 1 else []
            pairs = product(self.proposal_nums, self.iou_thrs)
            return [*(f'recall@{n}@{thr}' for n, thr in pairs), *average]
        return ['mAP', *(f'AP{100 * thr:02.6g}' for thr in self.iou_thrs)]

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep detections (see `read_detections`) and ground truth of one batch on the CPU."""
        for sample in data_samples:
            result = self.read_detections(sample, len(self._dataset_meta['classes']))
            result['truth'] = truth_of_sample(sample, 'VOCMetric')
            self.results.append(result)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Evaluate what `process` kept, each image once; the values are without the prefix."""
        images = unique_images(results)
        if all(image['truth']['crowds'].all() for image in images):
            _warn('there is no object to find, so all metrics are n/a (nan)')
            return dict.fromkeys(self._names(), float('nan'))
        values = self._recalls(images) if self.metric == 'recall' else self._precisions(images)
        return dict(zip(self._names(), values, strict=True))

    def _recalls(self, images: Sequence[dict]) -> list[float]:
        found = np.stack(
            [np.concatenate([_match_all(image, n) for image in images]) for n in self.proposal_nums]
        )
        recalls = (found[..., None] >= np.float32(self.iou_thrs)).mean(axis=1)
        average = recalls.mean(axis=1).tolist() if len(self.iou_thrs) > 1 else []
        return [*recalls.ravel().tolist(), *average]

    def _precisions(self, images: Sequence[dict]) -> list[float]:
        """Average precisions in the order of the names; log the table of classes."""
        rows: dict[str, list[float | None]] = {}
        found = _join(images, 'scores')
        truth = _join([image['truth'] for image in images], 'crowds')
        values = []
        for label, name in enumerate(self._dataset_meta['classes']):
            mine, theirs = (
                [column[part[0] == label] for column in part] for part in (found, truth)
            )
            one_class = _ClassEvaluation(mine[1:], theirs[1:])
            values.append([one_class.ap(thr, self.eval_mode) for thr in self.iou_thrs])
            rows[str(name)] = [int((~theirs[-1]).sum()), len(mine[0]), *values[-1]]
        means = [_mean(column) for column in zip(*values, strict=True)]
        rows['mean'] = [None, None, *means]
        table = format_table(['class', 'objects', 'detections', *self._names()[1:]], rows)
        print_log(f'VOCMetric, {self.eval_mode}:\n{table}', 'current')
        return [_mean(means), *means]


def _join(images: Sequence[dict], last: str) -> list[np.ndarray]:
    """Join the labels of images, the index of each label's image, the boxes and another array."""
    counts = [len(image['labels']) for image in images]
    labels, bboxes, others = (
        np.concatenate([image[key] for image in images]) for key in ('labels', 'bboxes', last)
    )
    return [labels, np.repeat(np.arange(len(images)), counts), bboxes, others]


class _ClassEvaluation:
    """The detections of one class by falling score, each with the object of highest IoU."""

    def __init__(self, found: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> None:
        (owners, bboxes, scores), (truth_owners, truth_bboxes, ignored) = found, truth
        order = np.lexsort((ignored, truth_owners))  # as in MMDetection, for equal IoU
        truth_bboxes, self.ignored = truth_bboxes[order].astype(np.float32), ignored[order]
        by_score = np.argsort(-scores, kind='stable')
        bboxes, owners = bboxes[by_score], owners[by_score]
        counts = np.bincount(truth_owners, minlength=owners.max(initial=0) + 1)
        starts, counts = (counts.cumsum() - counts)[owners], counts[owners]
        detection = np.repeat(np.arange(len(owners)), counts)  # of each pair with an object
        firsts = counts.cumsum() - counts
        matches = np.arange(len(detection)) - (firsts - starts)[detection]
        ious = _legacy_ious(bboxes[detection], truth_bboxes[matches])
        self.iou, self.match = np.full(len(owners), -1, np.float32), np.zeros(len(owners), int)
        best = np.lexsort((matches, -ious, detection))[firsts[counts > 0]]
        self.iou[counts > 0], self.match[counts > 0] = ious[best], matches[best]

    def ap(self, iou_thr: float, mode: str) -> float:
        """Return the average precision, nan without an object to find."""
        count = int((~self.ignored).sum())
        if not count:
            return float('nan')
        hit = self.iou >= np.float32(iou_thr)
        # Without any object in its image, a detection has hit none.
        takes = np.flatnonzero(hit)[~self.ignored[self.match[hit]]]
        true = np.zeros(len(hit), bool)
        true[takes[np.unique(self.match[takes], return_index=True)[1]]] = True
        false = ~hit
        false[takes] = ~true[takes]
        recalls = true.cumsum() / count
        precisions = true.cumsum() / np.maximum(true.cumsum() + false.cumsum(), 1)
        # The highest precision at this recall or above, and 0 above the last.
        highest = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0)
        if mode == '11points':
            return float(highest[recalls.searchsorted(_POINTS)].mean())
        return float((np.diff(recalls, prepend=0) * highest[:-1]).sum())


def _match_all(image: dict, limit: int) -> np.ndarray:
    """IoU of each object with its detection: the pair of highest IoU first, each detection once."""
    best = np.argsort(-image['scores'], kind='stable')[:limit]
    bboxes = image['truth']['bboxes'][~image['truth']['crowds']].astype(np.float32)
    ious = _legacy_ious(bboxes[:, None], image['bboxes'][best][None])
    found = np.zeros(len(bboxes), np.float32)
    for _ in range(min(ious.shape)):
        i, j = np.unravel_index(ious.argmax(), ious.shape)
        found[i] = ious[i, j]
        ious[i], ious[:, j] = -1, -1
    return found


def _legacy_ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes (..., 4) in float32, as in MMDetection, with widths `x2 - x1 + 1`."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    overlap = sides.clip(0).prod(axis=-1)
    area_a, area_b = ((box[..., 2:] - box[..., :2] + 1).prod(axis=-1) for box in (a, b))
    union = area_a + area_b - overlap
    return overlap / np.maximum(union, np.float32(1e-6))


def _mean(values: Sequence[float]) -> float:
    """Return the mean of those that are not nan."""
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float('nan')


def _warn(message: str) -> None:
    print_log(f'VOCMetric: {message}', logger='current', level=logging.WARNING)
