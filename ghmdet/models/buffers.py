"""Buffers of a model: copied, restored, averaged over the processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn


class Buffers:
    """The buffers of a model, such as batch norm statistics and GHM running counts, and a copy."""

    def __init__(self, model: nn.Module) -> None:
        # Not the tensors, which a module may replace by others.
        self._names = [(module, name) for module in model.modules() for name in module._buffers]
        self._copies: list[Tensor | None] = [None] * len(self._names)

    @torch.no_grad()
    def save(self) -> None:
        """Copy the buffers, into the same memory as before where they are of the same form."""
        by_form: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for i, (module, name) in enumerate(self._names):
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
        """Store what `copies` of another process returned, as `save` does."""
        self._copies = [
            copy if copy is None else copy.to(module._buffers[name].device)  # type: ignore[union-attr]
            for (module, name), copy in zip(self._names, copies, strict=True)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was saved last."""
        for (module, name), copy in zip(self._names, self._copies, strict=True):
            buffer = module._buffers.get(name)
            if buffer is None or copy is None:
                continue
            if _form(buffer) == _form(copy):
                buffer.copy_(copy)
            else:
                module._buffers[name] = copy.clone()


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


@contextmanager
def averaged_buffers(models: Mapping[str, nn.Module]) -> Iterator[None]:
    """Let floating point buffers (batch norm statistics, GHM running counts) be the mean.

    That is the mean over the processes, for a checkpoint or a validation; all processes have to
    enter it. Afterwards each has its own values back. `models` is of `detectors_of`.
    """
    if get_world_size() == 1:
        yield
        return
    buffers = [buffer for _, buffer in floating_buffers(models)]
    own = [buffer.clone() for buffer in buffers]
    for buffer, mean in zip(buffers, _average(buffers), strict=True):
        buffer.copy_(mean)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)


def find_deviating_buffers(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return copies of the floating point buffers that are not the mean, by name."""
    if get_world_size() == 1:
        return {}
    named = dict(floating_buffers(models))
    pairs = zip(named.items(), _average(list(named.values())), strict=True)
    return {name: own.cpu().clone() for (name, own), mean in pairs if not torch.equal(own, mean)}


def floating_buffers(models: Mapping[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating point buffers of all models, by name with the prefix of the model."""
    for prefix, model in models.items():
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                yield prefix + name, buffer


def _average(buffers: Sequence[Tensor]) -> list[Tensor]:
    """Means over the processes; computed in float64, so that the mean of equal values is exact."""
    if not buffers:
        return []
    joined = torch.cat([buffer.detach().flatten().double() for buffer in buffers])
    all_reduce(joined, 'mean')
    parts = joined.split([buffer.numel() for buffer in buffers])
    return [part.view_as(old).to(old.dtype) for part, old in zip(parts, buffers, strict=True)]
