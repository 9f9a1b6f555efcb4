"""Keeps a loss or gradients that are not finite from the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, update_wrapper
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


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
            self._judge([])

    def _guard_step(self, **kwargs: Any) -> None:
        scaler = getattr(self._wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            gradients = []  # scaled, and the scaler looks at them itself
        else:
            groups = self._wrapper.optimizer.param_groups
            gradients = [p.grad for group in groups for p in group['params'] if p.grad is not None]
            gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        self._judge(gradients)
        self._window_begins = True
        self.made, self.skipped = self._window_is_finite, not self._window_is_finite
        if self.made:
            self._step(**kwargs)
            return
        if hasattr(self._wrapper, '_global_step'):  # by which schedulers see that they follow it
            self._wrapper._global_step += 1

    def _judge(self, gradients: Sequence[Tensor]) -> None:
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


class Buffers:
    """The buffers of a model, such as batch norm statistics and GHM running counts, and a copy.

    Example:
        >>> model = nn.BatchNorm1d(1)
        >>> buffers = Buffers(model)
        >>> buffers.save()
        >>> _ = model(torch.tensor([[1.0], [3.0]]))
        >>> buffers.restore()
        >>> model.running_mean, model.num_batches_tracked
        (tensor([0.]), tensor(0))
    """

    def __init__(self, model: nn.Module) -> None:
        # Places rather than tensors: a module may put a new tensor into a place.
        self._places = [(module, name) for module in model.modules() for name in module._buffers]
        self._copies: list[Tensor | None] = [None] * len(self._places)

    @torch.no_grad()
    def save(self) -> None:
        """Copy the buffers, into the same memory as before where they are of the same form."""
        by_form: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for i, (module, name) in enumerate(self._places):
            buffer, copy = module._buffers.get(name), self._copies[i]
            if buffer is None:
                self._copies[i] = None
            elif copy is None or _form(copy) != _form(buffer):
                self._copies[i] = buffer.clone()
            else:
                copies, buffers = by_form.setdefault(_form(buffer)[1:], ([], []))
                copies.append(copy)
                buffers.append(buffer)
        for copies, buffers in by_form.values():
            torch._foreach_copy_(copies, buffers)  # a few kernels for hundreds of buffers

    def copies(self) -> list[Tensor | None]:
        """Return what was saved last, on the CPU."""
        return [None if copy is None else copy.cpu() for copy in self._copies]

    def set_copies(self, copies: Sequence[Tensor | None]) -> None:
        """Take over what `copies` of another process returned, as if saved."""
        pairs = zip(self._places, copies, strict=True)
        self._copies = [
            copy if copy is None else copy.to(module._buffers[name].device)  # type: ignore[union-attr]
            for (module, name), copy in pairs
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was saved last."""
        for (module, name), copy in zip(self._places, self._copies, strict=True):
            buffer = module._buffers.get(name)
            if buffer is None or copy is None:
                continue
            if _form(buffer) == _form(copy):
                buffer.copy_(copy)
            else:
                module._buffers[name] = copy.clone()


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device
