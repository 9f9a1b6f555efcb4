"""What a training is about to do, in one block of the log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import IterBasedTrainLoop, Runner

import ghmdet
from ghmdet.checks.learning_rate import find_reference, step_batch, wrappers_of
from ghmdet.datasets.wrappers import classes_of
from ghmdet.models.wrappers import unwrap
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
                lines += _describe_optimizer(
                    runner, name, wrapper, self._planned.get(name), warnings
                )
        lines += [*_describe_model(runner), *_describe_data(runner), *_describe_places(runner)]
        width = max(len(title) for title, _ in lines)
        block = '\n'.join(f'  {title:{width}}  {text}' for title, text in lines)
        runner.logger.info(f'Training begins{resumed}:\n{block}')
        for warning in warnings:
            runner.logger.log(logging.WARNING, warning)


def _rates(wrapper: Any) -> list[float]:
    """Learning rate of each group of parameters, without the schedule's factor."""
    groups = wrapper.optimizer.param_groups
    return [float(group.get('initial_lr', group['lr'])) for group in groups]


def _describe_optimizer(
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
        yield (
            f'{prefix}linear rule',
            _describe_rule(runner, configured, ratio, batch.total, warnings),
        )
    yield f'{prefix}gradient clipping', _pairs(wrapper.clip_grad_kwargs or {}) or 'off'
    dtype = str(getattr(wrapper, 'cast_dtype', None) or 'float32').removeprefix('torch.')
    scaler = getattr(wrapper, 'loss_scaler', None)
    scaled = ', loss scaled' if scaler is not None and scaler.is_enabled() else ''
    yield f'{prefix}precision', dtype + (f', weights float32{scaled}' if scaler else '')


def _describe_rule(
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


def _describe_model(runner: Runner) -> Iterator[tuple[str, str]]:
    parameters = list(unwrap(runner.model).parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    yield 'parameters', f'{trained:,} to train, of {sum(p.numel() for p in parameters):,}'
    device = parameters[0].device if parameters else torch.device('cpu')
    named = torch.cuda.get_device_name(device) if device.type == 'cuda' else ''
    threads = _count(torch.get_num_threads(), 'thread') if device.type == 'cpu' else ''
    yield 'device', ', '.join(filter(None, (str(device), named, threads)))
    yield 'seed', f'{runner.seed}{", deterministic" if runner.deterministic else ""}'


def _describe_data(runner: Runner) -> Iterator[tuple[str, str]]:
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


def _describe_places(runner: Runner) -> Iterator[tuple[str, str]]:
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


# Of a schedule: where it stands, and what follows from the learning rate.
_POSITION = ('last_step', 'base_values', 'verbose', 'best', 'num_bad_epochs', 'cooldown_counter')
_NO_SETTINGS = ('params', 'lr')  # of a group of parameters; the learning rate is told apart


def log_resumption(runner: Runner, checkpoint: Mapping[str, Any], source: str) -> None:
    """Log where a run goes on, and warn of settings of the config that will not be used.

    The state of the optimizer and of the schedules holds their settings too, and mmengine restores
    all of it without a word.

    Args:
        runner: its optimizer and schedules are still as the config has them.
        checkpoint: that will be resumed.
        source: name of that, for the log.
    """
    meta = checkpoint['meta']
    told = [f'resuming from {source} after epoch {meta["epoch"]}, iteration {meta["iter"]}']
    warnings = []
    state: Any = checkpoint.get('optimizer')
    if not state:
        warnings.append(
            f'{source} has no state of the optimizer (default_hooks.checkpoint.save_optimizer): it '
            'begins anew, with the settings of the config'
        )
    for name, wrapper in wrappers_of(runner) if state else ():
        saved = state[name] if name else state
        if isinstance(wrapper, OptimWrapper):
            told.append(_describe_rate(name, wrapper.optimizer.param_groups, saved['param_groups']))
            warnings += _differing(wrapper.optimizer.param_groups, saved['param_groups'])
    if 'param_schedulers' in checkpoint:
        warnings += _differing_schedules(runner.param_schedulers, checkpoint['param_schedulers'])
    runner.logger.info(', '.join(told))
    for warning in warnings:
        runner.logger.warning(warning)


def _describe_rate(name: str, planned: list[dict], saved: list[dict]) -> str:
    old, new = (max(g.get('initial_lr', g['lr']) for g in groups) for groups in (saved, planned))
    text = f'{f"{name}: " if name else ""}learning rate {old:g}'
    return text if old == new else f"{text} of the checkpoint, not the config's {new:g}"


def _differing(planned: list[dict], saved: list[dict]) -> Iterator[str]:
    """What differs in the groups of parameters beside the learning rate, each kind once."""
    seen: set[str] = set()
    for ours, theirs in zip(planned, saved, strict=False):
        for key in ours.keys() & theirs.keys() - {*_NO_SETTINGS, *seen}:
            follows_schedule = key.startswith('initial_') or f'initial_{key}' in theirs
            if not follows_schedule and _plain(ours[key]) != _plain(theirs[key]):
                seen.add(key)
                yield _describe_replaced(f'{key} of the optimizer', theirs[key], ours[key])


def _differing_schedules(planned: Any, saved: Any) -> Iterator[str]:
    if isinstance(planned, dict) and isinstance(saved, Mapping):
        for name in planned.keys() & saved.keys():
            yield from _differing_schedules(planned[name], saved[name])
        return
    ours = [each for each in planned or () if isinstance(each, _ParamScheduler)]
    if len(ours) != len(saved):
        yield (
            f'the config has {len(ours)} entries in param_scheduler, the checkpoint {len(saved)}: '
            'those of the same place go on, the others begin anew or are dropped'
        )
    for place, (schedule, state) in enumerate(zip(ours, saved, strict=False)):
        settings = schedule.state_dict()
        for key in sorted(settings.keys() & state.keys() - {*_POSITION}):
            if not key.startswith('_') and _plain(settings[key]) != _plain(state[key]):
                what = f'param_scheduler.{place}.{key} ({type(schedule).__name__})'
                yield _describe_replaced(what, state[key], settings[key])


def _describe_replaced(what: str, saved: Any, planned: Any) -> str:
    return (
        f'{what}: {_plain(saved)} of the checkpoint goes on; {_plain(planned)} of the config is '
        'not used. To use it, start anew from the weights with load_from.'
    )


def _plain(value: Any) -> Any:
    """A value that compares and prints well; milestones are a Counter."""
    return list(value) if isinstance(value, tuple | Mapping) else value


_PACKAGE_FOLDER = Path(ghmdet.__file__).resolve().parent


def log_package_path() -> None:
    """Log version and folder of the package; warn if the tool that was started has another beside.

    A tool of a source tree imports the installed package, which need not be that tree's.
    """
    print_log(f'ghmdet {ghmdet.__version__} from {_PACKAGE_FOLDER}', logger='current')
    script = Path(sys.argv[0]).resolve()
    trees = [folder.parent for folder in script.parents if folder.name == 'tools']
    other = next(
        (tree / 'ghmdet' for tree in trees if _is_package(tree / 'ghmdet')), _PACKAGE_FOLDER
    )
    if other.resolve() != _PACKAGE_FOLDER:
        print_log(
            f'{script} stands beside {other}, but the package that runs is {_PACKAGE_FOLDER}: '
            f'edits in the former have no effect. To use them: `pip install -e {other.parent}`.',
            logger='current',
            level=logging.WARNING,
        )


def _is_package(folder: Path) -> bool:
    return (folder / '__init__.py').is_file()
