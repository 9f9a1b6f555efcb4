"""Counting by bin, exactly and without a pass for each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def product_tells_bin(bins: int) -> bool:
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
    """Count the entries of each bin, int64 (bins,); `bin_inds` is uint8 in 0 to `bins`."""
    inds = bin_inds.flatten()
    if inds.is_cuda:  # where bincount would wait for the device
        return torch.histc(inds.int(), bins + 1, min=0, max=bins + 1)[:-1].long()
    if len(inds) % 2 or bins > 126:
        return torch.bincount(inds, minlength=bins + 1)[:-1]
    # Two neighbours at a time: additions to one number wait for each other.
    pairs = torch.bincount(inds.view(torch.int16), minlength=256 * (bins + 1))
    pairs = pairs.view(bins + 1, 256)[:, : bins + 1]
    return (pairs.sum(0) + pairs.sum(1))[:-1]
