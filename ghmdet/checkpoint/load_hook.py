"""The hook that fits each checkpoint that mmengine's Runner loads to the model."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import nn

from ghmdet.checkpoint.pretrained import drop_pretrained, pretrained_cfgs, use_own_initializer
from ghmdet.checkpoint.reader import CheckpointError
from ghmdet.checkpoint.weights import LoadReport, compare_classes, fit_state_dict
from ghmdet.datasets.wrappers import classes_of
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS

_HOW_TO_MATCH = (
    '. To copy the rows of classes with the same name: --cfg-options '
    'default_hooks.load_weights.type=LoadWeightsHook default_hooks.load_weights.match_classes=True'
)


@HOOKS.register_module()
class LoadWeightsHook(Hook):
    """Fit each checkpoint that the Runner loads to the model, and log what was loaded.

    Training with `load_from` continues even if weights are missing. A resumed run needs the same
    model, and a test all weights of its model; both need the classes of the checkpoint in the same
    order, as the head knows them by their index. Pretrained weights of a part of the model are not
    downloaded if the checkpoint contains all weights of that part.

    Args:
        match_classes: for training with `load_from` on other classes, or in another order: copy the
            rows of the head by class name, from the names in the checkpoint to those of the
            training dataset. Classes that the checkpoint lacks are randomly initialised.
        check_classes: False allows a test or a resumed run with other class names, if there are as
            many as in the checkpoint.
    """

    priority = 'HIGH'

    def __init__(self, match_classes: bool = False, check_classes: bool = True) -> None:
        self.match_classes, self.check_classes = match_classes, check_classes

    def before_run(self, runner: Runner) -> None:
        """Drop pretrained weights that the checkpoint will replace, before they are loaded."""
        path = _planned_checkpoint(runner)
        if self._is_superseded(runner) or not _is_training(runner):
            return
        model = unwrap(runner.model)
        use_own_initializer(model)
        modules = {n: module for n, module in model.named_modules() if pretrained_cfgs(module)}
        if path is None or not modules:
            return
        absent: list[str] = []
        if not runner._resume:  # a checkpoint to resume from must have all weights
            _, report = fit_state_dict(_read_ahead(path), model, path)
            absent = [*report.missing, *report.mismatched]
        for name, module in modules.items():
            if not any(key.startswith(f'{name}.' if name else '') for key in absent):
                files = ', '.join(cfg['checkpoint'] for cfg in pretrained_cfgs(module))
                runner.logger.info(
                    f'{name or "model"}: {path} contains all its weights, {files} is not read'
                )
                drop_pretrained(module)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the weights in the checkpoint by those that fit; mmengine loads them next.

        A CheckpointError if it does not fit the model or the classes; see the class.
        """
        if self._is_superseded(runner):
            return
        source = _planned_checkpoint(runner) or 'checkpoint'
        if not _is_training(runner):
            fitted, report = fit_state_dict(checkpoint, runner.model, source)
            report.require_complete()
            self._check_classes(report, _names(runner, 'test') or _names(runner, 'val'))
        elif runner._resume:
            fitted, report = _fit_resumed(checkpoint, runner.model, source)
            self._check_classes(report, _names(runner, 'train'))
        else:
            names = _names(runner, 'train')
            if self.match_classes and names is None:
                raise CheckpointError(
                    'match_classes=True needs the class names of the training dataset, but '
                    'train_dataloader.dataset has no metainfo.classes'
                )
            match = names if self.match_classes else None
            fitted, report = fit_state_dict(checkpoint, runner.model, source, match_classes=match)
            difference = _compare_names(report, names)
            if head := report.head_mismatch():
                difference = f'{head}: bbox_head.retina_cls is randomly initialised'
            if difference and not self.match_classes:
                report.warnings.append(difference + _HOW_TO_MATCH)
        report.log()
        if 'state_dict' not in checkpoint:
            checkpoint.clear()  # a plain {name: tensor}
        checkpoint['state_dict'] = fitted

    def _check_classes(self, report: LoadReport, names: tuple[str, ...] | None) -> None:
        """Raise if the dataset has other classes than the checkpoint, or another order."""
        difference = _compare_names(report, names)
        if difference and (self.check_classes or len(report.classes or ()) != len(names or ())):
            raise CheckpointError(
                f'{report.source} was trained on other classes than the dataset has: {difference}. '
                "Set the file's classes in its order for each dataset: "
                f'metainfo=dict(classes={report.classes}), or leave them out for a test; if these '
                'are other names of the same classes, set default_hooks.load_weights='
                "dict(type='LoadWeightsHook', check_classes=False)"
            )
        report.warnings += [difference] if difference else []

    def _is_superseded(self, runner: Runner) -> bool:
        """Whether there is another such hook after this one."""
        return self is not [hook for hook in runner.hooks if isinstance(hook, LoadWeightsHook)][-1]


