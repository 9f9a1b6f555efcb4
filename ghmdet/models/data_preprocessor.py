"""From a list of images to one batch."""

from __future__ import annotations

import math
from typing import Any

from mmengine.model import ImgDataPreprocessor

from ghmdet.registry import MODELS


@MODELS.register_module()
class DetDataPreprocessor(ImgDataPreprocessor):
    """mmengine's preprocessor, which also tells every sample how it was padded.

    Images of unequal size are normalised, padded at the right and the bottom with `pad_value` to a
    common size that `pad_size_divisor` divides, and stacked. Constructor: see
    `mmengine.model.ImgDataPreprocessor`.

    Example:
        >>> import torch
        >>> from ghmdet.structures import DetDataSample
        >>> data = dict(inputs=[torch.zeros(3, 50, 90)], data_samples=[DetDataSample()])
        >>> data = DetDataPreprocessor(pad_size_divisor=32)(data)
        >>> tuple(data['inputs'].shape), data['data_samples'][0].pad_shape
        ((1, 3, 64, 96), (64, 96))
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return `inputs` float32 (N, 3, H, W) and the samples, in the order given.

        Args:
            data: `inputs`, a list of uint8 (3, h, w) or one tensor (N, 3, h, w), and
                `data_samples`, a list of DetDataSample or None.
            training: whether this is a training step.

        Every sample gains `batch_input_shape` (H, W) and `pad_shape`, the (h, w) of its own image
        padded to the divisor: anchors beyond it lie on nothing but padding.
        """
        image_hws = [tuple(image.shape[-2:]) for image in data['inputs']]
        data = super().forward(data, training)
        if data.get('data_samples') is not None:
            batch_hw = tuple(data['inputs'].shape[-2:])
            for sample, image_hw in zip(data['data_samples'], image_hws, strict=True):
                pad_hw = tuple(self._round_up(side) for side in image_hw)
                sample.set_metainfo(dict(batch_input_shape=batch_hw, pad_shape=pad_hw))
        return data

    def _round_up(self, side: int) -> int:
        return math.ceil(side / self.pad_size_divisor) * self.pad_size_divisor
