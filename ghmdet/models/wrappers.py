"""Finds the detector inside model wrappers."""

from __future__ import annotations

from typing import cast

from mmengine.hooks import EMAHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the detector inside distributed and test-time augmentation wrappers."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    return model


def detectors_of(runner: Runner) -> dict[str, nn.Module]:
    """Return the detector of a run as '', and its moving average, if there is one, as 'ema.'."""
    found = {'': unwrap(runner.model)}
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            found['ema.'] = hook.ema_model.module
    return found
