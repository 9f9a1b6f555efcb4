"""What a resumed run takes from the checkpoint though the config says otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import Runner

from ghmdet.checks.learning_rate import wrappers_of

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
            told.append(_tell_rate(name, wrapper.optimizer.param_groups, saved['param_groups']))
            warnings += _differing(wrapper.optimizer.param_groups, saved['param_groups'])
    if 'param_schedulers' in checkpoint:
        warnings += _differing_schedules(runner.param_schedulers, checkpoint['param_schedulers'])
    runner.logger.info(', '.join(told))
    for warning in warnings:
        runner.logger.warning(warning)


def _tell_rate(name: str, planned: list[dict], saved: list[dict]) -> str:
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
                yield _warning(f'{key} of the optimizer', theirs[key], ours[key])


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
                yield _warning(what, state[key], settings[key])


def _warning(what: str, saved: Any, planned: Any) -> str:
    return (
        f'{what}: {_plain(saved)} of the checkpoint goes on; {_plain(planned)} of the config is '
        'not used. To use it, start anew from the weights with load_from.'
    )


def _plain(value: Any) -> Any:
    """A value that compares and prints well; milestones are a Counter."""
    return list(value) if isinstance(value, tuple | Mapping) else value
