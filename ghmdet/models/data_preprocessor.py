"""Makes one batch of a list of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from ghmdet.argument_checks import check_flag, check_number, check_numbers
from ghmdet.registry import MODELS

# From about this many pixels per batch on, convolutions on a CPU are faster with channels last.
_MIN_PIXELS_CHANNELS_LAST = 2**18


@MODELS.register_module()
class DetDataPreprocessor(ImgDataPreprocessor):
    """mmengine's preprocessor, which also sets the padded shapes of the samples.

    Images of unequal size are normalised, padded at the right and the bottom with `pad_value` to a
    common size divisible by `pad_size_divisor`, and stacked. The values are mmengine's, but the
    batch is written once instead of copied in each step. Its memory format is channels last where
    convolutions are then faster: on a GPU, and on a CPU from 2**18 pixels on.

    Args:
        *args: of `mmengine.model.ImgDataPreprocessor`.
        batch_augments: configs of modules that change the batch and its samples in a training, one
            after the other, e.g. `[dict(type='BatchFixedSizePad', size=(1024, 1024))]`.
        sync_batch_shape: whether all processes of a distributed training pad to one common size, as
            one process would with the joined batch. Features near the edge of an image depend on
            the padding, so otherwise the losses differ by some percent. Needs one all-reduce of two
            numbers per step. None: if RetinaNet has a loss with `sync=True`.
        **kwargs: of `mmengine.model.ImgDataPreprocessor`.

    Raises:
        ValueError: `batch_augments` is no list, or `sync_batch_shape` not a bool or None.
    """

    def __init__(
        self,
        *args: Any,
        batch_augments: Sequence[dict] | None = None,
        sync_batch_shape: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(batch_augments, list | tuple | None):
            raise ValueError(
                'DetDataPreprocessor: batch_augments must be a list, e.g. '
                "[dict(type='BatchFixedSizePad', size=(1024, 1024))], or None, got "
                f'{batch_augments!r}'
            )
        if not isinstance(sync_batch_shape, bool | None):
            raise ValueError(
                'DetDataPreprocessor: sync_batch_shape must be True, False or None, got '
                f'{sync_batch_shape!r}'
            )
        super().__init__(*args, **kwargs)
        self.sync_batch_shape = sync_batch_shape
        self.batch_augments = nn.ModuleList(map(MODELS.build, batch_augments or ()))

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return `inputs` float32 (N, 3, H, W) and the samples, in the order given.

        `data` has `inputs`, a list of uint8 (3, h, w) or one tensor (N, 3, h, w), and
        `data_samples`, a list of DetDataSample or None.

        Every sample gains `batch_input_shape` (H, W) and `pad_shape`, the (h, w) of its own image
        padded to the divisor: anchors beyond it are on padding only. `batch_augments` may change
        these.

        Raises:
            ValueError: an image is not (channels, h, w), or has another number of channels than
                `mean`.
        """
        data = self.cast_data(data)
        images = list(data['inputs'])
        self._check_images(images)
        pad_hws = [self.padded_size(image) for image in images]
        batch_hw = tuple(map(max, zip(*pad_hws, strict=True)))
        data.setdefault('data_samples', None)
        if self.sync_batch_shape and training:
            batch_hw = _widen(batch_hw, data['data_samples'] or [])
        data['inputs'] = self._stack(images, batch_hw)
        if data['data_samples'] is not None:
            for sample, pad_hw in zip(data['data_samples'], pad_hws, strict=True):
                sample.set_metainfo(dict(batch_input_shape=batch_hw, pad_shape=pad_hw))
        inputs, samples = data['inputs'], data['data_samples']
        for augment in self.batch_augments if training else ():
            inputs, samples = augment(inputs, samples)
        if inputs.device.type == 'cpu' and inputs[:, 0].numel() < _MIN_PIXELS_CHANNELS_LAST:
            inputs = inputs.contiguous()
        return {**data, 'inputs': inputs, 'data_samples': samples}

    def _check_images(self, images: list[Tensor]) -> None:
        """Raise if the images have other channels than each other or than `mean`."""
        channels = len(self.mean) if self._enable_normalize else 1
        for image in images:
            if image.ndim != 3 or channels not in (1, len(image)) or len(image) != len(images[0]):
                raise ValueError(
                    'DetDataPreprocessor: inputs must be images (channels, h, w) with the same '
                    f'number of channels, that of mean unless it is 1; got {tuple(image.shape)} '
                    f'among {len(images)}, mean has {channels}'
                )

    def _stack(self, images: list[Tensor], batch_hw: tuple[int, int]) -> Tensor:
        """Return the batch (N, channels, H, W), channels last in memory."""
        channels = len(images[0])
        shape = (len(images), *batch_hw, channels)
        batch = torch.empty(shape, dtype=torch.float32, device=images[0].device)
        for image, slot in zip(images, batch, strict=True):
            height, width = image.shape[1:]
            slot[height:] = self.pad_value
            slot[:height, width:] = self.pad_value
            pixels = slot[:height, :width]
            planes = image.unbind()[::-1] if self._channel_conversion else image.unbind()
            pixels.copy_(torch.stack(planes, dim=-1))
            if self._enable_normalize:
                # Repeated to whole rows: an inner loop over three channels is slow.
                mean, std = (
                    value.flatten().expand(channels).repeat(width)
                    for value in (self.mean, self.std)
                )
                pixels.view(height, -1).sub_(mean).div_(std)
        return batch.permute(0, 3, 1, 2)

    def padded_size(self, image: Tensor) -> tuple[int, int]:
        """Return the (h, w) of an image (channels, h, w) after padding to the divisor."""
        divisor = self.pad_size_divisor
        height, width = (math.ceil(side / divisor) * divisor for side in image.shape[-2:])
        return height, width


