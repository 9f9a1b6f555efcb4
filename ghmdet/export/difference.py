"""How the detections of two runtimes in one image differ, beyond what rounding decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ghmdet.structures import InstanceData

BOX_LIMIT, SCORE_LIMIT = 1e-3, 1e-4  # of pairs in float32; pixels of the original image
_NEAR = 1e-5  # of scores to each other and to the threshold, of an IoU to that of NMS
_ROUNDING = 2.0**-21  # of a coordinate in float32, relative


def find_pairs(a: InstanceData, b: InstanceData) -> Tensor:
    """Return pairs int64 (p, 2) of one class that overlap by half or more, the nearest first.

    Places do not count, since equal scores may change them.
    """
    first, second = a.bboxes.double(), b.bboxes.double()
    distance = (first[:, None] - second).abs().amax(dim=2)
    near = (box_iou(first, second) >= 0.5) | (distance <= 1)
    pairs = (near & (a.labels[:, None] == b.labels)).nonzero()
    pairs = pairs[distance[tuple(pairs.T)].argsort(stable=True)]
    free, kept = (torch.ones(len(a)), torch.ones(len(b))), []
    for i, j in pairs.tolist():
        if free[0][i] and free[1][j]:
            free[0][i] = free[1][j] = 0
            kept.append((i, j))
    return torch.tensor(kept, dtype=torch.int64).view(-1, 2)


def measure_pairs(a: InstanceData, b: InstanceData, pairs: Tensor) -> tuple[Tensor, ...]:
    """Return (p,) each: difference of boxes (the largest), of scores, whether all is equal."""
    a, b = a[pairs[:, 0]], b[pairs[:, 1]]
    box, score = (a.bboxes - b.bboxes).abs().amax(dim=1), (a.scores - b.scores).abs()
    limit = (a.bboxes.amax(dim=1) * _ROUNDING).clamp(min=BOX_LIMIT)
    return box, score, (box <= limit) & (score <= SCORE_LIMIT)


def find_excepted(a: InstanceData, b: InstanceData, odd: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    """Find detections without an equal partner that are not an error, bool (n,).

    These have a score, or an IoU with a better one of their class, within 1e-5 of the threshold of
    `cfg`, the test_cfg; or the other result is full of scores that are not lower; or one with an
    equal score, or an excepted one, suppresses them there. `odd`, bool (n,), are those without an
    equal partner, of `a` and then `b`.
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
    rivals &= (beyond > -1) & (of_b[:, None] != of_b) & odd
    for i in scores.argsort(descending=True).tolist():
        equal = (scores - scores[i]).abs() <= _NEAR
        equal &= (boxes - boxes[i]).abs().amax(dim=1) > 1  # not the same box, moved
        excepted[i] |= odd[i] & (rivals[i] & (excepted | equal)).any()
    return excepted
