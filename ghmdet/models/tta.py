"""Test-time augmentation: merges the detections of several views of an image."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseTTAModel
from torch import Tensor

from ghmdet.boxes.postprocess import class_wise_nms
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData


@MODELS.register_module()
class DetTTAModel(BaseTTAModel):
    """Merges the detections of flipped and rescaled views by class-wise NMS.

    Args:
        tta_cfg: `nms` (iou_threshold) and `max_per_img` of the merged detections.
        **kwargs: `module`, the detector, built from MODELS if it is a config; see `BaseTTAModel`.
    """

    def __init__(self, tta_cfg: dict[str, Any], **kwargs: Any) -> None:
        if isinstance(kwargs.get('module'), dict):
            # BaseTTAModel would use mmengine's root registry.
            kwargs['module'] = MODELS.build(kwargs['module'])
        super().__init__(**kwargs)
        self.tta_cfg = tta_cfg

    def merge_preds(self, data_samples_list: list[list[DetDataSample]]) -> list[DetDataSample]:
        """Return one sample per image, given those of its views.

        Their boxes are in pixels of the original image, mirrored as the view was.
        """
        for views in data_samples_list:
            for view in views:
                view.pred_instances.bboxes = _unflip(view.pred_instances.bboxes, view)
            found = InstanceData.cat([view.pred_instances for view in views])
            nms = self.tta_cfg['nms']
            keep = class_wise_nms(found.bboxes, found.scores, found.labels, **nms)
            views[0].pred_instances = found[keep[: self.tta_cfg['max_per_img']]]
        return [views[0] for views in data_samples_list]


def _unflip(bboxes: Tensor, view: DetDataSample) -> Tensor:
    """Mirror boxes (n, 4) of a flipped view back, in pixels of the original image."""
    if not view.get('flip'):
        return bboxes
    h, w = view.ori_shape
    x1, y1, x2, y2 = bboxes.unbind(dim=1)
    if view.flip_direction in ('horizontal', 'diagonal'):
        x1, x2 = w - x2, w - x1
    if view.flip_direction in ('vertical', 'diagonal'):
        y1, y2 = h - y2, h - y1
    return torch.stack([x1, y1, x2, y2], dim=1)
