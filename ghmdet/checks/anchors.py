"""Measures how well the anchors fit the boxes of a training dataset; no image is decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch import Tensor

from ghmdet.boxes.anchor_fit import fit_anchors
from ghmdet.datasets.wrappers import base_datasets
from ghmdet.models.wrappers import unwrap

# Transforms that change neither the size of an image nor which of its boxes are visible.
_SAME_SIZE = (
    *('LoadImageFromFile', 'LoadAnnotations', 'RandomFlip', 'RandomGrayscale', 'Normalize'),
    *('PhotoMetricDistortion', 'Pad', 'PackDetInputs'),
)


class SeenBoxes(NamedTuple):
    """The boxes of n objects (crowd regions left out), the sizes and indices of their images."""

    bboxes: Tensor  # float32 (n, 4) x1 y1 x2 y2 in pixels of the file
    image_wh: Tensor  # float32 (n, 2) in pixels of the file
    image_inds: Tensor  # int64 (n,), counted from 0


def warn_of_unmatched_boxes(
    model: Any, dataset: Any, max_share: float, max_images: int, max_boxes: int
) -> None:
    """Log a warning if too many boxes of a training dataset have no anchor that fits them.

    These have an IoU below `pos_iou_thr` with each anchor. They may still be learnt by their best
    anchor (`min_pos_iou`, `match_low_quality`), but badly. A head, dataset or pipeline of another
    kind than ghmdet's is skipped with a line of level DEBUG.

    The boxes are scaled as by the pipeline of the dataset. Up to `max_images`, evenly spread, and
    `max_boxes` of them are looked at; `max_share` is the largest share without a warning.
    """
    try:
        detector: Any = unwrap(model)
        threshold = float(detector.bbox_head.assigner.pos_iou_thr)
        ious = _measure_ious(detector, list(base_datasets(dataset)), max_images, max_boxes)
    except Exception as error:  # custom parts need not have these attributes
        print_log(f'anchors not checked: {error!r}', 'current', logging.DEBUG)
        return
    unmatched = int((ious < threshold).sum()) / max(1, len(ious))
    if unmatched > max_share:
        print_log(
            f'{unmatched:.0%} of {len(ious)} boxes looked at in the training set have no anchor '
            f'of IoU >= {threshold:g} (train_cfg.assigner.pos_iou_thr) and will hardly be '
            'learnt: tools/analysis_tools/anchor_report.py CONFIG shows which, and suggests others',
            logger='current',
            level=logging.WARNING,
        )


def _measure_ious(detector: Any, datasets: list[Any], max_images: int, max_boxes: int) -> Tensor:
    """IoU of each box (n,) with its best anchor."""
    generator = detector.bbox_head.prior_generator
    divisor = getattr(detector.data_preprocessor, 'pad_size_divisor', 1)
    ious = []
    for dataset in datasets:
        boxes = read_boxes(dataset, spread(len(dataset), max(1, max_images // len(datasets))))
        chosen = spread(len(boxes.bboxes), max(1, max_boxes // len(datasets)))
        boxes = SeenBoxes(*(column[chosen] for column in boxes))
        bboxes, input_wh = resize_boxes(boxes, dataset.pipeline.transforms, divisor)
        ious.append(fit_anchors(bboxes, input_wh, generator.base_anchors, generator.strides).ious)
    return torch.cat(ious)


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` of the indices below `length`, evenly spread."""
    return torch.linspace(0, length - 1, min(count, length)).long().tolist()


def read_boxes(dataset: BaseDataset, indices: Iterable[int]) -> SeenBoxes:
    """Collect the boxes of some images, by their indices; those to ignore are left out."""
    bboxes, sizes, image_inds = [], [], []
    for number, index in enumerate(indices):
        info = dataset.get_data_info(index)
        learnt = [obj['bbox'] for obj in info['instances'] if not obj.get('ignore_flag')]
        bboxes += learnt
        sizes += [(info['width'], info['height'])] * len(learnt)
        image_inds += [number] * len(learnt)
    return SeenBoxes(
        torch.tensor(bboxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(sizes, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(image_inds, dtype=torch.int64),
    )


def resize_boxes(
    boxes: SeenBoxes, transforms: Sequence[Any], divisor: int = 1
) -> tuple[Tensor, Tensor]:
    """Scale boxes as a pipeline does: by the scales of `RandomChoiceResize` in turn.

    Of `RandomResize` the mean scale is taken.

    Returned are the boxes (n, 4) in the network's input, and the size of it (n, 2), whose sides are
    padded to a multiple of `divisor`. A transform that is not known is a ValueError.
    """
    size = boxes.image_wh
    for transform in transforms:
        name = type(transform).__name__
        if name == 'Resize' and transform.scale is not None:
            resize, scales = transform, [transform.scale]
        elif name == 'RandomChoiceResize':
            resize = transform.resize
            scales = [(s, s) if isinstance(s, int) else s for s in transform.scales]
        elif name == 'RandomResize':
            resize = transform.resize
            low, high = transform.ratio_range or (1, 1)
            given = torch.tensor(transform.scale, dtype=torch.float32).reshape(-1, 2).mean(0)
            scales = [(given * (low + high) / 2).tolist()]
        elif name in _SAME_SIZE:
            continue
        else:
            raise ValueError(
                f'it is not known how {name}, a step of the training pipeline, changes the boxes'
            )
        targets = torch.tensor(scales, dtype=torch.float32)[boxes.image_inds % len(scales)]
        if resize.keep_ratio:  # as mmcv rounds
            ratios = torch.minimum(targets.amax(1) / size.amax(1), targets.amin(1) / size.amin(1))
            targets = torch.floor(size * ratios[:, None] + 0.5)
        size = targets
    factors = (size / boxes.image_wh).repeat(1, 2)
    return boxes.bboxes * factors, torch.ceil(size / divisor) * divisor
