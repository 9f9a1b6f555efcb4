"""Copies of the buffers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
