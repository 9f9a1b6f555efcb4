"""What becomes of training steps whose loss or gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ghmdet.checkpoint.files import last_checkpoint
from ghmdet.engine.hooks.non_finite_weights import NonFiniteError
from ghmdet.models.buffers import Buffers
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS

_LISTED = 32  # images in a message
_TOLD = 10  # skipped steps told one by one, then each hundredth


@HOOKS.register_module()
class SkipNonFiniteStepsHook(Hook):
    """Skip steps whose loss or gradients are not finite, and stop where there is no end of them.

    A skipped step leaves the weights, the optimizer's state and the buffers of the model (GHM
    running counts, batch norm statistics) as they were before it; the learning rate goes on as
    after any step. Of a step over several accumulated batches all are left out. In distributed
    training all processes skip together. With float16 the gradients are the loss scaler's business,
    which meets infinite ones by design; only once its scale has fallen below 1 they are counted.

    The log tells iteration, parts of the loss and images, for the first ten steps and then for each
    hundredth, and from the first on the number `skipped_steps`; the loss of a skipped step is left
    out of the averages in the log.

    Args:
        max_in_a_row: after so many skipped steps without one in between that was made, the run
            stops with an error.

    Raises:
        ValueError: max_in_a_row is not a positive integer.
    """

    priority = 'HIGH'  # after mmengine has noted the loss, before it is logged

    def __init__(self, max_in_a_row: int = 10) -> None:
        if not isinstance(max_in_a_row, int) or max_in_a_row < 1:
            raise ValueError(
                'SkipNonFiniteStepsHook.max_in_a_row must be an integer of at least 1, got '
                f'{max_in_a_row!r}'
            )
        self.max_in_a_row = max_in_a_row
        self._guard: StepGuard | None = None

    def before_train(self, runner: Runner) -> None:
        """Put the guard before the steps."""
        self._in_a_row = 0
        self._skipped = runner.message_hub.get_info('skipped_steps', 0)  # resumed
        self._scale = 0.0
        self._causes: list[dict[str, Any]] = []  # of this process, in the step that is under way
        if isinstance(runner.optim_wrapper, OptimWrapper) and self._guard is None:
            self._guard = StepGuard(runner.optim_wrapper, unwrap(runner.model))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        guard = self._guard.state_dict() if self._guard is not None else {}
        return dict(in_a_row=self._in_a_row, scale=self._scale, guard=guard)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; after `before_train`."""
        self._in_a_row, self._scale = state['in_a_row'], state['scale']
        if self._guard is not None:
            self._guard.load_state_dict(state['guard'])

    def before_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Keep what the step may change."""
        if self._guard is not None:
            self._guard.begin_iteration()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Count and tell.

        Raises:
            NonFiniteError: the last `max_in_a_row` steps were skipped.
        """
        guard = self._guard
        if guard is None:
            return
        underflow = self._scaler_gave_up(runner)
        if guard.at_fault or underflow:
            values = (outputs or {}).items()
            parts = {k: v.item() if isinstance(v, Tensor) else float(v) for k, v in values}
            self._causes.append(
                dict(
                    place=_place(runner),
                    parts=parts,
                    images=_images(data_batch),
                    blamed=guard.blamed,
                    underflow=underflow,
                )
            )
            _leave_out(runner, parts)
        if guard.skipped or underflow:
            self._count(runner)
        elif guard.made:
            self._in_a_row = 0

    def after_train(self, runner: Runner) -> None:
        """Sum up, and take the guard away."""
        if self._guard is not None:
            self._guard.remove()
            self._guard = None
        if self._skipped:
            runner.logger.warning(
                f'{self._skipped} of {runner.iter} iterations ended in a step that was skipped, '
                'as its loss or gradients were not finite'
            )

    def _scaler_gave_up(self, runner: Runner) -> bool:
        """Whether float16's scale fell once more although it is below 1."""
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is None or not scaler.is_enabled():
            return False
        before, self._scale = self._scale, scaler.get_scale()
        return self._scale < min(before, 1.0)

    def _count(self, runner: Runner) -> None:
        self._skipped += 1
        self._in_a_row += 1
        runner.message_hub.update_info('skipped_steps', self._skipped)
        runner.message_hub.update_scalar('train/skipped_steps', self._skipped)
        causes = [cause for part in all_gather_object(self._causes) for cause in part]
        self._causes = []
        told = _tell(causes)
        if self._in_a_row >= self.max_in_a_row:
            raise NonFiniteError(
                f'training stops at {_place(runner)}: loss or gradients were not finite in '
                f'{self._in_a_row} steps in a row. None of these steps was made; of the last one:\n'
                f'{told}\n{_advice(runner)}'
            )
        if self._skipped <= _TOLD or self._skipped % 100 == 0:
            runner.logger.warning(
                f'step skipped: loss or gradients are not finite; {self._in_a_row} in a row (the '
                f'run stops at {self.max_in_a_row}), {self._skipped} in all\n{told}'
            )


