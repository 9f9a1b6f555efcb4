"""Logs what a training is about to do, and which settings of the config it does not use."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from ghmdet.checkpoint.files import checkpoint_hooks
from ghmdet.checks.anchors import warn_of_unmatched_boxes
from ghmdet.checks.learning_rate import find_reference, step_batch, wrappers_of
from ghmdet.datasets.wrappers import classes_of
from ghmdet.messages import list_items
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS
from ghmdet.version import __version__

_MAX_RATIO = 2  # of the learning rate to that of the linear rule, or the inverse, without a warning
_SHOWN = ('momentum', 'betas', 'weight_decay')  # settings of the optimizer
_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
# What a schedule saves that is no setting.
_STATE = ('last_step', 'base_values', 'verbose', 'best', 'num_bad_epochs', 'cooldown_counter')


@HOOKS.register_module()
class StartReportHook(Hook):
    """Log batch size, learning rate, data, model and files when a training begins.

    Warns if a resumed checkpoint replaces settings of optimizer or schedules, if the learning rate
    is more than a factor of 2 from the linear rule (see `find_reference`) and was not scaled, and
    if too many boxes have no anchor that fits them (see `warn_of_unmatched_boxes`).

    Args:
        max_unmatched_share: largest share of boxes without a fitting anchor and without a warning.
        max_anchor_images: training images whose boxes are compared with the anchors.
        max_anchor_boxes: boxes that are compared.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        max_unmatched_share: float = 0.1,
        max_anchor_images: int = 1000,
        max_anchor_boxes: int = 5000,
    ) -> None:
        self.anchor_limits = max_unmatched_share, max_anchor_images, max_anchor_boxes
        self._source = ''
        self._planned: dict[str, list[float]] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Log from which checkpoint a training resumes; mmengine restores it next."""
        if runner._resume and isinstance(runner._train_loop, BaseLoop):
            self._source = str(runner._load_from or 'the checkpoint')
            self._planned = {
                name: _rates(wrapper.optimizer.param_groups)
                for name, wrapper in wrappers_of(runner)
            }
            _log_resumption(runner, checkpoint, self._source)

    def before_train(self, runner: Runner) -> None:
        """Log."""
        resumed = f', resumed after iteration {runner.iter}' if runner.iter else ''
        lines: list[tuple[str, str]] = []
        for name, wrapper in wrappers_of(runner):
            if isinstance(wrapper, OptimWrapper):
                prefix = f'{name}: ' if name else ''
                described = self._describe_optimizer(runner, name, wrapper)
                lines += [(f'{prefix}{title}', text) for title, text in described]
        lines += [*_describe_model(runner), *_describe_data(runner), *_describe_files(runner)]
        width = max(len(title) for title, _ in lines)
        block = '\n'.join(f'  {title:{width}}  {text}' for title, text in lines)
        runner.logger.info(f'Training begins{resumed}:\n{block}')
        warn_of_unmatched_boxes(runner.model, runner.train_dataloader.dataset, *self.anchor_limits)

    def _describe_optimizer(
        self, runner: Runner, name: str, wrapper: OptimWrapper
    ) -> Iterator[tuple[str, str]]:
        batch, optimizer = step_batch(runner, wrapper), wrapper.optimizer
        yield (
            'total batch size',
            f'{batch.total} = {batch.processes} x {batch.images} x {batch.accumulated} '
            '(processes x batch_size x accumulative_counts)',
        )
        rates, defaults = _rates(optimizer.param_groups), optimizer.defaults
        planned = self._planned.get(name, rates)
        source = f' from {self._source}' if planned != rates else ''
        shown = {key: defaults[key] for key in _SHOWN if key in defaults}
        settings = f'{type(optimizer).__name__} {_pairs(shown)}'
        yield 'learning rate', f'{_describe_rates(rates)}{source}, {settings}'
        configured = defaults.get('lr')
        if isinstance(configured, float | int):
            # The groups may have factors of their own, and all were scaled by auto_scale_lr.
            used = configured * (rates[0] / planned[0] if planned[0] else 1.0)
            yield 'linear rule', _apply_rule(runner, configured, used, batch.total)
        yield 'gradient clipping', _pairs(wrapper.clip_grad_kwargs or {}) or 'off'
        dtype = str(getattr(wrapper, 'cast_dtype', None) or 'float32').removeprefix('torch.')
        scaler = getattr(wrapper, 'loss_scaler', None)
        scaled = ', loss scaled' if scaler is not None and scaler.is_enabled() else ''
        yield 'precision', dtype + (f', weights float32{scaled}' if scaler else '')


def _rates(groups: list[dict]) -> list[float]:
    """Learning rate of each group of parameters, without the schedule's factor."""
    return [float(group.get('initial_lr', group['lr'])) for group in groups]


