"""What a training is about to do, in one block of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, Runner

from ghmdet.checks.learning_rate import find_reference, step_batch, wrappers_of
from ghmdet.engine.hooks.hooks import classes_of
from ghmdet.models.speedup import unwrap
from ghmdet.registry import HOOKS

_FAR = 2  # a learning rate so many times off the linear rule is warned of
_NAMED = 5  # classes


@HOOKS.register_module()
class StartReportHook(Hook):
    """Log batch, learning rate, data, model and places when a training begins.

    And warn where the learning rate is off by more than a factor of 2 from what the linear rule
    gives for the images a step (see `find_reference`), and nothing was scaled.
    """

    priority = 'LOWEST'  # after CheckpointHook has chosen its folder

    def before_run(self, runner: Runner) -> None:
        """Note the learning rates of the config, before those of a checkpoint replace them."""
        wrappers = getattr(runner, 'optim_wrapper', None)
        self._planned = (
            {name: _rates(wrapper) for name, wrapper in wrappers_of(runner)}
            if hasattr(wrappers, 'get_lr')
            else {}
        )

    def before_train(self, runner: Runner) -> None:
        """Log."""
        resumed = f', resumed after iteration {runner.iter}' if runner.iter else ''
        lines: list[tuple[str, str]] = []
        warnings: list[str] = []
        for name, wrapper in wrappers_of(runner):
            if isinstance(wrapper, OptimWrapper):
                lines += _tell_optimizer(runner, name, wrapper, self._planned.get(name), warnings)
        lines += [*_tell_model(runner), *_tell_data(runner), *_tell_places(runner)]
        width = max(len(title) for title, _ in lines)
        block = '\n'.join(f'  {title:{width}}  {text}' for title, text in lines)
        runner.logger.info(f'Training begins{resumed}:\n{block}')
        for warning in warnings:
            runner.logger.log(logging.WARNING, warning)


def _rates(wrapper: Any) -> list[float]:
    """Learning rate of each group of parameters, without the schedule's factor."""
    groups = wrapper.optimizer.param_groups
    return [float(group.get('initial_lr', group['lr'])) for group in groups]


def _tell_optimizer(
    runner: Runner,
    name: str,
    wrapper: OptimWrapper,
    planned: list[float] | None,
    warnings: list[str],
) -> Iterator[tuple[str, str]]:
    batch, rates = step_batch(runner, wrapper), _rates(wrapper)
    prefix = f'{name}: ' if name else ''
    yield (
        f'{prefix}images a step',
        f'{batch.total} = {_count(batch.processes, "process", "processes")} x '
        f'{_count(batch.images, "image")} x {batch.accumulated} accumulated',
    )
    optimizer = wrapper.optimizer
    told = ', '.join(f'{rate:g}' for rate in sorted(set(rates), reverse=True)[:3])
    if len(set(rates)) > 3:
        told = f'{max(rates):g} to {min(rates):g}'
    text = f'{told} in {_count(len(rates), "group")}' if len(set(rates)) > 1 else told
    if planned and planned != rates:
        text += ' from the checkpoint'
        warnings.append(
            f'the learning rate of the checkpoint, {max(rates):g}, goes on; that of the config, '
            f'{max(planned):g}, is not used. To use it, start anew from the weights with load_from.'
        )
    yield f'{prefix}learning rate', f'{text}, {_describe(optimizer)}'
    configured = optimizer.defaults.get('lr')
    if isinstance(configured, float | int):
        # What became of the configured rate: groups may have factors of their own.
        ratio = rates[0] / planned[0] if planned and planned[0] else 1.0
        yield f'{prefix}linear rule', _tell_rule(runner, configured, ratio, batch.total, warnings)
    yield f'{prefix}gradient clipping', _pairs(wrapper.clip_grad_kwargs or {}) or 'off'
    dtype = str(getattr(wrapper, 'cast_dtype', None) or 'float32').removeprefix('torch.')
    scaler = getattr(wrapper, 'loss_scaler', None)
    scaled = ', loss scaled' if scaler is not None and scaler.is_enabled() else ''
    yield f'{prefix}precision', dtype + (f', weights float32{scaled}' if scaler else '')


