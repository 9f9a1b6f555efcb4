"""The whole detector as one module of tensors, from pixels to detections, and its trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_config

from ghmdet.inference.model import find_test_dataset
from ghmdet.version import __version__

INPUTS = ('images', 'sizes', 'scale_factors')
OUTPUTS = ('boxes', 'scores', 'labels', 'num')
FORMAT_VERSION = 1


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
    sizes = torch.tensor([[height - 6, width - 10], [height, width - 30]])
    inputs = (torch.rand(2, 3, height, width) * 255, sizes, torch.full((2, 2), 0.5))
    # Sizes of one cell are like all others.
    with torch.no_grad(), symbolic_config.patch(backed_size_oblivious=True):
        return torch.export.export(
            DetectionGraph(model).eval(), inputs, dynamic_shapes=dynamic_shapes(static_hw)
        )


def dynamic_shapes(static_hw: tuple[int, int] | None) -> Any:
    """Return the names of the dynamic dimensions of the inputs."""
    names = ('batch', 'height', 'width')
    batch, height, width = (torch.export.Dim(name, min=1, max=2**16) for name in names)
    spatial = {} if static_hw else {2: height, 3: width}
    return {0: batch, **spatial}, {0: batch}, {0: batch}
