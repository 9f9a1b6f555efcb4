"""Detections in a few lines of Python, under MMDetection's names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint

from ghmdet.engine.network import fold_batch_norms
from ghmdet.registry import MODELS, TRANSFORMS
from ghmdet.structures import DetDataSample

Image = str | os.PathLike[str] | np.ndarray


def init_detector(
    config: str | os.PathLike[str] | Config,
    checkpoint: str | None = None,
    device: str = 'cpu',
    fold: bool = True,
) -> BaseModel:
    """Build a detector, load its weights and set it to eval mode.

    Args:
        config: config file, or a config read already.
        checkpoint: file or URL of the weights; None leaves the model as built.
        device: where it runs, e.g. 'cuda:0'.
        fold: multiply the loaded batch norms into the convolutions, which is faster; set False for
            a model that is to be trained or saved.

    Returns:
        The model, with `cfg` and with `dataset_meta`, the class names of its labels, taken from the
        checkpoint, else from the config's test data.
    """
    cfg = config if isinstance(config, Config) else Config.fromfile(config)
    model = MODELS.build(cfg.model)
    model.cfg = cfg
    model.dataset_meta = dict(cfg.test_dataloader.dataset.get('metainfo') or {})
    if checkpoint is not None:
        meta = load_checkpoint(model, checkpoint, map_location='cpu').get('meta', {})
        model.dataset_meta = meta.get('dataset_meta') or model.dataset_meta
    model.to(device).eval()
    if fold and checkpoint is not None:
        fold_batch_norms(model)
    return model


@torch.no_grad()
def inference_detector(
    model: BaseModel, imgs: Image | Sequence[Image]
) -> DetDataSample | list[DetDataSample]:
    """Detect the objects in images, one after the other.

    Args:
        model: from `init_detector`.
        imgs: path of an image, or an image uint8 (h, w, 3) in BGR, or a list of these.

    Returns:
        One sample an image (a list for a list); its `pred_instances` hold `bboxes` (n, 4) x1 y1 x2
        y2 in pixels of the original image, `scores` (n,) best first, and `labels` (n,).
    """
    if isinstance(imgs, str | os.PathLike | np.ndarray):
        return _detect(model, imgs)
    return [_detect(model, img) for img in imgs]


def _detect(model: BaseModel, img: Image) -> DetDataSample:
    data = _pipeline(model.cfg, skip_loading=isinstance(img, np.ndarray))(_start(img))
    return model.test_step(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]))[0]


def _start(img: Image) -> dict[str, Any]:
    """What the pipeline starts from."""
    if isinstance(img, np.ndarray):
        return dict(img=img, img_shape=img.shape[:2], ori_shape=img.shape[:2], img_id=0)
    return dict(img_path=os.fspath(img), img_id=0)


def _pipeline(cfg: Config, skip_loading: bool) -> Compose:
    """The test pipeline without annotations."""
    left_out = {'LoadAnnotations'} | ({'LoadImageFromFile'} if skip_loading else set())
    steps = cfg.test_dataloader.dataset.pipeline
    return Compose([TRANSFORMS.build(step) for step in steps if step['type'] not in left_out])