def _place(runner: Runner) -> str:
    return f'iteration {runner.iter + 1} (epoch {runner.epoch + 1})'


def _images(data_batch: Any) -> list[str]:
    """Id and file of each image."""
    samples = data_batch.get('data_samples') if isinstance(data_batch, Mapping) else None
    found = []
    for sample in samples or ():
        metainfo = getattr(sample, 'metainfo', {})
        found.append(f'{metainfo.get("img_id", "?")} ({metainfo.get("img_path", "no file")})')
    return found


def _leave_out(runner: Runner, parts: Mapping[str, float]) -> None:
    """Take what is not finite out of the averages that the log shows of the losses."""
    for name, value in parts.items():
        key = f'train/{name}'
        if math.isfinite(value) or 'loss' not in name or key not in runner.message_hub.log_scalars:
            continue
        values, counts = runner.message_hub.get_scalar(key).data
        if counts[:-1].sum() > 0:  # else there is no average yet
            values[-1] = counts[-1] = 0


def _tell(causes: list[dict[str, Any]]) -> str:
    lines = []
    for cause in causes:
        parts = ', '.join(f'{name} {value:.6g}' for name, value in cause['parts'].items())
        images = ', '.join(cause['images'][:_LISTED]) or 'unknown'
        rest = len(cause['images']) - _LISTED
        lines.append(f'  {cause["place"]}: {parts}')
        lines.append(f'  images: {images}' + (f' and {rest} more' if rest > 0 else ''))
        if blamed := cause['blamed']:
            shown = ', '.join(blamed[:3]) + (f' and {len(blamed) - 3} more' if blamed[3:] else '')
            lines.append(f'  gradients that are not finite: {shown}')
        if cause['underflow']:
            lines.append('  gradients overflow in float16 even without loss scaling')
    return '\n'.join(dict.fromkeys(lines))  # once what is the same on all processes


def _advice(runner: Runner) -> str:
    wrapper = runner.optim_wrapper
    rates = ', '.join(f'{rate:.6g}' for rate in dict.fromkeys(wrapper.get_lr()['lr']))
    clipping = wrapper.clip_grad_kwargs or 'off'
    amp = ', training without --amp' if hasattr(wrapper, 'loss_scaler') else ''
    return (
        f'  learning rate: {rates}; gradient clipping: {clipping}\n'
        'What helps: a lower learning rate (optim_wrapper.optimizer.lr, or --auto-scale-lr), '
        'gradient clipping (optim_wrapper.clip_grad="dict(max_norm=35, norm_type=2)"), a longer '
        f'warm-up (LinearLR in param_scheduler){amp}, and a look at the annotations of these '
        f'images (tools/check_dataset.py). Checkpoints written before are as they were; the last '
        f'is {last_checkpoint(runner)}.'
    )


