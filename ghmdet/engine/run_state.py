"""What mmengine does not save, but a run needs to resume exactly: the state of each process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from ghmdet.checks.learning_rate import step_batch
from ghmdet.datasets.random_state import get_random_state, set_random_state
from ghmdet.models.buffers import find_deviating_buffers, floating_buffers
from ghmdet.models.wrappers import detectors_of, unwrap

# Classes of hooks by the names under which checkpoints of earlier versions hold their state.
_RENAMED_HOOKS = {'FiniteStepsHook': 'SkipNonFiniteStepsHook'}


def collect_run_state(runner: Runner, batch: int, validate: bool) -> dict[str, Any]:
    """Gather the state of all processes at the end of an iteration; all of them have to call it.

    Returns:
        `batch`, how many of the epoch are done (0 at its end, and for a loop without epochs);
        `batch_size`, that of all processes; `validate`, whether a validation is due; `threads` of
        torch; and `processes`, for each of them `random` (see `get_random_state`), `hooks` (what
        `state_dict()` of the hooks that have one returns, by class), `buffers` (those that are not
        the mean over the processes, by name) and, between the batches of an accumulated step,
        `gradients` by name.
    """
    own: dict[str, Any] = dict(
        random=get_random_state(),
        hooks={name: hook.state_dict() for name, hook in _hooks_with_state(runner)},
        buffers=find_deviating_buffers(detectors_of(runner)),
    )
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapper) and not wrapper.should_update():
        parameters = unwrap(runner.model).named_parameters()
        own['gradients'] = {n: p.grad.cpu() for n, p in parameters if p.grad is not None}
    about = dict(batch=batch, batch_size=global_batch_size(runner), validate=validate)
    return dict(about, threads=torch.get_num_threads(), processes=all_gather_object(own))


def restore_process(runner: Runner, processes: Sequence[Mapping[str, Any]]) -> None:
    """Restore the state of this process.

    With another number of processes than at the save, buffers and gradients are the mean over the
    processes, hooks get the state of the first process, and a new process keeps the random
    generators of its seed.
    """
    rank, same_number = get_rank(), len(processes) == get_world_size()
    own = processes[rank if same_number else 0]
    if same_number:
        buffers = dict(floating_buffers(detectors_of(runner)))
        for name, value in own['buffers'].items():
            if name in buffers:  # EMAHook may have been removed since
                buffers[name].copy_(value)
    states = {_RENAMED_HOOKS.get(name, name): state for name, state in own['hooks'].items()}
    for name, hook in _hooks_with_state(runner):
        if name in states:
            hook.load_state_dict(states[name])
    gradients = [own] if same_number else processes
    for name, parameter in unwrap(runner.model).named_parameters():
        if name in own.get('gradients', {}):
            values = torch.stack([state['gradients'][name] for state in gradients])
            parameter.grad = values.mean(0).to(parameter.device)


def restore_random(processes: Sequence[Mapping[str, Any]]) -> None:
    """Restore the random generators of this process."""
    if get_rank() < len(processes):
        set_random_state(processes[get_rank()]['random'])


def global_batch_size(runner: Runner) -> int:
    """Count the samples of an iteration, those of all processes."""
    batch = step_batch(runner, runner.optim_wrapper)
    return batch.processes * batch.images


def _hooks_with_state(runner: Runner) -> Iterator[tuple[str, Any]]:
    for hook in runner.hooks:
        if hasattr(hook, 'state_dict') and hasattr(hook, 'load_state_dict'):
            yield type(hook).__name__, hook
        elif isinstance(hook, EarlyStoppingHook):  # which has no `state_dict`
            state = {key: getattr(hook, key) for key in ('wait_count', 'best_score')}
            methods = dict(state_dict=state.copy, load_state_dict=vars(hook).update)
            yield type(hook).__name__, SimpleNamespace(**methods)
