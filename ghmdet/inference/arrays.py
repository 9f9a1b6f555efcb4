"""Images in memory: arrays, tensors and Pillow images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import ImageOps
from PIL.Image import Image as PillowImage
from torch import Tensor

from ghmdet.datasets.image_file import ImageError, find_orientation


def check_channel_order(order: Any) -> None:
    """Raise a ValueError unless it is 'bgr' or 'rgb'."""
    if order not in ('bgr', 'rgb'):
        raise ValueError(f"channel_order must be 'bgr' or 'rgb', got {order!r}")


def to_bgr(image: Any, channel_order: str = 'bgr', apply_exif: bool = True) -> np.ndarray:
    """Return an array, tensor or Pillow image as an array uint8 (h, w, 3) in BGR.

    Raises:
        TypeError, ValueError: it is none of these, or has another type or shape.
        ImageError: the Pillow image cannot be used.
    """
    check_array(image, channel_order)
    if isinstance(image, PillowImage):
        return _convert_pillow(image, apply_exif)
    if isinstance(image, Tensor):
        image = np.ascontiguousarray(image.detach().cpu().permute(1, 2, 0).numpy())
    return image if channel_order == 'bgr' else np.ascontiguousarray(image[..., ::-1])


def check_array(image: Any, channel_order: str) -> None:
    """Raise unless it is an array, tensor or Pillow image that can be used."""
    order, shape = channel_order.upper(), tuple(getattr(image, 'shape', ()))
    expected = (
        f'expected a path, a Pillow image, an array uint8 (h, w, 3) in {order} or a tensor uint8 '
        f'(3, h, w) in {order} (the model normalises it), or a list of these'
    )
    if isinstance(image, PillowImage):
        return
    if not isinstance(image, np.ndarray | Tensor):
        raise TypeError(f'{expected}; got {type(image).__name__}')
    valid = len(shape) == 3 and shape[0 if isinstance(image, Tensor) else 2] == 3 and 0 not in shape
    if not valid or image.dtype not in (np.uint8, torch.uint8):
        kind = 'a tensor' if isinstance(image, Tensor) else 'an array'
        is_grey = isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype == np.uint8
        advice = '; give a grey image as PIL.Image.fromarray(array)' if is_grey else ''
        raise ValueError(f'{expected}; got {kind} {image.dtype} {shape}{advice}')


def _convert_pillow(image: PillowImage, apply_exif: bool) -> np.ndarray:
    """Convert to what `read_image` returns for a file of the image."""
    try:
        image.load()  # applies the orientation of a TIFF
        if apply_exif and find_orientation(image.info.get('exif', b'')) in range(2, 9):
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith('I;16'):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if image.mode in ('I', 'F'):
            raise ValueError(
                f'its pixels (mode {image.mode}) have no known range; scale them to 0 to 255 and '
                "convert it to mode 'L'"
            )
        return np.ascontiguousarray(np.asarray(image.convert('RGB'))[..., ::-1])
    except (OSError, ValueError, SyntaxError) as error:
        name = getattr(image, 'filename', '') or repr(image)
        raise ImageError(f'the Pillow image {name} cannot be used: {error}') from error