def _describe_rates(rates: list[float]) -> str:
    different = sorted(set(rates), reverse=True)
    text = ', '.join(f'{rate:g}' for rate in different)
    if len(different) > 3:
        text = f'{different[0]:g} to {different[-1]:g}'
    return f'{text} in {len(rates)} groups' if len(different) > 1 else text


def _apply_rule(runner: Runner, configured: float, used: float, total: int) -> str:
    """Describe what the linear rule gives, and warn if the learning rate is far from it."""
    reference = find_reference(runner.cfg, configured)
    if reference is None:
        return 'unknown, the config has no auto_scale_lr.base_batch_size'
    rate_there, images, file = reference
    rate = rate_there * total / images
    text = f'{rate:g}, from {rate_there:g} for {images:g} images{f" ({file})" if file else ""}'
    if (getattr(runner, 'auto_scale_lr', None) or {}).get('enable', False):
        return f'{text}; applied by auto_scale_lr'
    if used <= 0 or rate <= 0 or 1 / _MAX_RATIO <= used / rate <= _MAX_RATIO:
        return text
    times = f'{used / rate:.3g} times' if used > rate else f'1/{rate / used:.3g} of'
    scale = '' if file else '--auto-scale-lr, or '
    effect = 'The loss may become NaN' if used > rate else 'Training will be slow'
    runner.logger.warning(
        f'the learning rate {used:g} is {times} what the linear rule gives for a total batch size '
        f'of {total}: {text}. {effect}: use {scale}optim_wrapper.optimizer.lr={rate:g}. If '
        f'{used:g} was chosen for {total} images, set auto_scale_lr.base_batch_size={total}.'
    )
    return text


