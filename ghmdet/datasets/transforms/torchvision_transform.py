"""Transforms of torchvision in a pipeline."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ghmdet.datasets.transforms.annotations import keep_annotations, read_bboxes
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.messages import did_you_mean, nearest
from ghmdet.registry import TRANSFORMS

_COLOR_ONLY = (
    'ColorJitter GaussianBlur GaussianNoise Grayscale Identity JPEG RGB RandomAdjustSharpness '
    'RandomAutocontrast RandomChannelPermutation RandomEqualize RandomErasing RandomGrayscale '
    'RandomInvert RandomPhotometricDistort RandomPosterize RandomSolarize'
)
_REFUSED = {
    'Transform SetClampingMode ConvertBoundingBoxFormat ClampKeyPoints SanitizeKeyPoints '
    'UniformTemporalSubsample CutMix MixUp AugMix AutoAugment RandAugment TrivialAugmentWide '
    'FiveCrop TenCrop': 'does not change one image with its boxes',
    'Compose Lambda RandomApply RandomChoice RandomOrder': 'takes other transforms or functions: '
    'list each of them as a step, in RandomApply or RandomChoice of mmcv if at random',
    'ConvertImageDtype LinearTransformation Normalize PILToTensor ToDtype ToImage ToPILImage '
    'ToPureTensor ToTensor': 'changes the type of the image, which stays an array of uint8 here '
    'until model.data_preprocessor normalises it',
}


@TRANSFORMS.register_module()
class TorchvisionTransform(Transform):
    """A transform of torchvision.transforms.v2 that can take an image with its boxes.

    It is for training; one that changes only colours may be in a test pipeline too. The random
    numbers are torch's, which a training seeds for each sample by (seed, epoch, index).

    The image must be uint8. torchvision gets it in RGB, so `fill` and such are in RGB. Boxes that
    it drops are dropped with labels and flags, and so are those without area, to which its crops
    cut boxes outside.

    Args:
        name: class name in torchvision.transforms.v2, e.g. 'RandomRotation'.
        **kwargs: arguments of that class.

    Raises:
        ValueError: there is no such class, it does not take an image with boxes, or its arguments
            are wrong.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        self.name, self.inner = name, _build(name, kwargs)
        self.moves_boxes = name not in _COLOR_ONLY.split()

    def transform(self, results: dict) -> dict:
        """Transform `img`, (h, w, 3) in BGR or (h, w), and its boxes."""
        img = results['img']
        if img.dtype != np.uint8:
            raise ValueError(
                f'TorchvisionTransform ({self.name}) needs an image of uint8, got {img.dtype}: put '
                'it before PhotoMetricDistortion, and leave out to_float32 of LoadImageFromFile'
            )
        rgb = np.ascontiguousarray(img[..., ::-1] if img.ndim == 3 else img[..., None])
        sample: dict[str, Any] = {'image': tv_tensors.Image(torch.from_numpy(rgb).permute(2, 0, 1))}
        bboxes = read_bboxes(results)
        if self.moves_boxes:  # some only take images that have boxes
            given = np.zeros((0, 4), np.float32) if bboxes is None else bboxes
            sample['boxes'] = tv_tensors.BoundingBoxes(
                torch.from_numpy(given), format='XYXY', canvas_size=img.shape[:2]
            )
            sample['labels'] = torch.arange(len(given))  # which boxes are left
        sample = self.inner(sample)
        rgb = sample['image'].permute(1, 2, 0).numpy()
        results['img'] = np.ascontiguousarray(rgb[..., ::-1] if rgb.shape[2] > 1 else rgb[..., 0])
        results['img_shape'] = rgb.shape[:2]
        if self.moves_boxes and bboxes is not None:
            bboxes, left = sample['boxes'].numpy(), sample['labels'].numpy()
            has_area = (bboxes[:, 2:] > bboxes[:, :2]).all(axis=1)
            keep_annotations(results, left[has_area])
            results['gt_bboxes'] = bboxes[has_area]
        return results


def _build(name: str, kwargs: dict[str, Any]) -> v2.Transform:
    """Build a transform of torchvision; a ValueError if it cannot be used."""
    place = f'TorchvisionTransform: {name} of torchvision.transforms.v2'
    refused = {each: reason for names, reason in _REFUSED.items() for each in names.split()}
    if name in refused:
        raise ValueError(f'{place} {refused[name]}')
    kind = getattr(v2, str(name), None)
    if not (inspect.isclass(kind) and issubclass(kind, v2.Transform)):
        names = [each for each in dir(v2) if each[0].isupper() and each not in refused]
        near = did_you_mean(nearest(str(name), names))
        raise ValueError(
            f'TorchvisionTransform.name must be a class of torchvision.transforms.v2, got {name!r}'
            f'{near}'
        )
    known = [key for key in inspect.signature(kind).parameters if key != 'labels_getter']
    for key in kwargs:
        if key not in known:
            near = did_you_mean(nearest(key, known))
            raise ValueError(f'{place} takes no {key!r} here, but {known}{near}')
    if name == 'RandomIoUCrop' and max(kwargs.get('sampler_options') or [1]) < 1:
        raise ValueError(
            f'{place}: sampler_options must contain 1.0, which leaves an image as it is, else it '
            'never ends for an image without boxes'
        )
    try:
        return kind(**kwargs)
    except Exception as error:
        raise ValueError(f'{place}: {error}') from error
