"""Feature pyramid network: one feature map per level, all with the same number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from ghmdet.registry import MODELS

_EXTRA_SOURCES = ('on_input', 'on_lateral', 'on_output')


@MODELS.register_module()
class FPN(BaseModule):
    """Feature Pyramid Network (arXiv:1612.03144), with RetinaNet's extra levels (arXiv:1708.02002).

    Args:
        in_channels: channels of each input, finest first.
        out_channels: channels of every output.
        num_outs: number of outputs, L.
        start_level: first input used.
        end_level: last input used; -1 is the last one.
        add_extra_convs: how levels beyond the inputs are made. False: by max pooling of the last
            output. 'on_input' (or True), 'on_lateral', 'on_output': by a strided convolution of the
            last input, lateral or output, and of the level before for further ones.
        relu_before_extra_convs: ReLU before each extra convolution but the first.
        no_norm_on_lateral: no norm in the lateral convolutions.
        conv_cfg: of the convolutions, None is `Conv2d`.
        norm_cfg: of the norms, None is no norm.
        act_cfg: of the activations, None is no activation.
        upsample_cfg: of `torch.nn.functional.interpolate`.
        init_cfg: default Xavier-uniform.

    Raises:
        ValueError: levels and num_outs disagree, or add_extra_convs is unknown.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_outs: int,
        start_level: int = 0,
        end_level: int = -1,
        add_extra_convs: bool | str = False,
        relu_before_extra_convs: bool = False,
        no_norm_on_lateral: bool = False,
        conv_cfg: dict[str, Any] | None = None,
        norm_cfg: dict[str, Any] | None = None,
        act_cfg: dict[str, Any] | None = None,
        upsample_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            init_cfg=init_cfg or dict(type='Xavier', layer='Conv2d', distribution='uniform')
        )
        if isinstance(add_extra_convs, str) and add_extra_convs not in _EXTRA_SOURCES:
            raise ValueError(
                f'neck.add_extra_convs must be True, False or one of {_EXTRA_SOURCES}, '
                f'got {add_extra_convs!r}'
            )
        end_level = len(in_channels) - 1 if end_level == -1 else end_level
        _check_levels(len(in_channels), start_level, end_level, num_outs)
        self.num_outs = num_outs
        self.start_level = start_level
        self.end_level = end_level
        self.add_extra_convs = 'on_input' if add_extra_convs is True else add_extra_convs
        self.relu_before_extra_convs = relu_before_extra_convs
        self.upsample_cfg = upsample_cfg or dict(mode='nearest')

        cfgs: dict[str, Any] = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        conv = partial(ConvModule, out_channels=out_channels, inplace=False, **cfgs)
        lateral = partial(conv, kernel_size=1, norm_cfg=None if no_norm_on_lateral else norm_cfg)
        output = partial(conv, kernel_size=3, padding=1)
        used = in_channels[start_level : end_level + 1]
        self.lateral_convs = nn.ModuleList(lateral(channels) for channels in used)
        self.fpn_convs = nn.ModuleList(output(out_channels) for _ in used)
        if self.add_extra_convs:
            for extra in range(num_outs - len(used)):
                on_input = extra == 0 and self.add_extra_convs == 'on_input'
                channels = in_channels[end_level] if on_input else out_channels
                self.fpn_convs.append(output(channels, stride=2))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return L maps (N, out_channels, h, w), given one per `in_channels`; all finest first."""
        if len(inputs) <= self.end_level:
            raise ValueError(
                f'neck.in_channels names {self.end_level + 1} inputs or more, the backbone gave '
                f'{len(inputs)}; make backbone.out_indices agree'
            )
        laterals = [
            conv(inputs[i]) for i, conv in enumerate(self.lateral_convs, start=self.start_level)
        ]
        for i in range(len(laterals) - 1, 0, -1):
            size = None if 'scale_factor' in self.upsample_cfg else laterals[i - 1].shape[2:]
            coarser = F.interpolate(laterals[i], size=size, **self.upsample_cfg)
            laterals[i - 1] = laterals[i - 1] + coarser
        outs = [conv(lateral) for conv, lateral in zip(self.fpn_convs, laterals, strict=False)]
        num_used = len(outs)
        sources = dict(on_input=inputs[self.end_level], on_lateral=laterals[-1], on_output=outs[-1])
        for i in range(num_used, self.num_outs):
            if not self.add_extra_convs:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
                continue
            source = sources[self.add_extra_convs] if i == num_used else outs[-1]
            if self.relu_before_extra_convs and i > num_used:
                source = F.relu(source)
            outs.append(self.fpn_convs[i](source))
        return tuple(outs)


def _check_levels(num_inputs: int, start_level: int, end_level: int, num_outs: int) -> None:
    last = num_inputs - 1
    if not 0 <= start_level <= end_level <= last:
        raise ValueError(
            f'neck: expected 0 <= start_level <= end_level <= {last} for {num_inputs} inputs, '
            f'got {start_level} and {end_level}'
        )
    num_used = end_level - start_level + 1
    if num_outs < num_used or (end_level < last and num_outs != num_used):
        raise ValueError(
            f'neck.num_outs: levels {start_level} to {end_level} give {num_used} outputs'
            f'{" or more" if end_level == last else ""}, got {num_outs}'
        )
