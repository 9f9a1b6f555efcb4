"""Builds the model of a config, with the weights and class names of a checkpoint."""

from __future__ import annotations

import copy
import os
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader

from ghmdet.checkpoint.pretrained import use_own_initializer
from ghmdet.checkpoint.weights import compare_classes, fit_state_dict
from ghmdet.checks.classes import take_checkpoint_classes
from ghmdet.config.data_root import find_datasets
from ghmdet.config.from_mmdet import convert_mmdet_config
from ghmdet.config.shipped import get_config, published_weights
from ghmdet.messages import list_items, type_name
from ghmdet.models.speedup import fuse_conv_bn
from ghmdet.registry import DATASETS, MODELS


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
    dataset = find_dataset(cfg)
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

    It is that of `init_detector`, with its arguments and errors, but has all of its layers, in eval
    mode (call `train()` to train). `pretrained` loads the published weights of the config. With
    neither checkpoint nor pretrained the weights are random; `init_weights()` gives those that a
    training starts from, which downloads the backbone.

    Raises:
        ValueError: both `checkpoint` and `pretrained` are given.
        LookupError: no weights are published for this config.
    """
    if pretrained:
        if checkpoint is not None:
            raise ValueError(f'give checkpoint or pretrained=True, not both; got {checkpoint}')
        checkpoint = published_weights(name)
    return init_detector(name, checkpoint, device, fold=False)


def find_dataset(cfg: Config, split: str = 'test') -> dict[str, Any]:
    """Return the config of the first dataset of a split that reads files, {} if there is none."""
    key = f'{split}_dataloader'
    return next((dict(found) for _, found in find_datasets({key: cfg.get(key)})), {})


def find_test_pipeline(cfg: Config) -> list[Any]:
    """Return the configs of the steps of its pipeline, without those that load annotations."""
    pipeline = find_dataset(cfg).get('pipeline') or ()
    return [step for step in pipeline if not type_name(step).endswith('LoadAnnotations')]


def _load_weights(model: BaseModel, checkpoint: dict[str, Any], path: str) -> None:
    fitted, report = fit_state_dict(checkpoint, model, path)
    report.require_complete()
    given = (find_dataset(model.cfg).get('metainfo') or {}).get('classes')
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