def _is_training(runner: Runner) -> bool:
    """Whether the Runner trains; only then that loop is built."""
    return isinstance(getattr(runner, '_train_loop', None), BaseLoop)


def _planned_checkpoint(runner: Runner) -> str | None:
    """The file that the Runner is about to load, as chosen by `plan_start`."""
    return None if getattr(runner, '_has_loaded', False) else runner._load_from


def _read_ahead(path: str) -> dict[str, Any]:
    """Read a checkpoint, and let mmengine's next load of it return the same without reading it."""
    checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', 'silent')
    own_scheme = f'{re.escape(path)}$'

    def load_from_memory(filename: str, map_location: Any = None) -> dict[str, Any]:
        CheckpointLoader._schemes.pop(own_scheme, None)
        return checkpoint

    CheckpointLoader.register_scheme(own_scheme, load_from_memory, force=True)
    return checkpoint


def _names(runner: Runner, split: str) -> tuple[str, ...] | None:
    """Class names of the dataset of a loop, None if that is not built."""
    loop = getattr(runner, f'_{split}_loop', None)
    return classes_of(split, loop) if isinstance(loop, BaseLoop) else None


def _fit_resumed(
    checkpoint: dict, model: nn.Module, source: str
) -> tuple[OrderedDict[str, Any], LoadReport]:
    """Fit a checkpoint that is of the same model, and has more than weights."""
    advice = (
        'To start a new training from its weights, leave --resume (resume=True) out and set '
        '`--cfg-options load_from=...`.'
    )
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    absent = [] if 'message_hub' in checkpoint else ['message_hub']
    absent += [f'meta.{key}' for key in ('epoch', 'iter') if key not in meta]
    if absent:
        raise CheckpointError(
            f'{source} cannot be resumed: it has no {", ".join(absent)}, as checkpoints of a '
            'training run have; it was published, or written by MMDetection 2.x or another '
            f'program. {advice}'
        )
    # mmengine would execute this text; its own checkpoints have another key.
    meta.pop('config', None)
    fitted, report = fit_state_dict(checkpoint, model, source)
    if not report.fits_exactly:
        raise CheckpointError(
            f'{source} cannot be resumed: it is of another model. Resume with the config of that '
            f'run. {advice}\n{report}'
        )
    if 'ema_state_dict' in checkpoint:
        ema = checkpoint['ema_state_dict']
        averages = {key: ema.pop(key) for key in [*ema] if key.startswith('module.')}
        fitted_ema, _ = fit_state_dict(averages, model, f'{source} (EMA)')
        ema.update({f'module.{key}': value.clone() for key, value in fitted_ema.items()})
    return fitted, report


def _compare_names(report: LoadReport, names: tuple[str, ...] | None) -> str:
    """Which classes have other names; '' if none, or one side has no names or other rows."""
    in_file = report.classes
    if not (names and in_file and report.num_classes and report.num_classes[0] == len(in_file)):
        return ''
    return compare_classes(in_file, names)