def _describe_model(runner: Runner) -> Iterator[tuple[str, str]]:
    parameters = list(unwrap(runner.model).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    yield 'parameters', f'{trained:,} to train, of {sum(p.numel() for p in parameters):,}'
    device = parameters[0].device if parameters else torch.device('cpu')
    named = torch.cuda.get_device_name(device) if device.type == 'cuda' else ''
    threads = f'num_threads={torch.get_num_threads()}' if device.type == 'cpu' else ''
    yield 'device', ', '.join(filter(None, (str(device), named, threads)))
    yield 'seed', f'{runner.seed}{", deterministic" if runner.deterministic else ""}'


def _describe_data(runner: Runner) -> Iterator[tuple[str, str]]:
    classes = classes_of('train', runner.train_loop)
    if classes is not None:
        yield 'classes', f'{len(classes)}: {list_items(classes)}'
    images = f'{_length(runner.train_dataloader.dataset)} to train'
    if runner.val_loop is not None:
        images += f', {_length(runner.val_dataloader.dataset)} to validate'
    yield 'images', images
    per_epoch = _length(runner.train_dataloader)
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        yield 'length', f'{runner.max_iters} iterations; an epoch is {per_epoch}'
    else:
        yield 'length', f'{runner.max_epochs} epochs x {per_epoch} iterations'
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [*chain(*schedulers.values())]
    names = ', '.join(type(scheduler).__name__ for scheduler in schedulers)
    yield 'schedule', names or 'none: the learning rate is constant'


def _describe_files(runner: Runner) -> Iterator[tuple[str, str]]:
    for hook in checkpoint_hooks(runner):
        every = _pairs(dict(interval=hook.interval, by_epoch=hook.by_epoch))
        yield 'checkpoints', f'{hook.out_dir}, {every}'
    yield 'logs', runner.log_dir


def _pairs(values: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in values.items())


def _length(sized: Any) -> str:
    """Its length, if it has one."""
    try:
        return str(len(sized))
    except TypeError:
        return 'unknown'


def _log_resumption(runner: Runner, checkpoint: Mapping[str, Any], source: str) -> None:
    """Log where a run resumes, and warn of settings of the config that the checkpoint replaces."""
    meta = checkpoint['meta']
    runner.logger.info(
        f'resuming from {source} after epoch {meta["epoch"]}, iteration {meta["iter"]}'
    )
    state: Any = checkpoint.get('optimizer')
    if not state:
        runner.logger.warning(
            f'{source} has no state of the optimizer (default_hooks.checkpoint.save_optimizer): '
            'the optimizer starts without one, with the settings of the config'
        )
    replaced: list[str] = []
    for name, wrapper in wrappers_of(runner) if state else ():
        saved = state[name] if name else state
        if isinstance(wrapper, OptimWrapper):
            replaced += _compare_groups(wrapper.optimizer.param_groups, saved['param_groups'])
    if 'param_schedulers' in checkpoint:
        replaced += _compare_schedules(runner.param_schedulers, checkpoint['param_schedulers'])
    if replaced:
        runner.logger.warning(
            f'{source} replaces settings of the config: {"; ".join(replaced)}. To use those of the '
            'config, start a new training from its weights: load_from without resume.'
        )


def _compare_groups(planned: list[dict], saved: list[dict]) -> Iterator[str]:
    """What differs in the settings of the groups of parameters, each setting once."""
    if _rates(saved) != _rates(planned):
        here, there = (_describe_rates(_rates(groups)) for groups in (planned, saved))
        yield f'lr of the optimizer is {there}, not {here}'
    seen: set[str] = set()
    for ours, theirs in zip(planned, saved, strict=False):
        scheduled = {
            key for key in theirs if key.startswith('initial_') or f'initial_{key}' in theirs
        }
        for key in sorted(ours.keys() & theirs.keys() - {'params', 'lr', *scheduled, *seen}):
            here, there = _plain(ours[key]), _plain(theirs[key])
            if here != there:
                seen.add(key)
                yield f'{key} of the optimizer is {there}, not {here}'


def _compare_schedules(planned: Any, saved: Any) -> Iterator[str]:
    if isinstance(planned, dict) and isinstance(saved, Mapping):
        for name in planned.keys() & saved.keys():
            yield from _compare_schedules(planned[name], saved[name])
        return
    ours = [each for each in planned or () if isinstance(each, _ParamScheduler)]
    if len(ours) != len(saved):
        yield (
            f'the config has {len(ours)} entries in param_scheduler, the checkpoint {len(saved)}: '
            'the first ones resume in their order, further ones of the config start at 0, of the '
            'checkpoint are dropped'
        )
    for number, (schedule, state) in enumerate(zip(ours, saved, strict=False)):
        settings = schedule.state_dict()
        for key in sorted(settings.keys() & state.keys() - {*_STATE}):
            here, there = _plain(settings[key]), _plain(state[key])
            if not key.startswith('_') and here != there:
                kind = type(schedule).__name__
                yield f'param_scheduler.{number}.{key} ({kind}) is {there}, not {here}'


def _plain(value: Any) -> Any:
    """A value that compares and prints well; milestones are a Counter."""
    return list(value) if isinstance(value, tuple | Mapping) else value


def log_package_path() -> None:
    """Log version and folder of the package; warn if the script is of another source tree.

    A tool of a source tree imports the installed package, which need not be that tree's.
    """
    print_log(f'ghmdet {__version__} from {_PACKAGE_FOLDER}', logger='current')
    script = Path(sys.argv[0]).resolve()
    trees = [folder.parent / 'ghmdet' for folder in script.parents if folder.name == 'tools']
    other = next((tree for tree in trees if (tree / '__init__.py').is_file()), _PACKAGE_FOLDER)
    if other.resolve() != _PACKAGE_FOLDER:
        print_log(
            f'{script} is in the source tree of {other}, but the imported package is '
            f'{_PACKAGE_FOLDER}: edits in the former have no effect. To use them: `pip install -e '
            f'{other.parent}`.',
            logger='current',
            level=logging.WARNING,
        )
