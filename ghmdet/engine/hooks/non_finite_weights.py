"""No checkpoint with weights that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ghmdet.checkpoint.files import checkpoint_hooks, last_checkpoint
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS


class NonFiniteError(FloatingPointError):
    """A training that cannot go on, since its numbers are not finite."""


@HOOKS.register_module()
class NonFiniteWeightsHook(Hook):
    """Stop a run whose weights are not finite before it begins, saves them or deletes a checkpoint.

    Looks at parameters and buffers when the training begins and whenever CheckpointHook is about to
    save, which removes older files first; and at everything else that is saved by the Runner.
    Buffers that are not finite from the start, as masks are, may stay so.
    """

    priority = 'LOW'  # after EMAHook has put the weights back, before CheckpointHook

    def __init__(self) -> None:
        self._exempt: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Check what was initialised or loaded.

        Raises:
            NonFiniteError: parameters are not finite; named.
        """
        model = unwrap(runner.model)
        self._exempt = set(_find_bad(model.named_buffers()))
        bad = _find_bad(model.named_parameters())
        if bad:
            source = runner._load_from or ('the checkpoint' if runner._resume else 'their init_cfg')
            raise NonFiniteError(
                f'the weights are not finite before the first step: {_shorten(bad)}. They come '
                f'from {source}; take another checkpoint.'
            )

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Check where a checkpoint is due after this iteration."""
        hooks = [hook for hook in checkpoint_hooks(runner) if not hook.by_epoch]
        if any(
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
            for hook in hooks
        ):
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Check before the epoch is saved."""
        self._check(runner)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Check before the best are saved."""
        if any(hook.save_best for hook in checkpoint_hooks(runner)):
            self._check(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check what others save, moving averages included.

        Raises:
            NonFiniteError: see the class.
        """
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
        bad = {
            name: count
            for name, count in bad.items()
            if name.removeprefix('module.') not in self._exempt
        }
        if bad:
            raise NonFiniteError(
                f'the weights are not finite at iteration {runner.iter}, so they are not saved: '
                f'{where}{_shorten(bad)}. The last good checkpoint is {last_checkpoint(runner)}; '
                'go on from it with --resume and a lower optim_wrapper.optimizer.lr, or gradient '
                'clipping (optim_wrapper.clip_grad="dict(max_norm=35, norm_type=2)").'
            )


@torch.no_grad()
def _find_bad(weights: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Which of the weights are not finite, with how many of their values; one wait for a device."""
    floating = [(name, w) for name, w in weights if w.is_floating_point() and w.numel()]
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, weight in floating:
        by_device.setdefault(weight.device, []).append((name, weight))
    bad = {}
    for pairs in by_device.values():
        finite = torch.stack([weight.isfinite().all() for _, weight in pairs]).tolist()
        for (name, weight), is_finite in zip(pairs, finite, strict=True):
            if not is_finite:
                bad[name] = f'{int((~weight.isfinite()).sum())} of {weight.numel()} values'
    return bad


def _shorten(bad: dict[str, str]) -> str:
    shown = [f'{name} ({count})' for name, count in list(bad.items())[:3]]
    return ', '.join(shown) + (f' and {len(bad) - 3} more' if len(bad) > 3 else '')
