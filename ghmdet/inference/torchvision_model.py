"""A detector with the calls of torchvision's detection models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghmdet.inference.detector import Detector
from ghmdet.inference.sources import SourceImage, to_bgr


def as_torchvision(model: Any) -> TorchvisionModel:
    """Return a `TorchvisionModel` of a `Detector`, or of what that takes; the model is shared."""
    return TorchvisionModel(model if isinstance(model, Detector) else Detector(model))


class TorchvisionModel(nn.Module):
    """Detects in float images as torchvision's detection models do; see `as_torchvision`.

    **Labels begin at 0**, as everywhere in ghmdet: indices in the attribute `classes`, without
    torchvision's background class 0. sahi's `category_mapping` has the keys '0', '1', ....

    Images run through the test pipeline of the config as 8-bit pixels, as in `Detector`. It does
    not train: `tools/train.py` does.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.model, self.classes, self._detector = detector.model, detector.classes, detector
        self.train(self.model.training)

    def forward(self, images: Iterable[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        """Detect.

        Args:
            images: float (3, h, w) in RGB, values in [0, 1]; their sizes may differ.
            targets: not used, as in torchvision's models in eval mode.

        Returns:
            A list with a dict per image: `boxes` float32 (n, 4), x1 y1 x2 y2 in pixels of the
            image, `labels` int64 (n,), `scores` float32 (n,) best first, on the device of the
            model.

        Raises:
            ValueError: an image is none of these.
            RuntimeError: in training mode.
        """
        if self.training:
            raise RuntimeError('this module only detects: call eval(), or train by tools/train.py')
        sources = [SourceImage('', None, None, _to_pixels(image)) for image in images]
        data = [*map(self._detector.prepare, sources)]
        found = [each.pred_instances for each in self._detector.predict(data)] if data else []
        return [dict(boxes=each.bboxes, labels=each.labels, scores=each.scores) for each in found]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        super()._apply(*args, **kwargs)
        # mmengine's models put batches where their own `to` was told to.
        self.model.to(next(self.model.parameters()).device)
        return self


def _to_pixels(image: Any) -> np.ndarray:
    """Return a float tensor (3, h, w) in RGB as an array uint8 (h, w, 3) in BGR."""
    is_image, got = False, type(image).__name__
    if isinstance(image, Tensor) and image.numel():
        values = low, high = image.min().item(), image.max().item()
        is_image = image.ndim == 3 == len(image) and image.is_floating_point()
        is_image, got = is_image and 0 <= low <= high <= 1, f'{image.dtype} {tuple(image.shape)}'
        got += f', values {values}'
    if not is_image:
        raise ValueError(
            'expected a list of float tensors (3, h, w) in RGB with values in [0, 1], got one of '
            f'{got}; divide 8-bit pixels by 255, and do not normalise: the model does'
        )
    return to_bgr((image.float() * 255).round().to(torch.uint8), 'rgb')
