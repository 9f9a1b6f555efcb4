"""`init_cfg=dict(type='Pretrained')`: initial weights of a model or of a part of it from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import nn

from ghmdet.checkpoint.weights import fit_state_dict, shorten_names
from ghmdet.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module()
class Pretrained(PretrainedInit):
    """mmengine's initializer, with names of other projects translated and a one-line log entry.

    Args:
        checkpoint: path or URL, e.g. `torchvision://resnet50`.
        prefix: part of the file to use, e.g. 'backbone.'.
        map_location: device of the tensors, as in `torch.load`.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into the module; a CheckpointError if nothing in the file fits it."""
        checkpoint = CheckpointLoader.load_checkpoint(self.checkpoint, self.map_location, 'silent')
        fitted, report = fit_state_dict(checkpoint, module, self.checkpoint, self.prefix)
        module.load_state_dict(fitted)
        if report.missing_parameters or report.warnings:
            report.log()
        else:
            unused = f'; not used: {shorten_names(report.unexpected)}' if report.unexpected else ''
            print_log(f'{self.checkpoint}: {len(report.loaded)} tensors loaded{unused}', 'current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def pretrained_cfgs(module: nn.Module) -> list[dict[str, Any]]:
    """Return the parts of a module's `init_cfg` that load a file."""
    return [cfg for cfg in _init_cfgs(module) if _loads_file(cfg)]


def drop_pretrained(module: nn.Module) -> None:
    """Remove these parts from the module's `init_cfg`."""
    module.init_cfg = [c for c in _init_cfgs(module) if not _loads_file(c)] or None  # type: ignore[assignment]


def use_own_initializer(model: nn.Module) -> None:
    """Make a model's `init_cfg` use `Pretrained` above.

    mmengine looks for initializers in the default scope, which may not be set in a script, and is
    another one in projects that build on this.
    """
    with ROOT_INITIALIZERS.switch_scope_and_registry(None) as registry:
        if registry.get('Pretrained') is not PretrainedInit:  # ours, or one of that project
            return
    for module in model.modules():
        for cfg in pretrained_cfgs(module):
            cfg.setdefault('_scope_', 'ghmdet')


def _init_cfgs(module: nn.Module) -> list[Any]:
    cfg = getattr(module, 'init_cfg', None) or []
    return [cfg] if isinstance(cfg, dict) else list(cfg)


def _loads_file(cfg: Mapping[str, Any]) -> bool:
    kind = cfg.get('type')
    if isinstance(kind, str):
        return kind.rpartition('.')[2] == 'Pretrained'
    return isinstance(kind, type) and issubclass(kind, PretrainedInit)
