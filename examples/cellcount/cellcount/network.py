"""Backbone and neck, small enough to train in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional

from ghmdet.registry import MODELS

_NORM = dict(type='GN', num_groups=4)


@MODELS.register_module()
class PlainNet(BaseModule):
    """One strided and one plain convolution per stage: strides 4, 8, 16, ...

    Args:
        channels: of each stage; the first is preceded by a stem that halves the image.
        init_cfg: see mmengine's `BaseModule`.
    """

    def __init__(self, channels: Sequence[int], init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        widths = [3, channels[0], *channels]
        strided = [
            ConvModule(before, after, 3, stride=2, padding=1, norm_cfg=_NORM)
            for before, after in pairwise(widths)
        ]
        self.stem = strided[0]
        self.stages = nn.ModuleList(
            nn.Sequential(first, ConvModule(width, width, 3, padding=1, norm_cfg=_NORM))
            for first, width in zip(strided[1:], channels, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Turn images (N, 3, H, W) into one feature map per stage."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])


@MODELS.register_module()
class AddDown(BaseModule):
    """Project all maps to the same number of channels, and add each to the next finer one.

    Args:
        in_channels: of the backbone's feature maps, the finest first.
        out_channels: of every output map.
        init_cfg: see mmengine's `BaseModule`.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: int, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.lateral = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Turn the backbone's maps into the head's, the finest first."""
        levels = [lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            finer = levels[i - 1]
            levels[i - 1] = finer + functional.interpolate(levels[i], finer.shape[-2:])
        return tuple(levels)
