"""Turns scores and boxes into detections: filters, scales back to the image, applies NMS.

All functions take a batch and give each image the same number of slots; those with score 0 are
empty. So one code serves PyTorch, `torch.export` and ONNX. The two steps whose sizes depend on the
data are operators, `ghmdet::top_k` and `ghmdet::keep_by_nms`, which `ghmdet.export` translates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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
    """Raise a ValueError unless these settings of `finish_detections` are there and valid."""
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
        scores: (N, n, C) in [0, 1].
        score_thr: only scores above it are kept.
        nms_pre: at most this many are kept; not positive keeps all.

    Returns:
        scores (N, k), best first, equal ones in the order of priors and classes, 0 in empty slots;
        labels (N, k); indices of the priors (N, k).
    """
    num_classes = scores.shape[2]
    best, inds = torch.ops.ghmdet.top_k(scores.flatten(1), nms_pre, score_thr)
    return best, inds % num_classes, inds // num_classes


def finish_detections(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    test_cfg: Mapping[str, Any],
    inverse_scales: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn candidates into detections.

    Args:
        bboxes: (N, n, 4), x1 y1 x2 y2 in pixels of the network's input.
        scores: (N, n), 0 in empty slots.
        labels: int64 (N, n).
        test_cfg: reads `min_bbox_size` (sides must be larger, default -1 keeps all), `nms`
            (iou_threshold, class_agnostic) and `max_per_img`.
        inverse_scales: (N, 2), 1 / scale factor in x and y, which takes boxes back to the image.

    Returns:
        bboxes (N, k, 4), scores (N, k), labels (N, k) of at most `max_per_img` detections, best
        first; empty slots are last and have score 0.
    """
    if inverse_scales is not None:
        # Multiplied by the inverse, not divided: the published models were evaluated so.
        bboxes = bboxes * inverse_scales.repeat(1, 2)[:, None]
    min_size = test_cfg.get('min_bbox_size', -1)
    if min_size >= 0:
        large = (bboxes[..., 2:] - bboxes[..., :2] > min_size).all(dim=-1)
        scores = scores.where(large, 0)
    nms_cfg, most = test_cfg['nms'], test_cfg['max_per_img']
    _check_nms_type(nms_cfg.get('type', 'nms'))
    apart = bboxes
    if not nms_cfg.get('class_agnostic', False):
        apart = _move_classes_apart(bboxes, labels, scores > 0)
    keep = torch.ops.ghmdet.keep_by_nms(apart, scores, nms_cfg['iou_threshold'], most)
    scores, inds = torch.ops.ghmdet.top_k(scores.where(keep, 0), most, 0.0)
    return bboxes.gather(1, inds[..., None].expand(-1, -1, 4)), scores, labels.gather(1, inds)


def class_wise_nms(
    bboxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    iou_threshold: float,
    type: str = 'nms',
    class_agnostic: bool = False,
) -> Tensor:
    """Suppress every box of an image that overlaps a better one of its class by more.

    Takes boxes (n, 4), scores and int64 labels (n,), and the largest allowed IoU; `class_agnostic`
    compares boxes of different classes too. Returns the indices of the boxes kept, best first.
    A ValueError if `type` is not 'nms'.
    """
    _check_nms_type(type)
    if bboxes.numel() == 0:
        return labels.new_zeros(0)
    if not class_agnostic:
        every = torch.ones_like(labels, dtype=torch.bool)
        bboxes = _move_classes_apart(bboxes[None], labels[None], every[None])[0]
    return nms(bboxes, scores, iou_threshold)


def _move_classes_apart(bboxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """Move the boxes (N, n, 4) of each class apart, so that one NMS works for all classes."""
    least = torch.finfo(bboxes.dtype).min
    largest = bboxes.masked_fill(~valid[..., None], least).amax(dim=(1, 2))
    return bboxes + (labels.to(bboxes) * (largest[:, None] + 1))[..., None]


# `torch.library.custom_op` would import torch's compiler, a second at each start.
_LIBRARY = torch.library.Library('ghmdet', 'DEF')


def _operator(schema: str) -> Callable[[Callable], Callable]:
    _LIBRARY.define(schema)

    def register(function: Callable) -> Callable:
        _LIBRARY.impl(schema.partition('(')[0], function, 'CompositeExplicitAutograd')
        return function

    return register


@_operator('top_k(Tensor scores, int k, float threshold) -> (Tensor, Tensor)')
def _top_k(scores: Tensor, k: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the best k of each row (N, n) above a threshold, and their indices (N, k').

    Equal ones are in order; not positive k means all. Short rows end with score 0, index 0, and
    there is at least one slot.
    """
    rows = []
    for row in scores:
        inds = (row > threshold).nonzero().squeeze(1)
        best = row[inds]
        if 0 < k < len(best):
            # Sort only the k best and those equal to the last of them.
            stays = best >= best.topk(k).values[-1]
            inds, best = inds[stays], best[stays]
        best, order = best.sort(descending=True, stable=True)
        if k > 0:
            best, order = best[:k], order[:k]
        rows.append((best, inds[order]))
    columns = ([*part] for part in zip(*rows, strict=True))
    best, inds = (pad_sequence(part, batch_first=True) for part in columns)
    if best.shape[1] == 0:
        return scores.new_zeros(len(rows), 1), inds.new_zeros(len(rows), 1)
    return best, inds


@torch.library.register_fake('ghmdet::top_k', lib=_LIBRARY)
def _(scores: Tensor, k: int, threshold: float) -> tuple[Tensor, Tensor]:
    shape = (scores.shape[0], torch.library.get_ctx().new_dynamic_size(min=1))
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


@_operator('keep_by_nms(Tensor bboxes, Tensor scores, float iou_thr, int most) -> Tensor')
def _keep_by_nms(bboxes: Tensor, scores: Tensor, iou_thr: float, most: int) -> Tensor:
    """Return which boxes (N, n, 4) with a score NMS keeps (N, n); `most` are enough."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for boxes, row, kept in zip(bboxes, scores, keep, strict=True):
        inds = row.nonzero().squeeze(1)
        kept[inds[nms(boxes[inds], row[inds], iou_thr)]] = True
    return keep


@torch.library.register_fake('ghmdet::keep_by_nms', lib=_LIBRARY)
def _(bboxes: Tensor, scores: Tensor, iou_thr: float, most: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
