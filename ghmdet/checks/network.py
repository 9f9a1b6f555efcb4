"""Checks that backbone, neck and head fit together, with one forward pass before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ghmdet.config.errors import ConfigError
from ghmdet.models.wrappers import unwrap


@torch.no_grad()
def check_network(cfg: Config, model: nn.Module) -> None:
    """Raise a ConfigError if channels, levels or strides of backbone, neck and head disagree.

    Detectors other than RetinaNet with a RetinaHead are skipped.
    """
    detector: Any = unwrap(model)
    head: Any = getattr(detector, 'bbox_head', None)
    if (type(detector).__name__, type(head).__name__) != ('RetinaNet', 'RetinaHead'):
        return
    model_cfg = cfg.model.get('module', cfg.model)  # test-time augmentation wraps the model
    training = detector.training
    detector.eval()
    strides = head.prior_generator.strides
    side = max(64, *(max(stride) for stride in strides))
    image = torch.zeros(1, 3, side, side, device=next(detector.parameters()).device)
    stages = detector.backbone(image)
    _check_channels('neck', model_cfg.get('neck'), 'backbone', [s.shape[1] for s in stages])
    feats = detector.neck(stages)
    source = 'neck' if model_cfg.get('neck') else 'backbone'
    _check_channels('bbox_head', model_cfg.bbox_head, source, [f.shape[1] for f in feats])
    _check_strides(side, [max(stride) for stride in strides], feats, source)
    detector.train(training)


def _check_channels(
    part: str, part_cfg: Mapping[str, Any] | None, source: str, given: list[int]
) -> None:
    """Compare `in_channels`, one number for all levels or a list, with the channels given."""
    expected = (part_cfg or {}).get('in_channels')
    if expected is None:
        return
    wanted = list(expected) if isinstance(expected, Sequence) else [expected] * len(given)
    if wanted == given:
        return
    new = given if isinstance(expected, Sequence) else given[0]
    advice = f'set model.{part}.in_channels={new}, or change model.{source}'
    if not isinstance(expected, Sequence) and len(set(given)) > 1:
        advice = 'add a model.neck, e.g. an FPN, that makes them equal'
    raise ConfigError(
        f'model.{part}.in_channels={expected}, but model.{source} returns maps of {given} '
        f'channels: {advice}'
    )


def _check_strides(side: int, strides: Sequence[int], feats: Sequence[Tensor], source: str) -> None:
    found = [round(side / feat.shape[-1]) for feat in feats]
    close = len(found) == len(strides) and all(
        2 / 3 < real / stride < 3 / 2 for real, stride in zip(found, strides, strict=True)
    )
    if not close:
        raise ConfigError(
            f'model.bbox_head.anchor_generator.strides={list(strides)}, but model.{source} '
            f'returns {len(found)} maps of strides {found}: set these strides, or change '
            'model.neck.num_outs and start_level, or model.backbone.out_indices'
        )
