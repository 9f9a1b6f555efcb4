"""The whole detector as one module of tensors, from pixels to detections, and its trace."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config

from ghmdet.config.parts import make_plain
from ghmdet.inference.detector import find_classes
from ghmdet.inference.exported import FORMAT_VERSION, METADATA_FILE
from ghmdet.inference.model import find_test_pipeline
from ghmdet.messages import type_name
from ghmdet.version import __version__

_symbolic: Any = _config


class DetectionGraph(nn.Module):
    """Normalises and pads images, runs the network, and makes the detections.

    Args:
        model: a RetinaNet in eval mode, as from `ghmdet.engine.init_detector`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(
        self, images: Tensor, sizes: Tensor, scale_factors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the detections of a batch.

        Args:
            images: float32 (N, 3, H, W), values and channels as read (BGR, 0 to 255); smaller
                images of the batch are filled at the right and the bottom with anything.
            sizes: int64 (N, 2), the (h, w) of each image without its filling.
            scale_factors: float32 (N, 2), the (w, h) by which each image was resized.

        Returns:
            boxes (N, K, 4), x1 y1 x2 y2 in pixels of the image before it was resized; scores (N, K)
            best first; int64 labels (N, K), -1 in empty slots; number of detections int64 (N,).
        """
        preprocessor = self.model.data_preprocessor
        height, width = images.shape[2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        if preprocessor._channel_conversion:
            images = images.flip(1)
        if preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        pad_value = float(preprocessor.pad_value)
        on_image = rows[:, None, :, None] & columns[:, None, None, :]
        images = torch.where(on_image, images, pad_value)
        divisor = preprocessor.pad_size_divisor
        bottom, right = (
            (side + divisor - 1) // divisor * divisor - side for side in (height, width)
        )
        images = nn.functional.pad(images, (0, right, 0, bottom), value=pad_value)
        feats = self.model.extract_feat(images)
        boxes, scores, labels = self.model.bbox_head.detect(feats, sizes, 1 / scale_factors)
        found = scores > 0
        return boxes * found[..., None], scores, labels.where(found, -1), found.sum(dim=1)


def trace(
    model: nn.Module, static_hw: tuple[int, int] | None = None
) -> torch.export.ExportedProgram:
    """Trace the `DetectionGraph` of a model on the CPU, for any batch, height and width.

    `static_hw` fixes height and width of the images, not the batch.
    """
    height, width = static_hw or (96, 160)
    channels = next(each for each in model.modules() if isinstance(each, nn.Conv2d)).in_channels
    sizes = torch.tensor([[height, width]]).repeat(2, 1)
    inputs = (torch.zeros(2, channels, height, width), sizes, torch.ones(2, 2))
    # Otherwise maps of one cell, those of small images, would be a case of their own.
    with torch.no_grad(), _symbolic.patch(backed_size_oblivious=True):
        return torch.export.export(
            DetectionGraph(model).eval(), inputs, dynamic_shapes=name_dimensions(static_hw)
        )


def name_dimensions(static_hw: Sequence[int] | None) -> tuple[dict[int, Any], ...]:
    """Return the dimensions of each input that are dynamic, with their names."""
    names = ('batch', 'height', 'width')
    batch, height, width = (torch.export.Dim(name, min=1, max=2**16) for name in names)
    spatial = {} if static_hw else {2: height, 3: width}
    return {0: batch, **spatial}, {0: batch}, {0: batch}


def describe(model: Any, static_hw: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return the metadata of a file, from which `ghmdet.Detector` prepares images."""
    preprocessor, test_cfg = model.data_preprocessor, model.bbox_head.test_cfg
    normalizes = preprocessor._enable_normalize
    pipeline = make_plain(find_test_pipeline(model.cfg), 'pipeline')
    resize: dict = next((each for each in pipeline if type_name(each).endswith('Resize')), {})
    scale = resize.get('scale')
    texts = json.dumps(pipeline, default=lambda kind: f'{kind.__module__}.{kind.__qualname__}')
    return dict(
        ghmdet_version=__version__,
        format_version=FORMAT_VERSION,
        classes=find_classes(model),
        mean=preprocessor.mean.flatten().tolist() if normalizes else None,
        std=preprocessor.std.flatten().tolist() if normalizes else None,
        bgr_to_rgb=preprocessor._channel_conversion,
        pad_value=preprocessor.pad_value,
        pad_size_divisor=preprocessor.pad_size_divisor,
        scale=[scale, scale] if isinstance(scale, int) else scale,
        keep_ratio=resize.get('keep_ratio', False),
        score_thr=test_cfg.get('score_thr', 0),
        nms_iou_thr=test_cfg['nms']['iou_threshold'],
        max_per_img=test_cfg['max_per_img'],
        static=static_hw,
        int8=False,
        pipeline=json.loads(texts),
    )


def save_pt2(
    program: torch.export.ExportedProgram, path: str | os.PathLike[str], metadata: dict[str, Any]
) -> None:
    """Write a traced detector for PyTorch; its operators are those of `ghmdet.boxes`."""
    files = {METADATA_FILE: json.dumps(metadata, ensure_ascii=False)}
    torch.export.save(program, path, extra_files=files)
