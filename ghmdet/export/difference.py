"""How two runtimes' detections in one image differ, and which of it rounding explains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ghmdet.structures import InstanceData

BOX_LIMIT, SCORE_LIMIT = 1e-3, 1e-4  # of equal pairs; pixels of the original image
_NEAR = 1e-5  # of two scores, of a score to its threshold, of an IoU to that of NMS
_ROUNDING = 2.0**-21  # of a coordinate in float32, relative


def find_pairs(a: InstanceData, b: InstanceData) -> Tensor:
    """Return pairs int64 (p, 2) of one class that overlap by half or more, the nearest first."""
    first, second = a.bboxes.double(), b.bboxes.double()
    distance = (first[:, None] - second).abs().amax(dim=2)
    near = (box_iou(first, second) >= 0.5) | (distance <= 1)
    pairs = (near & (a.labels[:, None] == b.labels)).nonzero()
    kept = dict[int, int]()
    for i, j in pairs[distance[tuple(pairs.T)].argsort(stable=True)].tolist():
        if i not in kept and j not in kept.values():
            kept[i] = j
    return torch.tensor([*kept.items()], dtype=torch.int64).view(-1, 2)


def measure_pairs(a: InstanceData, b: InstanceData, pairs: Tensor) -> tuple[Tensor, ...]:
    """Return (p,) each: difference of boxes (the largest), of scores, whether all is equal."""
    a, b = a[pairs[:, 0]], b[pairs[:, 1]]
    box, score = (a.bboxes - b.bboxes).abs().amax(dim=1), (a.scores - b.scores).abs()
    limit = (a.bboxes.amax(dim=1) * _ROUNDING).clamp(min=BOX_LIMIT)
    return box, score, (box <= limit) & (score <= SCORE_LIMIT)


def find_excepted(a: InstanceData, b: InstanceData, odd: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    """Find which of the odd detections, bool (n,) of `a` and then `b`, are no error.

    Odd are those without an equal partner. No error is a score, or an IoU with a better one of the
    class, within 1e-5 of the threshold in `cfg`, the test_cfg; the end of a full result; and what
    one with an equal score, or one that is no error, suppresses in the other result.
    """
    if not odd.any():
        return odd
    boxes, scores = torch.cat([a.bboxes, b.bboxes]).double(), torch.cat([a.scores, b.scores])
    labels = torch.cat([a.labels, b.labels]) * (not cfg['nms'].get('class_agnostic', False))
    of_b = torch.arange(len(boxes)) >= len(a)
    # NMS sees the classes moved apart, where float32 has fewer bits for a pixel.
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1).clamp(min=1)
    slack = _NEAR + _ROUNDING * (labels + 1) * (boxes.max() + 1) / sides
    beyond = (box_iou(boxes, boxes) - cfg['nms']['iou_threshold']) / slack.maximum(slack[:, None])
    rivals = (scores >= scores[:, None] - _NEAR) & (labels == labels[:, None])
    rivals &= ~torch.eye(len(boxes), dtype=torch.bool)
    excepted = (scores - cfg.get('score_thr', 0)).abs() <= _NEAR
    excepted |= (rivals & (beyond.abs() <= 1)).any(dim=1)
    for mine, other in ((of_b, a.scores), (~of_b, b.scores)):
        if 0 < len(other) == cfg['max_per_img']:
            excepted |= mine & (scores <= other.min() + _NEAR)
    excepted &= odd
    rivals &= (beyond > -1) & (of_b[:, None] != of_b) & odd & odd[:, None]
    equal = (scores - scores[:, None]).abs() <= _NEAR
    equal &= (boxes - boxes[:, None]).abs().amax(dim=2) > 1  # not the same box, moved
    for _ in range(int(odd.sum())):  # the longest chain
        excepted |= (rivals & (excepted | equal)).any(dim=1)
    return excepted
