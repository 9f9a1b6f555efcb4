"""What a checkpoint of mmengine lacks for a run to go on exactly, and what processes differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from mmengine.hooks import EarlyStoppingHook, EMAHook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from ghmdet.checks.learning_rate import step_batch
from ghmdet.datasets.random_state import get_random_state, set_random_state
from ghmdet.models.wrappers import unwrap

KEY = 'run_state'
"""Where the checkpoint has it."""


def collect_run_state(runner: Runner, batch: int, validate: bool) -> dict[str, Any]:
    """Gather the state of all processes; all of them have to call it.

    Args:
        runner: whose loop is at an end of an iteration or epoch.
        batch: how many batches of the epoch are done; 0 at its end, and for a loop without epochs.
        validate: whether a validation is due before the next iteration.

    Returns:
        `batch`; `batch_size`, that of all processes; `validate`; and `processes`, for each of them
        `random` (see `get_random_state`), `hooks` (what `state_dict()` of the hooks that have one
        returns, by class), `buffers` (those that are not the mean over the processes, by name) and,
        between the batches of an accumulated step, `gradients` by name.
    """
    own: dict[str, Any] = dict(
        random=get_random_state(),
        hooks={name: hook.state_dict() for name, hook in _hooks_with_state(runner)},
        buffers=_own_buffers(runner),
    )
    if _within_step(runner.optim_wrapper):
        parameters = unwrap(runner.model).named_parameters()
        own['gradients'] = {n: p.grad.cpu() for n, p in parameters if p.grad is not None}
    return dict(
        batch=batch,
        batch_size=global_batch_size(runner),
        validate=validate,
        processes=all_gather_object(own),
    )


def restore_process(runner: Runner, processes: Sequence[Mapping[str, Any]]) -> None:
    """Put back what is this process's own.

    With another number of processes than then, buffers stay at the mean, gradients are the mean,
    hooks have the state of the first process, and a process that is new keeps the random
    generators that its seed gave it.
    """
    rank, as_many = get_rank(), len(processes) == get_world_size()
    own = processes[rank if as_many else 0]
    if as_many:
        buffers = dict(_named_buffers(runner))
        for name, value in own['buffers'].items():
            if name in buffers:  # a moving average may have been left out since
                buffers[name].copy_(value)
    for name, hook in _hooks_with_state(runner):
        if name in own['hooks']:
            hook.load_state_dict(own['hooks'][name])
    gradients = [own] if as_many else processes
    if 'gradients' in own:
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in own['gradients']:
                values = torch.stack([state['gradients'][name] for state in gradients])
                parameter.grad = values.mean(0).to(parameter.device)


def restore_random(processes: Sequence[Mapping[str, Any]]) -> None:
    """Put back this process's random generators."""
    if get_rank() < len(processes):
        set_random_state(processes[get_rank()]['random'])


def global_batch_size(runner: Runner) -> int:
    """Count the samples of an iteration, those of all processes."""
    batch = step_batch(runner, runner.optim_wrapper)
    return batch.processes * batch.images


@contextmanager
def mean_buffers(runner: Runner) -> Iterator[None]:
    """Let buffers (batch norm statistics, GHM running counts) be the mean over the processes.

    For what leaves the training, a checkpoint or a validation; all processes have to enter it. They
    go on with their own. Buffers that are no floating point numbers stay as they are.
    """
    if get_world_size() == 1:
        yield
        return
    buffers = [buffer for _, buffer in _named_buffers(runner)]
    own = [buffer.clone() for buffer in buffers]
    for buffer, mean in zip(buffers, _means(buffers), strict=True):
        buffer.copy_(mean)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)


def _own_buffers(runner: Runner) -> dict[str, Tensor]:
    """The buffers of this process that are not the mean."""
    if get_world_size() == 1:
        return {}
    named = dict(_named_buffers(runner))
    means = _means(list(named.values()))
    pairs = zip(named.items(), means, strict=True)
    return {name: own.cpu().clone() for (name, own), mean in pairs if not torch.equal(own, mean)}


def _means(buffers: Sequence[Tensor]) -> list[Tensor]:
    """Means over the processes; float64 on the way, so that the mean of equals is the same bits."""
    if not buffers:
        return []
    joined = torch.cat([buffer.detach().flatten().double() for buffer in buffers])
    all_reduce(joined, 'mean')
    parts = joined.split([buffer.numel() for buffer in buffers])
    return [part.view_as(old).to(old.dtype) for part, old in zip(parts, buffers, strict=True)]


def _named_buffers(runner: Runner) -> Iterator[tuple[str, Tensor]]:
    """Floating point buffers of the model and of its moving average."""
    yield from _floating(unwrap(runner.model), '')
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            yield from _floating(hook.ema_model.module, 'ema.')


def _floating(model: torch.nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            yield prefix + name, buffer


def _within_step(wrapper: Any) -> bool:
    """Whether gradients are kept for the next batch."""
    if not isinstance(wrapper, OptimWrapper):
        return False
    return not wrapper.should_update()


class _EarlyStopping:
    """State of mmengine's EarlyStoppingHook, which has no `state_dict`."""

    def __init__(self, hook: EarlyStoppingHook) -> None:
        self.hook = hook

    def state_dict(self) -> dict[str, Any]:
        return dict(wait_count=self.hook.wait_count, best_score=self.hook.best_score)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.hook.wait_count, self.hook.best_score = state['wait_count'], state['best_score']


def _hooks_with_state(runner: Runner) -> Iterator[tuple[str, Any]]:
    for hook in runner.hooks:
        if hasattr(hook, 'state_dict') and hasattr(hook, 'load_state_dict'):
            yield type(hook).__name__, hook
        elif isinstance(hook, EarlyStoppingHook):
            yield type(hook).__name__, _EarlyStopping(hook)