def _tell_rule(
    runner: Runner, configured: float, ratio: float, images: int, warnings: list[str]
) -> str:
    """What the linear rule gives, and a warning where the learning rate is far from it."""
    reference = find_reference(runner.cfg, configured)
    if reference is None:
        return 'unknown, the config has no auto_scale_lr.base_batch_size'
    rate = reference.rate * images / reference.images
    source = f' ({reference.origin})' if reference.origin else ''
    text = f'{rate:g}, from {reference.rate:g} for {reference.images:g} images{source}'
    if (getattr(runner, 'auto_scale_lr', None) or {}).get('enable', False):
        return f'{text}; applied by auto_scale_lr'
    used = configured * ratio
    if used <= 0 or rate <= 0 or 1 / _FAR <= used / rate <= _FAR:
        return text
    times = f'{used / rate:.3g} times' if used > rate else f'1/{rate / used:.3g} of'
    scale = '--auto-scale-lr, or ' if not reference.origin else ''
    warnings.append(
        f'the learning rate {used:g} is {times} what the linear rule gives for {images} images a '
        f'step: {text}. {"Too much of it ends in NaN" if used > rate else "Training will be slow"}:'
        f' use {scale}optim_wrapper.optimizer.lr={rate:g}. If {used:g} was chosen for {images} '
        f'images, say so with auto_scale_lr.base_batch_size={images}.'
    )
    return text


def _tell_model(runner: Runner) -> Iterator[tuple[str, str]]:
    parameters = list(unwrap(runner.model).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    yield 'parameters', f'{trained:,} to train, of {sum(p.numel() for p in parameters):,}'
    device = parameters[0].device if parameters else torch.device('cpu')
    named = torch.cuda.get_device_name(device) if device.type == 'cuda' else ''
    threads = _count(torch.get_num_threads(), 'thread') if device.type == 'cpu' else ''
    yield 'device', ', '.join(filter(None, (str(device), named, threads)))
    yield 'seed', f'{runner.seed}{", deterministic" if runner.deterministic else ""}'


def _tell_data(runner: Runner) -> Iterator[tuple[str, str]]:
    classes = classes_of('train', runner.train_loop)
    if classes is not None:
        more = ', ...' if len(classes) > _NAMED else ''
        yield 'classes', f'{len(classes)}: {", ".join(classes[:_NAMED])}{more}'
    images = f'{_length(runner.train_dataloader.dataset)} to train'
    if runner.val_loop is not None:
        images += f', {_length(runner.val_dataloader.dataset)} to validate'
    yield 'images', images
    per_epoch = _length(runner.train_dataloader)
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        yield 'length', f'{runner.max_iters} iterations; {per_epoch} go through all images'
    else:
        yield 'length', f'{runner.max_epochs} epochs x {per_epoch} iterations'
    kinds = runner.param_schedulers or []
    if isinstance(kinds, dict):
        kinds = [scheduler for several in kinds.values() for scheduler in several]
    names = ', '.join(type(scheduler).__name__ for scheduler in kinds)
    yield 'schedule', names or 'none: the learning rate stays'


def _tell_places(runner: Runner) -> Iterator[tuple[str, str]]:
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            unit = 'epoch' if hook.by_epoch else 'iteration'
            every = f'every {_count(hook.interval, unit)}' if hook.interval > 0 else 'at the end'
            yield 'checkpoints', f'{hook.out_dir}, {every}'
    yield 'logs', runner.log_dir


def _describe(optimizer: torch.optim.Optimizer) -> str:
    wanted = ('momentum', 'betas', 'weight_decay')
    return f'{type(optimizer).__name__} ' + _pairs(
        {key: optimizer.defaults[key] for key in wanted if key in optimizer.defaults}
    )


def _pairs(values: dict[str, Any]) -> str:
    return ', '.join(f'{key}={value}' for key, value in values.items())


def _count(number: int, singular: str, plural: str = '') -> str:
    return f'{number} {singular if number == 1 else plural or singular + "s"}'


def _length(sized: Any) -> str:
    """Its length, where it has one."""
    try:
        return str(len(sized))
    except TypeError:
        return 'unknown'
