"""Stop before a checkpoint with non-finite weights is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ghmdet.checkpoint.files import checkpoint_hooks, last_checkpoint
from ghmdet.messages import list_items
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS


class NonFiniteError(FloatingPointError):
    """A training that cannot continue because its values are not finite."""


@HOOKS.register_module()
class NonFiniteWeightsHook(Hook):
    """Stop a run with non-finite weights before it begins, saves them or deletes a checkpoint.

    Checked are parameters and buffers when the training begins and whenever a CheckpointHook is
    about to save (mmengine's deletes older files first), and everything else that the Runner saves.
    Buffers that are not finite from the start, such as masks, are exempt.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self._exempt: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Check the initial or loaded weights; a NonFiniteError names those that are not finite."""
        model = unwrap(runner.model)
        self._exempt = set(_find_bad(model.named_buffers()))
        bad = _find_bad(model.named_parameters())
        if bad:
            source = runner._load_from or ('the checkpoint' if runner._resume else 'their init_cfg')
            raise NonFiniteError(
                f'the weights are not finite before the first step: {_list_bad(bad)}. They come '
                f'from {source}; use another checkpoint.'
            )

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Check if a checkpoint is due after this iteration."""
        for hook in checkpoint_hooks(runner):
            is_due = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            is_due |= hook.save_last and hook.is_last_train_iter(runner)
            if is_due and not hook.by_epoch:
                self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Check before a checkpoint of the epoch."""
        self._check(runner)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Check before the best checkpoint."""
        if any(hook.save_best for hook in checkpoint_hooks(runner)):
            self._check(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check whatever is saved, moving averages included; a NonFiniteError as in the class."""
        for key in ('state_dict', 'ema_state_dict'):
            weights = checkpoint.get(key, {}).items()
            bad = _find_bad((n, w) for n, w in weights if isinstance(w, Tensor))
            self._stop(runner, bad, f'{key}: ' if key != 'state_dict' else '')

    def _check(self, runner: Runner) -> None:
        model = unwrap(runner.model)
        bad = _find_bad([*model.named_parameters(), *model.named_buffers()])
        # Buffers may differ from process to process, and one that stops leaves the others waiting.
        self._stop(runner, {k: v for found in all_gather_object(bad) for k, v in found.items()})

    def _stop(self, runner: Runner, bad: dict[str, str], where: str = '') -> None:
        bad = {k: v for k, v in bad.items() if k.removeprefix('module.') not in self._exempt}
        if bad:
            raise NonFiniteError(
                f'the weights are not finite at iteration {runner.iter}, so they are not saved: '
                f'{where}{_list_bad(bad)}. The last good checkpoint is {last_checkpoint(runner)}; '
                'resume from it with --resume and gradient clipping '
                '(optim_wrapper.clip_grad.max_norm=35), or start from its weights (load_from, not '
                '--resume, which restores the learning rate) with a lower '
                'optim_wrapper.optimizer.lr.'
            )


@torch.no_grad()
def _find_bad(weights: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Return names of non-finite weights with the number of bad values; one device sync each."""
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, weight in weights:
        if weight.is_floating_point() and weight.numel():
            by_device.setdefault(weight.device, []).append((name, weight))
    bad = {}
    for pairs in by_device.values():
        finite = torch.stack([weight.isfinite().all() for _, weight in pairs]).tolist()
        for (name, weight), is_finite in zip(pairs, finite, strict=True):
            if not is_finite:
                bad[name] = f'{int((~weight.isfinite()).sum())} of {weight.numel()} values'
    return bad


def _list_bad(bad: dict[str, str]) -> str:
    return list_items((f'{name} ({count})' for name, count in bad.items()), 3)
