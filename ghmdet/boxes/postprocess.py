"""Turns scores and boxes into detections: filters, scales back to the image, applies NMS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchvision.ops import nms

from ghmdet.argument_checks import check_range

_NUMBERS = {  # of test_cfg, with the least and the largest value
    'nms_pre': (-1, float('inf')),
    'score_thr': (0, 1),
    'min_bbox_size': (-1, float('inf')),
    'max_per_img': (-1, float('inf')),
}
_NMS_KEYS = {'type', 'iou_threshold', 'class_agnostic'}


def check_test_cfg(test_cfg: Mapping[str, Any]) -> None:
    """Check the settings of `select_candidates` and `finish_detections`, before a training.

    Raises:
        ValueError: a key is missing or its value is not valid.
    """
    for key in ('nms', 'max_per_img'):
        if key not in test_cfg:
            raise ValueError(f'model.test_cfg.{key} is needed, got only {sorted(test_cfg)}')
    for key, (low, high) in _NUMBERS.items():
        if key in test_cfg:
            check_range(f'model.test_cfg.{key}', test_cfg[key], low, high)
    nms_cfg = test_cfg['nms']
    if not isinstance(nms_cfg, Mapping) or not set(nms_cfg) <= _NMS_KEYS:
        raise ValueError(
            f"model.test_cfg.nms must be a dict of {sorted(_NMS_KEYS)}, e.g. dict(type='nms', "
            f'iou_threshold=0.5), got {nms_cfg!r}'
        )
    check_range('model.test_cfg.nms.iou_threshold', nms_cfg.get('iou_threshold'), 0, 1)
    _check_nms_type(nms_cfg.get('type', 'nms'))


def _check_nms_type(kind: Any) -> None:
    if kind != 'nms':
        raise ValueError(f"model.test_cfg.nms.type must be 'nms', got {kind!r}")


def select_candidates(
    scores: Tensor, score_thr: float, nms_pre: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pick the best (prior, class) pairs of one level.

    Args:
        scores: (n, C) in [0, 1].
        score_thr: only scores above it are kept.
        nms_pre: at most this many are kept; not positive keeps all.

    Returns:
        scores (k,), best first, equal ones in the order of priors and classes; labels (k,);
        indices of the priors (k,).
    """
    flat = scores.flatten()
    inds = (flat > score_thr).nonzero().squeeze(1)
    best = flat[inds]
    if 0 < nms_pre < len(best):
        # Sort only the nms_pre best and those equal to the last of them.
        stays = best >= best.topk(nms_pre).values[-1]
        inds, best = inds[stays], best[stays]
    best, order = best.sort(descending=True, stable=True)
    if nms_pre > 0:
        best, order = best[:nms_pre], order[:nms_pre]
    inds = inds[order]
    return best, inds % scores.size(1), inds // scores.size(1)


def finish_detections(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    test_cfg: Mapping[str, Any],
    scale_factor: tuple[float, float] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the candidates of one image into its detections.

    Args:
        bboxes: (n, 4), x1 y1 x2 y2 in pixels of the network's input.
        scores: (n,).
        labels: int64 (n,).
        test_cfg: reads `min_bbox_size` (sides must be larger, default -1 keeps all), `nms`
            (iou_threshold, class_agnostic) and `max_per_img`.
        scale_factor: (w, h) by which the image was resized and the boxes are divided; None is 1.

    Returns:
        bboxes, scores, labels of at most `max_per_img` detections, best first.
    """
    if scale_factor is not None:
        # Multiplied by the inverse, not divided: the published models were evaluated so.
        bboxes = bboxes * bboxes.new_tensor([1 / factor for factor in scale_factor]).repeat(2)
    min_size = test_cfg.get('min_bbox_size', -1)
    if min_size >= 0:
        large = (bboxes[:, 2:] - bboxes[:, :2] > min_size).all(dim=1)
        bboxes, scores, labels = bboxes[large], scores[large], labels[large]
    keep = class_wise_nms(bboxes, scores, labels, **test_cfg['nms'])
    if test_cfg['max_per_img'] > 0:
        keep = keep[: test_cfg['max_per_img']]
    return bboxes[keep], scores[keep], labels[keep]


def class_wise_nms(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    type: str = 'nms',
    class_agnostic: bool = False,
) -> Tensor:
    """Suppress every box that overlaps a better one of its class by more than `iou_threshold`.

    Takes boxes (n, 4), scores and int64 labels (n,); `class_agnostic` compares boxes of different
    classes too. Returns the indices of the boxes kept, best first.

    Raises:
        ValueError: `type` is not 'nms'.
    """
    _check_nms_type(type)
    if bboxes.numel() == 0:
        return labels.new_zeros(0)
    if not class_agnostic:
        # Move the boxes of each class apart, so that one NMS works for all classes.
        bboxes = bboxes + (labels.to(bboxes) * (bboxes.max() + 1))[:, None]
    return nms(bboxes, scores, iou_threshold)
