"""Whether the anchors fit the boxes to learn; read off the data set, no image is decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor

from ghmdet.boxes.anchor_fit import fit_anchors
from ghmdet.datasets.wrappers import base_datasets
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS

# Steps of a pipeline that change neither the size of the image nor the boxes that are seen in it.
_SAME_SIZE = {
    'LoadImageFromFile',
    'LoadAnnotations',
    'RandomFlip',
    'RandomGrayscale',
    'PhotoMetricDistortion',
    'Normalize',
    'Pad',
    'PackDetInputs',
}


class UnknownPartError(ValueError):
    """A part of the run of which it is not known where it leaves the boxes."""


class SeenBoxes(NamedTuple):
    """The boxes of n objects, crowd regions left out."""

    bboxes: Tensor
    """float32 (n, 4) x1 y1 x2 y2 in pixels of the file."""
    image_wh: Tensor
    """float32 (n, 2), size of the image in the file."""
    image_inds: Tensor
    """int64 (n,), which image each lies in, counted from 0."""


@HOOKS.register_module()
class AnchorCheckHook(Hook):
    """Warn in one line at the start of a training when the anchors miss many boxes.

    A box counts as missed when no anchor has an IoU of `pos_iou_thr` with it. It may still be
    learnt, by its best anchor alone (`min_pos_iou`, `match_low_quality`), but badly. Looked at are
    some thousand boxes, spread over the data set and scaled as the pipeline's `Resize` does.
    Of a head, data set or pipeline that it does not understand it says nothing.

    Args:
        max_share: largest share of missed boxes without a warning.
        max_images: images to look at.
        max_boxes: boxes to look at.
    """

    priority = 'VERY_LOW'  # after the others have said what they have to say

    def __init__(
        self, max_share: float = 0.1, max_images: int = 1000, max_boxes: int = 5000
    ) -> None:
        self.max_share = max_share
        self.max_images = max_images
        self.max_boxes = max_boxes

    def before_train(self, runner: Runner) -> None:
        """Compare the anchors with the boxes of the training data set."""
        try:
            found = self._measure(runner)
        except Exception as error:  # of somebody's own parts, which need not be as ours are
            print_log(f'anchors not checked: {error!r}', 'current', logging.DEBUG)
            return
        if found is None:
            return
        missed, num_boxes, threshold = found
        if missed > self.max_share:
            print_log(
                f'{missed:.0%} of {num_boxes} boxes looked at in the training set have no anchor '
                f'of IoU >= {threshold:g} (train_cfg.assigner.pos_iou_thr) and will hardly be '
                'learnt: tools/analysis_tools/anchor_report.py CONFIG shows which and finds better',
                logger='current',
                level=logging.WARNING,
            )

    def _measure(self, runner: Runner) -> tuple[float, int, float] | None:
        """Share of boxes missed, how many were looked at, and the threshold."""
        model: Any = unwrap(runner.model)
        generator = model.bbox_head.prior_generator
        threshold = float(model.bbox_head.assigner.pos_iou_thr)
        divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
        datasets = list(base_datasets(runner.train_dataloader.dataset))
        ious = []
        for dataset in datasets:
            count = max(1, self.max_images // len(datasets))
            boxes = read_boxes(dataset, spread(len(dataset), count))
            chosen = spread(len(boxes.bboxes), max(1, self.max_boxes // len(datasets)))
            boxes = SeenBoxes(*(column[chosen] for column in boxes))
            seen, input_wh = resize_boxes(boxes, dataset.pipeline.transforms, divisor)
            ious.append(fit_anchors(seen, input_wh, generator.base_anchors, generator.strides).ious)
        all_ious = torch.cat(ious)
        if not len(all_ious):
            return None
        return int((all_ious < threshold).sum()) / len(all_ious), len(all_ious), threshold


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` of the first `length` numbers, evenly spread."""
    return torch.linspace(0, length - 1, min(count, length)).long().tolist()


def read_boxes(dataset: BaseDataset, indices: Iterable[int]) -> SeenBoxes:
    """Collect the boxes of some images.

    Args:
        dataset: whose `get_data_info` has `height`, `width` and `instances`, each with `bbox` and
            perhaps `ignore_flag`.
        indices: of the images.
    """
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
    """Scale boxes as a pipeline does.

    Args:
        boxes: of the file.
        transforms: of the pipeline; of several scales to choose from, images take turns.
        divisor: to a multiple of which the images are padded.

    Returns:
        The boxes (n, 4) in the network's input, and the size of it (n, 2).

    Raises:
        UnknownPartError: a transform is not known.
    """
    size = boxes.image_wh
    for transform in transforms:
        for resize, scales in _scales_of(transform):
            targets = torch.tensor(scales, dtype=torch.float32)[boxes.image_inds % len(scales)]
            size = _resize(size, targets, resize)
    factors = (size / boxes.image_wh).repeat(1, 2)
    return boxes.bboxes * factors, torch.ceil(size / divisor) * divisor


def _scales_of(transform: Any) -> Iterator[tuple[Any, list[tuple[float, float]]]]:
    """The resizing in a transform, if any, and the scales (w, h) that it chooses from."""
    name = type(transform).__name__
    if name == 'Resize' and transform.scale is not None:
        yield transform, [tuple(transform.scale)]
    elif name == 'RandomChoiceResize':
        yield transform.resize, [(s, s) if isinstance(s, int) else s for s in transform.scales]
    elif name not in _SAME_SIZE:
        raise UnknownPartError(
            f'it is not known how {name}, a step of the training pipeline, changes the boxes'
        )


def _resize(size: Tensor, targets: Tensor, resize: Any) -> Tensor:
    """Sizes (n, 2) after mmcv's Resize to `targets` (n, 2), both (w, h)."""
    if not resize.keep_ratio:
        return targets
    factors = torch.minimum(targets.amax(1) / size.amax(1), targets.amin(1) / size.amin(1))
    return torch.floor(size * factors[:, None] + 0.5)
