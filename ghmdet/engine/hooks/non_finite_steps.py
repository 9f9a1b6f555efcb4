"""Skip training steps whose loss or gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial, update_wrapper
from itertools import chain
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ghmdet.argument_checks import check_integer
from ghmdet.checkpoint.files import last_checkpoint
from ghmdet.engine.hooks.non_finite_weights import NonFiniteError
from ghmdet.messages import list_items
from ghmdet.models.buffers import Buffers
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS

_MAX_IMAGES = 32  # in a message
_LOGGED = 10  # skipped steps that are logged one by one; then every hundredth


@HOOKS.register_module()
class SkipNonFiniteStepsHook(Hook):
    """Skip steps whose loss or gradients are not finite, and stop after too many of them in a row.

    A skipped step leaves the weights, the optimizer's state and the buffers of the model (GHM
    running counts, batch norm statistics) unchanged; the learning rate schedule advances. All
    batches of an accumulated step are skipped. In distributed training all processes skip together.
    With float16 the loss scaler handles infinite gradients, which it meets by design; they are
    counted here only after its scale has fallen below 1.

    Iteration, losses and images are logged for the first ten skipped steps and then for every
    hundredth, and their number as `skipped_steps`; the averages in the log leave out the loss of a
    skipped step.

    Args:
        max_in_a_row: the run stops with an error after so many skipped steps in a row, at least 1.
    """

    priority = 'HIGH'

    def __init__(self, max_in_a_row: int = 10) -> None:
        check_integer('SkipNonFiniteStepsHook.max_in_a_row', max_in_a_row, 1)
        self.max_in_a_row = max_in_a_row
        self._guard: StepGuard | None = None

    def before_train(self, runner: Runner) -> None:
        """Guard the steps of the optimizer wrapper."""
        self._in_a_row = 0
        self._skipped = runner.message_hub.get_info('skipped_steps', 0)  # resumed
        self._scale = 0.0
        self._causes: list[str] = []  # of this process, in the current step
        if isinstance(runner.optim_wrapper, OptimWrapper) and self._guard is None:
            self._guard = StepGuard(runner.optim_wrapper, unwrap(runner.model))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        guard = self._guard.state_dict() if self._guard is not None else {}
        return dict(in_a_row=self._in_a_row, scale=self._scale, guard=guard)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore that state, after `before_train`."""
        self._in_a_row, self._scale = state['in_a_row'], state['scale']
        if self._guard is not None:
            self._guard.load_state_dict(state['guard'])

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Copy the buffers, which the step may change."""
        if self._guard is not None:
            self._guard.begin_iteration()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count and log skipped steps; a NonFiniteError after `max_in_a_row` in a row."""
        guard = self._guard
        if guard is None:
            return
        underflow = self._scale_is_exhausted(runner)
        if guard.has_bad_batch or underflow:
            values = (outputs or {}).items()
            losses = {k: v.item() if isinstance(v, Tensor) else float(v) for k, v in values}
            self._causes += _describe_batch(runner, losses, data_batch)
            if guard.bad_gradients:
                self._causes.append(f'  non-finite gradients: {list_items(guard.bad_gradients, 3)}')
            if underflow:
                self._causes.append('  gradients overflow in float16 even without loss scaling')
            _exclude_from_log(runner, losses)
        if guard.skipped or underflow:
            self._count(runner)
        elif guard.made:
            self._in_a_row = 0

    def after_train(self, runner: Runner) -> None:
        """Log the total, and remove the guard."""
        if self._guard is not None:
            self._guard.remove()
            self._guard = None
        if self._skipped:
            runner.logger.warning(
                f'{self._skipped} of {runner.iter} iterations ended in a skipped step, because '
                'the loss or gradients were not finite'
            )

    def _scale_is_exhausted(self, runner: Runner) -> bool:
        """Whether the loss scale of float16 fell again although it is below 1."""
        scaler = _enabled_scaler(runner.optim_wrapper)
        if scaler is None:
            return False
        before, self._scale = self._scale, scaler.get_scale()
        return self._scale < min(before, 1.0)

    def _count(self, runner: Runner) -> None:
        self._skipped += 1
        self._in_a_row += 1
        runner.message_hub.update_info('skipped_steps', self._skipped)
        runner.message_hub.update_scalar('train/skipped_steps', self._skipped)
        causes = dict.fromkeys(chain(*all_gather_object(self._causes)))  # each line once
        self._causes, details = [], '\n'.join(causes)
        if self._in_a_row >= self.max_in_a_row:
            raise NonFiniteError(
                f'training stops at {_iteration(runner)}: loss or gradients were not finite in '
                f'{self._in_a_row} steps in a row. All of them were skipped; the last one:\n'
                f'{details}\n{_advice(runner)}'
            )
        if self._skipped <= _LOGGED or self._skipped % 100 == 0:
            runner.logger.warning(
                f'step skipped: loss or gradients are not finite; {self._in_a_row} in a row (the '
                f'run stops at {self.max_in_a_row}), {self._skipped} in all\n{details}'
            )


def _enabled_scaler(wrapper: Any) -> Any:
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _iteration(runner: Runner) -> str:
    return f'iteration {runner.iter + 1} (epoch {runner.epoch + 1})'


def _describe_batch(runner: Runner, losses: Mapping[str, float], data_batch: Any) -> list[str]:
    """Return the lines of a message with the losses, and id and file of each image."""
    samples = data_batch.get('data_samples') if isinstance(data_batch, Mapping) else None
    infos = [getattr(sample, 'metainfo', {}) for sample in samples or ()]
    images = [f'{info.get("img_id", "?")} ({info.get("img_path", "no file")})' for info in infos]
    return [
        f'  {_iteration(runner)}: ' + ', '.join(f'{k} {v:.6g}' for k, v in losses.items()),
        f'  images: {list_items(images, _MAX_IMAGES) or "unknown"}',
    ]


