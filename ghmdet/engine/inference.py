"""Detections in a few lines of Python, under MMDetection's names."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader

from ghmdet.checkpoint.pretrained import use_own_initializer
from ghmdet.checkpoint.weights import compare_classes, fit_state_dict
from ghmdet.checks.classes import take_checkpoint_classes
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.shipped import get_config, published_weights
from ghmdet.engine.format_only import innermost
from ghmdet.messages import list_items
from ghmdet.models.speedup import fuse_conv_bn
from ghmdet.registry import DATASETS, MODELS, TRANSFORMS
from ghmdet.structures import DetDataSample

Image = str | os.PathLike[str] | np.ndarray


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
        to train). With neither checkpoint nor pretrained its weights
        are random; its `init_weights()` gives those that a training starts from, which downloads
        the backbone.

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
    model: BaseModel, imgs: Image | Sequence[Image]
) -> DetDataSample | list[DetDataSample]:
    """Detect the objects in images, one after the other.

    Args:
        model: from `init_detector`.
        imgs: path of an image, or an image uint8 (h, w, 3) in BGR, or a list of these.

    Returns:
        One sample per image (a list for a list); its `pred_instances` hold `bboxes` (n, 4) x1 y1 x2
        y2 in pixels of the original image, `scores` (n,) best first, and `labels` (n,).
    """
    if isinstance(imgs, str | os.PathLike | np.ndarray):
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


def _detect(model: BaseModel, img: Image) -> DetDataSample:
    results: dict[str, Any] = dict(img_id=0)
    skipped = {'LoadAnnotations'}
    if isinstance(img, np.ndarray):
        if img.shape[2:] != (3,) or str(img.dtype) not in ('uint8', 'float32'):
            raise ValueError(
                'img must be uint8 (h, w, 3) in BGR, got an array '
                f'{img.dtype} {img.shape}; cv2.imread returns such an image for any file'
            )
        results.update(img=img, img_shape=img.shape[:2], ori_shape=img.shape[:2])
        skipped.add('LoadImageFromFile')
    else:
        results['img_path'] = os.fspath(img)
    steps = _test_dataset(model.cfg)['pipeline']
    pipeline = Compose([TRANSFORMS.build(step) for step in steps if step['type'] not in skipped])
    data: Any = pipeline(results)
    return model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]
