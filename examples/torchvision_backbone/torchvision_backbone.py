"""Any classifier of torchvision as the backbone of a detector."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

from ghmdet.registry import MODELS


@MODELS.register_module()
class TorchvisionBackbone(BaseModule):
    """The outputs of some layers of `torchvision.models.get_model(name, weights=weights)`.

    `layers` are names of its modules, the finest map first; strides double from one to the next.
    """

    def __init__(self, name: str, layers: Sequence[str], weights: str | None = None) -> None:
        super().__init__()
        self.body = create_feature_extractor(get_model(name, weights=weights), list(layers))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn images (N, 3, H, W) into one feature map for each layer."""
        return tuple(self.body(images).values())
