"""What mmengine's Runner does with a checkpoint, made safe and told in one table."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from torch import nn

from ghmdet.checkpoint.pretrained import drop_pretrained, pretrained_cfgs, use_own_initializer
from ghmdet.checkpoint.reader import CheckpointError
from ghmdet.checkpoint.weights import LoadReport, fit_state_dict, same_names
from ghmdet.datasets.wrappers import classes_of
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS

_HOW_TO_MATCH = (
    '. To copy the rows of classes with the same name: --cfg-options '
    'default_hooks.load_weights.type=LoadWeightsHook default_hooks.load_weights.match_classes=True'
)


@HOOKS.register_module()
class LoadWeightsHook(Hook):
    """Fit every checkpoint that the Runner loads to the model, and log what was loaded.

    Training with `load_from` goes on whatever is missing. A resumed run must have the same model.
    A test must have all of its weights. Both must have the classes that the checkpoint names, in
    the same order, for a class is known by its place. Before training, a backbone that the
    checkpoint brings is not downloaded.

    Args:
        match_classes: for training with `load_from` on other classes, or on the same in another
            order: copy the rows of the head by class name, from the names in the checkpoint to
            those of the training dataset. Classes that the checkpoint lacks start anew.
        check_classes: False lets a test or a resumed run go on with other class names, as many as
            in the checkpoint.
    """

    priority = 'HIGH'  # after the check at the door, before EMAHook, which copies what is loaded

    def __init__(self, match_classes: bool = False, check_classes: bool = True) -> None:
        self.match_classes = match_classes
        self.check_classes = check_classes

    def before_run(self, runner: Runner) -> None:
        """Spare the download of what the checkpoint brings; weights are initialised after this."""
        path = _planned_checkpoint(runner)
        if self._is_superseded(runner) or not _is_training(runner):
            return
        model = unwrap(runner.model)
        use_own_initializer(model)
        modules = {n: module for n, module in model.named_modules() if pretrained_cfgs(module)}
        if path is None or not modules:
            return
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', 'silent')
        _, report = fit_state_dict(checkpoint, model, path)
        gaps = [*report.missing, *report.mismatched]
        for name, module in modules.items():
            if not any(gap.startswith(f'{name}.' if name else '') for gap in gaps):
                files = ', '.join(cfg['checkpoint'] for cfg in pretrained_cfgs(module))
                runner.logger.info(f'{name or "model"}: {path} brings all of it, {files} not read')
                drop_pretrained(module)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the weights in the checkpoint by what fits the model; mmengine loads them next.

        Raises:
            CheckpointError: the checkpoint does not serve its purpose; see the class.
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
            if not self.match_classes:
                _warn_of_classes(report, names, _HOW_TO_MATCH)
        report.log()
        if 'state_dict' not in checkpoint:
            checkpoint.clear()  # the names themselves
        checkpoint['state_dict'] = fitted

    def _check_classes(self, report: LoadReport, names: tuple[str, ...] | None) -> None:
        """Raise where the dataset gives the places of the checkpoint's classes to others."""
        told = _describe_difference(report, names)
        if told and self.check_classes:
            raise CheckpointError(
                f'{report.source} was trained on other classes than the dataset has: {told}. Give '
                "every dataset the file's classes in its order: "
                f'metainfo=dict(classes={report.classes}), or leave them out for a test; if these '
                'are other names of the same classes, set default_hooks.load_weights='
                "dict(type='LoadWeightsHook', check_classes=False)"
            )
        report.warnings += [told] if told else []

    def _is_superseded(self, runner: Runner) -> bool:
        """Whether the config names another such hook after this one."""
        return self is not [hook for hook in runner.hooks if isinstance(hook, LoadWeightsHook)][-1]


def _is_training(runner: Runner) -> bool:
    """Whether the Runner trains; it builds that loop for nothing else."""
    return isinstance(getattr(runner, '_train_loop', None), BaseLoop)


def _planned_checkpoint(runner: Runner) -> str | None:
    """The file that the Runner is about to load; `plan_start` has settled it."""
    return None if getattr(runner, '_has_loaded', False) else runner._load_from


def _names(runner: Runner, split: str) -> tuple[str, ...] | None:
    """Class names of the dataset of a loop that is built."""
    loop = getattr(runner, f'_{split}_loop', None)
    return classes_of(split, loop) if isinstance(loop, BaseLoop) else None


def _fit_resumed(
    checkpoint: dict, model: nn.Module, source: str
) -> tuple[OrderedDict[str, Any], LoadReport]:
    """Check that a run can go on from this checkpoint, and fit it.

    Raises:
        CheckpointError: it is of another model, or holds weights only.
    """
    advice = (
        'To start a new training from its weights, leave --resume (resume=True) out and set '
        '`--cfg-options load_from=...`.'
    )
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    parts = dict(message_hub='message_hub' in checkpoint)
    parts.update({f'meta.{key}': key in meta for key in ('epoch', 'iter')})
    if absent := [name for name, there in parts.items() if not there]:
        raise CheckpointError(
            f'{source} cannot be resumed: it has no {", ".join(absent)}, which every checkpoint of '
            f'a training run has; it is published, of MMDetection 2.x or of another program. '
            f'{advice}'
        )
    # mmengine executes this text, and writes it under another name itself.
    meta.pop('config', None)
    fitted, report = fit_state_dict(checkpoint, model, source)
    if not report.same_names:
        raise CheckpointError(
            f'{source} cannot be resumed: it is of another model. Resume with the config of that '
            f'run. {advice}\n{report}'
        )
    if 'ema_state_dict' in checkpoint:
        ema = checkpoint['ema_state_dict']
        averages = {key: value for key, value in ema.items() if key.startswith('module.')}
        others = {key: value for key, value in ema.items() if key not in averages}
        fitted_ema, _ = fit_state_dict(averages, model, f'{source} (EMA)')
        averages = {f'module.{key}': value.clone() for key, value in fitted_ema.items()}
        checkpoint['ema_state_dict'] = {**others, **averages}
    return fitted, report


def _warn_of_classes(report: LoadReport, names: tuple[str, ...] | None, advice: str) -> None:
    """Note where the head has another class list than the dataset."""
    if head := report.head_mismatch():
        report.warnings.append(f'{head}: bbox_head.retina_cls starts anew{advice}')
    elif told := _describe_difference(report, names):
        report.warnings.append(f'{told}{advice}')


def _describe_difference(report: LoadReport, names: tuple[str, ...] | None) -> str:
    """Say where as many classes have other names; '' where they agree or one side has none."""
    in_file = report.classes
    if not (report.num_classes and names and in_file and len(names) == len(in_file)):
        return ''
    differing = [i for i, name in enumerate(names) if not same_names([name], [in_file[i]])]
    if not differing:
        return ''
    first = differing[0]
    return (
        f'{len(differing)} of {len(names)} classes differ: number {first} is {in_file[first]!r} in '
        f'the file, {names[first]!r} in the dataset'
    )
