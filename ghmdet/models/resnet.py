"""ResNet and ResNeXt backbones, with torchvision's names for their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ghmdet.registry import MODELS

_BLOCKS = {
    18: ('basic', (2, 2, 2, 2)),
    34: ('basic', (3, 4, 6, 3)),
    50: ('bottleneck', (3, 4, 6, 3)),
    101: ('bottleneck', (3, 4, 23, 3)),
    152: ('bottleneck', (3, 8, 36, 3)),
}


class _ResidualBlock(BaseModule):
    """A block of either kind: convolutions conv1, conv2, ..., each with its norm.

    `convs` has (out_channels, kernel_size, stride, groups) of each; `downsample` is of the shortcut
    where its shape changes. With `zero_init_residual` the block starts as identity.
    """

    def __init__(
        self,
        in_channels: int,
        convs: Sequence[tuple[int, int, int, int]],
        norm_cfg: dict[str, Any],
        downsample: nn.Sequential | None,
        with_cp: bool,
        zero_init_residual: bool,
    ) -> None:
        norms = [build_norm_layer(norm_cfg, conv[0], i) for i, conv in enumerate(convs, start=1)]
        self.norm_names = [name for name, _ in norms]
        last_norm = dict(type='Constant', val=0, override=dict(name=self.norm_names[-1]))
        super().__init__(init_cfg=last_norm if zero_init_residual else None)
        for i, (out_channels, kernel_size, stride, groups) in enumerate(convs):
            sizes = (in_channels, out_channels, kernel_size, stride, kernel_size // 2)
            self.add_module(f'conv{i + 1}', nn.Conv2d(*sizes, groups=groups, bias=False))
            self.add_module(*norms[i])
            in_channels = out_channels
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.with_cp = with_cp

    def _add_residual(self, x: Tensor) -> Tensor:
        out = x
        for i, norm_name in enumerate(self.norm_names, start=1):
            out = _convolve_and_norm(out, getattr(self, f'conv{i}'), getattr(self, norm_name))
            if i < len(self.norm_names):
                out = self.relu(out)
        return out.add_(x if self.downsample is None else _convolve_and_norm(x, *self.downsample))

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            out = checkpoint(self._add_residual, x, use_reentrant=False)
        else:
            out = self._add_residual(x)
        return self.relu(out)


@MODELS.register_module()
class ResNet(BaseModule):
    """ResNet ("Deep Residual Learning for Image Recognition", arXiv:1512.03385).

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_stages: how many of the four stages there are.
        out_indices: stages whose output is returned, from 0.
        style: which convolution of a bottleneck block has the stride: 'pytorch' the 3x3, 'caffe'
            the first 1x1.
        frozen_stages: the stem and this many stages are not trained and their norms are in eval
            mode; -1 trains everything.
        norm_cfg: `type` BN, SyncBN or GN; `requires_grad`.
        norm_eval: all batch norms stay in eval mode while training.
        with_cp: recompute the blocks' activations in the backward pass: less memory, more time.
        zero_init_residual: initialise the last norm of every block with 0.
        init_cfg: `dict(type='Pretrained', checkpoint=...)`, or None for Kaiming-normal
            convolutions (fan out) and norms with 1.

    Raises:
        ValueError: an argument out of its range, named.
    """

    groups, base_width = 1, 64

    def __init__(
        self,
        depth: int,
        num_stages: int = 4,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str = 'pytorch',
        frozen_stages: int = -1,
        norm_cfg: dict[str, Any] | None = None,
        norm_eval: bool = True,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        _check_settings(depth, num_stages, out_indices, style, frozen_stages)
        super().__init__(
            init_cfg=init_cfg
            or [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        )
        self.out_indices = tuple(out_indices)
        self.style = style
        self.frozen_stages = frozen_stages
        self.norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        # Not with init_cfg, whose pretrained weights replace it.
        self.zero_init_residual = zero_init_residual and init_cfg is None

        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm1_name, norm1 = build_norm_layer(self.norm_cfg, 64, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        kind, num_blocks = _BLOCKS[depth]
        channels = 64
        for stage in range(num_stages):
            layers = []
            for block in range(num_blocks[stage]):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(self._make_block(kind, channels, 64 * 2**stage, stride))
                channels = 64 * 2**stage * (1 if kind == 'basic' else 4)
            self.add_module(f'layer{stage + 1}', Sequential(*layers))
        self._freeze_stages()

    def _make_block(self, kind: str, in_channels: int, planes: int, stride: int) -> _ResidualBlock:
        convs: list[tuple[int, int, int, int]]
        if kind == 'basic':
            convs = [(planes, 3, stride, 1), (planes, 3, 1, 1)]
        else:
            width = planes * self.base_width // 64 * self.groups
            stride1, stride2 = (1, stride) if self.style == 'pytorch' else (stride, 1)
            middle = (width, 3, stride2, self.groups)
            convs = [(width, 1, stride1, 1), middle, (planes * 4, 1, 1, 1)]
        out_channels = convs[-1][0]
        downsample = None
        if stride != 1 or in_channels != out_channels:
            downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                build_norm_layer(self.norm_cfg, out_channels)[1],
            )
        return _ResidualBlock(
            in_channels, convs, self.norm_cfg, downsample, self.with_cp, self.zero_init_residual
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the `out_indices` stages of normalised images (N, 3, H, W).

        Stage i is (N, c_i, H / 2**(i+2), W / 2**(i+2)).
        """
        x = _convolve_and_norm(x, self.conv1, getattr(self, self.norm1_name))
        x = self.maxpool(self.relu(x))
        outs = []
        for stage in range(max(self.out_indices) + 1):
            x = getattr(self, f'layer{stage + 1}')(x)
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        stages = [f'layer{i}' for i in range(1, self.frozen_stages + 1)]
        for name in ['conv1', self.norm1_name, *stages]:
            getattr(self, name).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> ResNet:
        """Switch to training mode, all but what is frozen."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


@MODELS.register_module()
class ResNeXt(ResNet):
    """ResNeXt ("Aggregated Residual Transformations", arXiv:1611.05431).

    Args:
        groups: groups of a block's 3x3 convolution.
        base_width: channels of a group in the first stage.
        **kwargs: see `ResNet`; depth 50, 101 or 152.
    """

    def __init__(self, groups: int = 1, base_width: int = 4, **kwargs: Any) -> None:
        if kwargs.get('depth') in (18, 34):
            raise ValueError(
                f'ResNeXt has bottleneck blocks: depth 50, 101 or 152, got {kwargs["depth"]}'
            )
        # Before ResNet's constructor, which builds the blocks. With one group it is a ResNet.
        self.groups, self.base_width = groups, base_width if groups > 1 else 64
        super().__init__(**kwargs)


def _check_settings(
    depth: int, num_stages: int, out_indices: Sequence[int], style: str, frozen_stages: int
) -> None:
    if depth not in _BLOCKS:
        raise ValueError(f'backbone.depth must be one of {sorted(_BLOCKS)}, got {depth}')
    if not 1 <= num_stages <= 4:
        raise ValueError(f'backbone.num_stages must be 1 to 4, got {num_stages}')
    if not out_indices or not all(0 <= i < num_stages for i in out_indices):
        raise ValueError(
            f'backbone.out_indices must be stages 0 to {num_stages - 1}, got {out_indices}'
        )
    if style not in ('pytorch', 'caffe'):
        raise ValueError(f"backbone.style must be 'pytorch' or 'caffe', got {style!r}")
    if not -1 <= frozen_stages <= num_stages:
        raise ValueError(f'backbone.frozen_stages must be -1 to {num_stages}, got {frozen_stages}')


def _convolve_and_norm(x: Tensor, conv: Any, norm: Any) -> Tensor:
    """Apply a convolution and its norm.

    A batch norm in eval mode is a factor and an offset per channel, which become part of the
    convolution. This saves a pass over its output and the memory for it; values and gradients
    differ by rounding only. Small batches, which are channels first, would gain nothing.
    """
    is_channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    is_plain = type(conv) is nn.Conv2d and conv.bias is None and not conv._forward_hooks
    is_affine = isinstance(norm, _BatchNorm) and norm.affine and norm.track_running_stats
    is_fixed = is_affine and not norm.training and not norm._forward_hooks
    if not (is_channels_last and is_plain and is_fixed):
        return norm(conv(x))
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    offset = norm.bias - norm.running_mean * factor
    weight = conv.weight * factor[:, None, None, None]
    return F.conv2d(x, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)
