"""Detections in a few lines of Python, under MMDetection's names; see `ghmdet.Detector`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np
from mmengine.config import Config
from mmengine.model import BaseModel
from PIL.Image import Image as PillowImage
from torch import Tensor

from ghmdet.config.shipped import published_weights
from ghmdet.inference.detector import Detector
from ghmdet.inference.model import init_detector
from ghmdet.inference.sources import SourceImage, to_bgr
from ghmdet.structures import DetDataSample

__all__ = ['get_model', 'inference_detector', 'init_detector']
Image = str | os.PathLike[str] | np.ndarray | Tensor | PillowImage


def get_model(
    name: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    device: str = 'cpu',
) -> BaseModel:
    """Build the detector of a config, to predict with it or to train it in a loop of your own.

    Args:
        name: name of a shipped config, a config file, or a config read already.
        checkpoint: file or URL of the weights.
        pretrained: load the published weights of the config.
        device: where it runs, e.g. 'cuda:0'.

    Returns:
        The model as from `init_detector`, but with all of its layers, in eval mode (call `train()`
        to train). With neither checkpoint nor pretrained its weights are random; `init_weights()`
        gives those that a training starts from, which downloads the backbone.

    Raises:
        ValueError: both `checkpoint` and `pretrained` are given.
        LookupError: no weights are published for this config.
        CheckpointError: the model has parameters that the weights lack.

    Example:
        >>> model = get_model('retinanet_ghm_r18_fpn_shapes')
        >>> model.training, model.dataset_meta['classes']
        (False, ('circle', 'square', 'triangle'))
    """
    if pretrained:
        if checkpoint is not None:
            raise ValueError(f'give checkpoint or pretrained=True, not both; got {checkpoint}')
        checkpoint = published_weights(name.filename if isinstance(name, Config) else name)
    return init_detector(name, checkpoint, device, fold=False)


def inference_detector(
    model: BaseModel, imgs: Image | Iterable[Image]
) -> DetDataSample | list[DetDataSample]:
    """Detect the objects in images, one after the other.

    Args:
        model: from `init_detector`.
        imgs: path of an image (str or path object), a Pillow image (of a mode that Pillow converts
            to RGB, or 16-bit grey; EXIF is applied or not as for a file, that of a TIFF always), an
            array uint8 (h, w, 3) in BGR, a tensor uint8 (3, h, w) in BGR on any device, or a list
            or other iterable of these.

    Returns:
        One sample per image (a list for a list); its `pred_instances` hold `bboxes` (n, 4) x1 y1 x2
        y2 in pixels of the original image, `scores` (n,) best first, and `labels` (n,).

    Raises:
        TypeError: what is given is no image; encoded bytes are read with
            `PIL.Image.open(io.BytesIO(content))`.
        ValueError: an array or tensor is not uint8, or of another shape.
        ImageError: an image cannot be read or used.
    """
    one = str | bytes | np.ndarray | Tensor | Mapping
    several = None if isinstance(imgs, one) or not isinstance(imgs, Iterable) else imgs
    detector, found = Detector(model), []
    for img in [imgs] if several is None else several:
        if isinstance(img, str | os.PathLike):
            source = SourceImage('', os.fspath(img))
        else:
            source = SourceImage('', None, None, to_bgr(img, 'bgr', detector.applies_exif))
        found += detector.predict([detector.prepare(source)])
    return found[0] if several is None else found
