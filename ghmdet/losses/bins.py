"""Bins of gradient norms, stored as bytes: fast ways to find, count and look them up on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# One value of a byte means no bin.
MAX_BINS = 255


def product_is_exact(bins: int) -> bool:
    """Whether int(g * bins) is the bin of every float32 g in [0, 1].

    The product rounds monotonically, so it is right everywhere if it is right at each inner edge
    and at the number below; it is for 10 and for 30 bins, not for 11.
    """
    inner = np.arange(1, bins)
    edges = inner.astype(np.float32) / np.float32(bins)
    below = np.nextafter(edges, np.float32(0))
    at_edges, at_below = ((g * np.float32(bins)).astype(int) for g in (edges, below))
    return bool((at_edges == inner).all() and (at_below == inner - 1).all())


def count_bins(bin_inds: Tensor, bins: int) -> Tensor:
    """Count the entries of each bin, int64 (bins,).

    `bin_inds` (n,) is uint8 in 0 to `bins`, the last for entries that do not count; n is even.
    """
    if bin_inds.is_cuda:  # bincount would wait for the device
        return torch.histc(bin_inds.int(), bins + 1, min=0, max=bins + 1)[:-1].long()
    if not bin_inds.is_cpu:
        return torch.bincount(bin_inds.int(), minlength=bins + 1)[:-1]
    # Two neighbours at a time: fewer additions to the same number, which wait for each other.
    pairs = torch.bincount(_join_neighbours(bin_inds), minlength=256 * (bins + 1))
    pairs = pairs.view(bins + 1, 256)[:, : bins + 1]
    return (pairs.sum(0) + pairs.sum(1))[:-1]


def prepare_look_up(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that turns bins, uint8 (n,), n even, into their `weights`, float32 (n,).

    `weights` (bins + 1,) has that of entries that do not count, too.
    """
    weights = weights.float()
    if not weights.is_cpu:
        return lambda bin_inds: weights.index_select(0, bin_inds.int())
    # A complex number holds the weights of two neighbours; the first is the low byte of the index.
    first = F.pad(weights, (0, 256 - len(weights)))
    pairs = torch.complex(*torch.broadcast_tensors(first, weights[:, None])).flatten()
    return lambda bin_inds: torch.view_as_real(
        pairs.index_select(0, _join_neighbours(bin_inds))
    ).flatten()


def _join_neighbours(bin_inds: Tensor) -> Tensor:
    """Return the number that each two bytes are together, as int32, the fastest type of index."""
    return bin_inds.view(torch.uint16).int()