class StepGuard:
    """Looks at each step of an optimizer wrapper before it is made, and may leave it out.

    It stands between `update_params` and `step` of one wrapper, of whatever class, since only there
    loss and gradients are known and the weights are not changed yet. The processes of a distributed
    training decide together. Costs one pass over the gradients and one wait for the device, where
    mmengine waits at each iteration anyhow, to log the loss.

    Args:
        wrapper: its methods are replaced until `remove` is called.
        model: the model without wrappers, whose buffers a skipped step puts back.
    """

    made: bool
    """Whether the last iteration ended in a step."""
    skipped: bool
    """Whether it ended where a step was due that was left out."""
    at_fault: bool
    """Whether the batch that this process had in the last iteration is a reason to skip."""
    blamed: list[str]
    """Parameters with gradients that were not finite, where the loss was."""

    def __init__(self, wrapper: OptimWrapper, model: nn.Module) -> None:
        self._wrapper = wrapper
        self._model = model
        self._buffers = Buffers(model)
        self._update_params, self._step = wrapper.update_params, wrapper.step
        self._window_is_finite = self._window_begins = True
        # As mmengine's schedulers do it, whose mark on `step` is kept.
        wrapper.update_params = update_wrapper(partial(self._guard_update), self._update_params)
        wrapper.step = update_wrapper(partial(self._guard_step), self._step)

    def remove(self) -> None:
        """Give the wrapper its own methods back."""
        self._wrapper.update_params, self._wrapper.step = self._update_params, self._step

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of a step of which some batches are done; between steps nothing."""
        if self._window_begins:
            return {}
        return dict(is_finite=self._window_is_finite, buffers=self._buffers.copies())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the step that `state_dict` told of."""
        if state:
            self._window_begins, self._window_is_finite = False, state['is_finite']
            self._buffers.set_copies(state['buffers'])

    def begin_iteration(self) -> None:
        """Keep what the forward pass may change; to be called before it."""
        self.made = self.skipped = self.at_fault = False
        self.blamed = []
        if self._window_begins:
            self._window_begins, self._window_is_finite = False, True
            self._buffers.save()

    def _guard_update(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self._loss = loss.detach()
        self._update_params(loss, *args, **kwargs)  # backward, then perhaps `_guard_step`
        if not self._window_begins:  # a part of a step over several batches
            self._check_finite([])

    def _guard_step(self, **kwargs: Any) -> None:
        scaler = getattr(self._wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            gradients = []  # scaled, and the scaler looks at them itself
        else:
            groups = self._wrapper.optimizer.param_groups
            gradients = [p.grad for group in groups for p in group['params'] if p.grad is not None]
            gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        self._check_finite(gradients)
        self._window_begins = True
        self.made, self.skipped = self._window_is_finite, not self._window_is_finite
        if self.made:
            self._step(**kwargs)
            return
        if hasattr(self._wrapper, '_global_step'):  # by which schedulers see that they follow it
            self._wrapper._global_step += 1

    def _check_finite(self, gradients: Sequence[Tensor]) -> None:
        """Look at loss and gradients; where they are not finite, the buffers are put back."""
        length = get_total_norm(gradients).to(self._loss.device)
        bad_loss, bad_gradients = _any_process(~self._loss.isfinite().all(), ~length.isfinite())
        if bad_gradients:  # or large ones, whose squares overflow
            (bad_gradients,) = _any_process(
                torch.stack([~g.isfinite().all().to(self._loss.device) for g in gradients]).any()
            )
        self._window_is_finite &= not (bad_loss or bad_gradients)
        if self._window_is_finite:
            return
        self._buffers.restore()
        if bad_loss:
            self.at_fault = not self._loss.isfinite().all().item()
        elif bad_gradients:
            self.at_fault = True  # as far as one can tell: they are sums over all processes
            self.blamed = [
                name
                for name, parameter in self._model.named_parameters()
                if parameter.grad is not None and not parameter.grad.isfinite().all()
            ]


def _any_process(*flags: Tensor) -> list[bool]:
    """Whether a flag is up on this or any other process, for each flag."""
    raised = torch.stack(flags).int()
    all_reduce(raised, 'max')
    return [bool(flag) for flag in raised.tolist()]