def _widen(batch_hw: tuple[int, ...], samples: list[Any]) -> tuple[int, ...]:
    """Return the size (H, W) that holds the images of all processes."""
    # The joined batch has no padding samples, so their size does not count.
    counts = not samples or any(not sample.get('is_padding', False) for sample in samples)
    largest = torch.tensor(batch_hw) * counts
    all_reduce(largest, 'max')
    return tuple(map(max, batch_hw, largest.tolist()))


@MODELS.register_module()
class BatchFixedSizePad(nn.Module):
    """Pad a batch (N, channels, H, W) at the right and the bottom to at least a fixed size.

    Where it pads, `batch_input_shape` and `pad_shape` of all samples become the new (H, W), so that
    anchors on the padding are learnt as background, as in MMDetection. MMDetection writes `size`
    there even if one side of the batch is larger.

    Args:
        size: (height, width) in pixels.
        img_pad_value: the value of the padding, in units of the normalised image.
        pad_mask: only False; ghmdet has no masks.
        mask_pad_value: not used.
        pad_seg: only False; ghmdet has no segmentation.
        seg_pad_value: not used.
    """

    def __init__(
        self,
        size: Sequence[int],
        img_pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
    ) -> None:
        super().__init__()
        check_numbers('BatchFixedSizePad.size (height, width)', size, low=1, whole=True)
        check_number('BatchFixedSizePad.img_pad_value', img_pad_value, 'a number', math.isfinite)
        check_flag('BatchFixedSizePad.pad_mask', pad_mask, (False,))
        check_flag('BatchFixedSizePad.pad_seg', pad_seg, (False,))
        self.size, self.img_pad_value = size, img_pad_value

    def forward(self, inputs: Tensor, data_samples: list | None = None) -> tuple[Tensor, Any]:
        """Return the padded batch and its samples, the same objects."""
        hw = tuple(inputs.shape[-2:])
        new_hw = max(hw[0], self.size[0]), max(hw[1], self.size[1])
        if new_hw != hw:
            missing = (0, new_hw[1] - hw[1], 0, new_hw[0] - hw[0])
            inputs = F.pad(inputs, missing, value=self.img_pad_value)
            for sample in data_samples or ():
                sample.set_metainfo(dict(batch_input_shape=new_hw, pad_shape=new_hw))
        return inputs, data_samples
