"""Anchors: the reference boxes at every position of the feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ghmdet.argument_checks import check_integer, check_range, is_number
from ghmdet.registry import TASK_UTILS


@TASK_UTILS.register_module()
class AnchorGenerator:
    """Generates len(scales) * len(ratios) anchors for every cell of every level.

    Args:
        strides: pixels of the network's input per cell, one per level; a pair is (w, h).
        ratios: height / width of the anchors.
        scales: anchor side in units of the level's base size. Give either these or the two
            octave arguments.
        base_sizes: side in pixels for scale 1, one per level; default the stride.
        scale_major: order of the anchors in a cell: ratio by ratio (True) or scale by scale.
        octave_base_scale: the smallest scale of an octave.
        scales_per_octave: number of scales in an octave, 2 ** (i / scales_per_octave).
        center_offset: the anchor's centre in its cell, as a fraction of the base size; 0 is the
            cell's top left corner.

    Raises:
        ValueError: both or neither of scales and octave arguments, lengths that disagree, or a
            value that is not positive.

    Example:
        >>> anchors = AnchorGenerator(strides=[16], ratios=[1.0], scales=[1.0])
        >>> anchors.grid_priors([(1, 2)])[0]
        tensor([[-8., -8.,  8.,  8.],
                [ 8., -8., 24.,  8.]])
    """

    def __init__(
        self,
        strides: Sequence[int | tuple[int, int]],
        ratios: Sequence[float],
        scales: Sequence[float] | None = None,
        base_sizes: Sequence[float] | None = None,
        scale_major: bool = True,
        octave_base_scale: float | None = None,
        scales_per_octave: int | None = None,
        center_offset: float = 0.0,
    ) -> None:
        octave = octave_base_scale is not None and scales_per_octave is not None
        if octave == (scales is not None):
            raise ValueError(
                'anchor_generator: set either `scales` or both `octave_base_scale` and '
                f'`scales_per_octave`; got scales={scales}, octave_base_scale={octave_base_scale}, '
                f'scales_per_octave={scales_per_octave}'
            )
        _check_positive('strides', strides, pairs=True)
        _check_positive('ratios', ratios)
        for name, values in (('scales', scales), ('base_sizes', base_sizes)):
            if values is not None:
                _check_positive(name, values)
        if octave_base_scale is not None and scales_per_octave is not None:
            _check_positive('octave_base_scale', [octave_base_scale])
            check_integer('anchor_generator.scales_per_octave', scales_per_octave, 1)
            steps = range(scales_per_octave)
            scales = [octave_base_scale * 2 ** (i / scales_per_octave) for i in steps]
        check_range('anchor_generator.center_offset', center_offset, 0, 1)
        self.strides = [(s, s) if isinstance(s, int) else (s[0], s[1]) for s in strides]
        self.base_sizes = [min(s) for s in self.strides] if base_sizes is None else list(base_sizes)
        if len(self.base_sizes) != len(self.strides):
            raise ValueError(
                f'anchor_generator: {len(self.strides)} strides but '
                f'{len(self.base_sizes)} base_sizes; set one per level'
            )
        self.scales = torch.tensor(scales, dtype=torch.float32)
        self.ratios = torch.tensor(ratios, dtype=torch.float32)
        self.scale_major = scale_major
        self.center_offset = center_offset
        self.base_anchors = [self._base_anchors_of(size) for size in self.base_sizes]
        self.num_levels = len(self.strides)
        # Anchors per cell, one number a level.
        self.num_base_priors = [len(anchors) for anchors in self.base_anchors]

    def _base_anchors_of(self, base_size: float) -> Tensor:
        """Anchors (A, 4) of the cell at the origin; each has the area (base_size * scale) ** 2."""
        height_factors = torch.sqrt(self.ratios)
        sides = []
        for factors in (1 / height_factors, height_factors):
            outer, inner = (factors, self.scales) if self.scale_major else (self.scales, factors)
            sides.append((base_size * outer[:, None] * inner).flatten())
        center = self.center_offset * base_size
        halves = 0.5 * torch.stack(sides, dim=-1)
        return torch.cat([center - halves, center + halves], dim=-1)

    def grid_priors(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ) -> list[Tensor]:
        """Anchors of whole feature maps, whose sizes are (h, w) in cells.

        Returns:
            One tensor (h * w * A, 4) per level, x1 y1 x2 y2 in pixels of the padded network input,
            over rows, then columns, then the anchors of a cell; they may reach beyond the image.
        """
        self._check_levels(featmap_sizes)
        grids = []
        for base, (h, w), (stride_w, stride_h) in zip(
            self.base_anchors, featmap_sizes, self.strides, strict=True
        ):
            base = base.to(device=device, dtype=dtype)
            x = torch.arange(w, device=device).to(dtype) * stride_w
            y = torch.arange(h, device=device).to(dtype) * stride_h
            y, x = torch.meshgrid(y, x, indexing='ij')
            shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
            grids.append((base + shifts).view(-1, 4))
        return grids

    def valid_flags(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        pad_shape: Sequence[int],
        device: torch.device | str = 'cpu',
    ) -> list[Tensor]:
        """Return which anchors have their cell on the image, not on the padding of the batch.

        `pad_shape` is (h, w, ...) in pixels of this image padded to the size divisor. The result is
        one bool tensor (h * w * A,) per level, in the order of `grid_priors`.
        """
        self._check_levels(featmap_sizes)
        flags = []
        for num_priors, (h, w), (stride_w, stride_h) in zip(
            self.num_base_priors, featmap_sizes, self.strides, strict=True
        ):
            rows = torch.arange(h, device=device) < math.ceil(pad_shape[0] / stride_h)
            columns = torch.arange(w, device=device) < math.ceil(pad_shape[1] / stride_w)
            cells = rows[:, None] & columns[None, :]
            flags.append(cells[..., None].expand(h, w, num_priors).reshape(-1))
        return flags

    def _check_levels(self, featmap_sizes: Sequence[tuple[int, int]]) -> None:
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(
                f'anchor_generator.strides has {self.num_levels} levels but the neck gave '
                f'{len(featmap_sizes)} feature maps; set neck.num_outs to the number of strides'
            )


def _check_positive(name: str, values: Any, pairs: bool = False) -> None:
    """Raise a ValueError unless `values` are positive numbers or, if allowed, pairs."""
    flat = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
    if pairs:
        flat = [v for value in flat for v in (value if isinstance(value, Sequence) else [value])]
    if not flat or not all(is_number(v) and 0 < v < math.inf for v in flat):
        raise ValueError(
            f'anchor_generator.{name} must be positive numbers, at least one, got {values!r}'
        )