def _exclude_from_log(runner: Runner, losses: Mapping[str, float]) -> None:
    """Exclude non-finite losses from the averages in the log."""
    for name, value in losses.items():
        key = f'train/{name}'
        if math.isfinite(value) or 'loss' not in name or key not in runner.message_hub.log_scalars:
            continue
        values, counts = runner.message_hub.get_scalar(key).data
        if counts[:-1].sum() > 0:  # else there is no average yet
            values[-1] = counts[-1] = 0


def _advice(runner: Runner) -> str:
    wrapper = runner.optim_wrapper
    rates = ', '.join(f'{rate:.6g}' for rate in dict.fromkeys(wrapper.get_lr()['lr']))
    clipping = wrapper.clip_grad_kwargs or 'off'
    amp = ', training without --amp' if hasattr(wrapper, 'loss_scaler') else ''
    return (
        f'  learning rate: {rates}; gradient clipping: {clipping}\n'
        'What helps: a lower learning rate (optim_wrapper.optimizer.lr, or --auto-scale-lr), '
        'gradient clipping (optim_wrapper.clip_grad.max_norm=35), a longer '
        f'warm-up (LinearLR in param_scheduler){amp}, and a look at the annotations of these '
        f'images (tools/check_dataset.py). Earlier checkpoints are unchanged; the last is '
        f'{last_checkpoint(runner)}.'
    )


class StepGuard:
    """Check each step of an optimizer wrapper before it is made, and skip it if it is not finite.

    It replaces `update_params` and `step` of a wrapper of any class: only between them are loss and
    gradients known while the weights are unchanged. All processes of a distributed training decide
    together. It costs one pass over the gradients and one device sync.

    Args:
        wrapper: its methods are replaced until `remove` is called.
        model: the model without wrappers, whose buffers a skipped step puts back.
    """

    made: bool  # whether the last iteration ended in a step
    skipped: bool  # whether it ended in a step that was skipped
    has_bad_batch: bool  # whether loss or gradients of this process's last batch are not finite
    bad_gradients: list[str]  # parameters with non-finite gradients, if the loss was finite

    def __init__(self, wrapper: OptimWrapper, model: nn.Module) -> None:
        self._wrapper, self._model, self._buffers = wrapper, model, Buffers(model)
        self._update_params, self._step = wrapper.update_params, wrapper.step
        self._window_is_finite = self._window_begins = True
        # As mmengine's schedulers do it, whose mark on `step` is kept.
        wrapper.update_params = update_wrapper(partial(self._guard_update), self._update_params)
        wrapper.step = update_wrapper(partial(self._guard_step), self._step)

    def remove(self) -> None:
        """Restore the methods of the wrapper."""
        self._wrapper.update_params, self._wrapper.step = self._update_params, self._step

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a step of which some batches are done; empty between steps."""
        if self._window_begins:
            return {}
        return dict(is_finite=self._window_is_finite, buffers=self._buffers.copies())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the step that `state_dict` describes."""
        if state:
            self._window_begins, self._window_is_finite = False, state['is_finite']
            self._buffers.set_copies(state['buffers'])

    def begin_iteration(self) -> None:
        """Copy the buffers; to be called before the forward pass."""
        self.made = self.skipped = self.has_bad_batch = False
        self.bad_gradients = []
        if self._window_begins:
            self._window_begins, self._window_is_finite = False, True
            self._buffers.save()

    def _guard_update(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self._loss = loss.detach()
        self._update_params(loss, *args, **kwargs)  # backward, then perhaps `_guard_step`
        if not self._window_begins:  # a batch of an accumulated step
            self._check_finite([])

    def _guard_step(self, **kwargs: Any) -> None:
        gradients: list[Tensor] = []  # those of float16 are scaled, and checked by the scaler
        if _enabled_scaler(self._wrapper) is None:
            groups = self._wrapper.optimizer.param_groups
            gradients = [p.grad for group in groups for p in group['params'] if p.grad is not None]
            gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        self._check_finite(gradients)
        self._window_begins = True
        self.made, self.skipped = self._window_is_finite, not self._window_is_finite
        if self.made:
            self._step(**kwargs)
        elif hasattr(self._wrapper, '_global_step'):  # schedulers check the order of calls with it
            self._wrapper._global_step += 1

    def _check_finite(self, gradients: Sequence[Tensor]) -> None:
        """Check loss and gradients; if they are not finite, restore the buffers."""
        norm = get_total_norm(gradients).to(self._loss.device)
        bad_loss, bad_gradients = _any_process(~self._loss.isfinite().all(), ~norm.isfinite())
        if bad_gradients:  # or large ones, whose squares overflow
            (bad_gradients,) = _any_process(
                torch.stack([~g.isfinite().all().to(self._loss.device) for g in gradients]).any()
            )
        self._window_is_finite &= not (bad_loss or bad_gradients)
        if self._window_is_finite:
            return
        self._buffers.restore()
        if bad_loss:
            self.has_bad_batch = not self._loss.isfinite().all().item()
        elif bad_gradients:
            self.has_bad_batch = True  # gradients are sums over all processes: which is not known
            named = self._model.named_parameters()
            found = [(name, p.grad) for name, p in named if p.grad is not None]
            self.bad_gradients = [name for name, grad in found if not grad.isfinite().all()]


def _any_process(*flags: Tensor) -> list[bool]:
    """Return for each flag whether it is set on any process."""
    raised = torch.stack(flags).int()
    all_reduce(raised, 'max')
    return [bool(flag) for flag in raised.tolist()]
