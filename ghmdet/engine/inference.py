"""Detections in a few lines of Python, under MMDetection's names."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader
from PIL import ImageOps
from PIL.Image import Image as PillowImage
from torch import Tensor

from ghmdet.checkpoint.pretrained import use_own_initializer
from ghmdet.checkpoint.weights import compare_classes, fit_state_dict
from ghmdet.checks.classes import take_checkpoint_classes
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.shipped import get_config, published_weights
from ghmdet.datasets.image_file import ImageError, applies_exif, find_orientation
from ghmdet.datasets.transforms import LoadImageFromFile, run_steps
from ghmdet.engine.format_only import innermost
from ghmdet.messages import list_items, type_name
from ghmdet.models.speedup import fuse_conv_bn
from ghmdet.registry import DATASETS, MODELS, TRANSFORMS
from ghmdet.structures import DetDataSample

Image = str | os.PathLike[str] | np.ndarray | Tensor | PillowImage
_EXPECTED = (
    'expected a path, a Pillow image, an array uint8 (h, w, 3) in BGR or a tensor uint8 (3, h, w) '
    'in BGR (the model normalises it), or a list of these'
)


def init_detector(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str = 'cpu',
    fold: bool = True,
) -> BaseModel:
    """Build a detector, load its weights and set it to eval mode.

    Args:
        config: config file, the name of a shipped one, or a config read already.
        checkpoint: file or URL of the weights; None leaves the model as built.
        device: where it runs, e.g. 'cuda:0'.
        fold: fuse the loaded batch norms into the convolutions, which is faster; set False for a
            model that is to be trained or saved.

    Returns:
        The model, with `cfg` and with `dataset_meta`, the class names of its labels. They are those
        of the checkpoint, else of the config's test dataset; a warning says if the config names
        others. If the config names no classes, their number is taken from the checkpoint too.

    Raises:
        CheckpointError: the model has parameters that the checkpoint lacks, e.g. its head has other
            classes.
    """
    if isinstance(config, Config):
        cfg = config
        convert_mmdet_config(cfg)
    else:
        cfg = get_config(config)
    if checkpoint is not None:
        loaded = CheckpointLoader.load_checkpoint(os.fspath(checkpoint), 'cpu', 'silent')
        cfg = copy.deepcopy(cfg)
        take_checkpoint_classes(cfg, loaded)
    model = MODELS.build(cfg.model)
    use_own_initializer(model)
    model.cfg = cfg
    dataset = _test_dataset(cfg)
    kind = dataset.get('type')
    if isinstance(kind, str):
        kind = DATASETS.get(kind) if kind in DATASETS else None
    model.dataset_meta = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    if checkpoint is not None:
        _load_weights(model, loaded, os.fspath(checkpoint))
    model.to(device).eval()
    if fold and checkpoint is not None:
        fuse_conv_bn(model)
    return model


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


@torch.no_grad()
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
    if isinstance(imgs, one) or not isinstance(imgs, Iterable):
        return _detect(model, imgs)
    return [_detect(model, img) for img in imgs]


def _load_weights(model: BaseModel, checkpoint: dict[str, Any], path: str) -> None:
    fitted, report = fit_state_dict(checkpoint, model, path)
    report.require_complete()
    given = (_test_dataset(model.cfg).get('metainfo') or {}).get('classes')
    if given and report.classes and compare_classes(given, report.classes):
        report.warnings.append(
            f'the config names other classes for test_dataloader.dataset ({list_items(given, 12)}) '
            f'than this file ({list_items(report.classes, 12)}); the labels are those of the file'
        )
    if report.warnings:
        report.log()
    model.load_state_dict(fitted)
    fits = report.num_classes is None or len(report.classes or ()) == report.num_classes[0]
    if report.classes is not None and fits:
        meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
        lower = {key.lower(): value for key, value in meta.items()}  # CLASSES in some files
        model.dataset_meta = {**lower, 'classes': report.classes}


def _test_dataset(cfg: Config) -> dict[str, Any]:
    return innermost((cfg.get('test_dataloader') or {}).get('dataset', {}))


def _detect(model: BaseModel, img: Any) -> DetDataSample:
    results: dict[str, Any] = dict(img_id=0)
    cfgs = _test_dataset(model.cfg)['pipeline']
    steps = [TRANSFORMS.build(s) for s in cfgs if not type_name(s).endswith('LoadAnnotations')]
    loader = next((s for s in steps if isinstance(s, LoadImageFromFile)), LoadImageFromFile())
    name = 'the image'
    if isinstance(img, str | os.PathLike):
        results['img_path'] = os.fspath(img)
        name = f'image {img}'
    else:
        array = _to_array(img, loader)
        results.update(img=array, img_shape=array.shape[:2], ori_shape=array.shape[:2])
        steps = [step for step in steps if not isinstance(step, LoadImageFromFile)]
    data = run_steps(steps, results, name)
    return model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]


def _to_array(img: Any, loader: LoadImageFromFile) -> np.ndarray:
    """Return an image as an array uint8 (h, w, 3) in BGR."""
    if isinstance(img, PillowImage):
        return _convert_pillow(img, applies_exif(loader.color_type))
    if not isinstance(img, np.ndarray | Tensor):
        raise TypeError(f'{_EXPECTED}; got {type(img).__name__}')
    shape = tuple(img.shape)
    valid = len(shape) == 3 and shape[0 if isinstance(img, Tensor) else 2] == 3 and 0 not in shape
    if not valid or img.dtype not in (np.uint8, torch.uint8):
        kind = 'a tensor' if isinstance(img, Tensor) else 'an array'
        raise ValueError(f'{_EXPECTED}; got {kind} {img.dtype} {shape}')
    if isinstance(img, Tensor):
        return np.ascontiguousarray(img.detach().cpu().permute(1, 2, 0).numpy())
    return img


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
