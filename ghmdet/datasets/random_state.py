"""The state of the random number generators of a process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def get_random_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators, for a checkpoint.

    Returns:
        `python`, `numpy`, `torch`, and `cuda` for the current device if CUDA is in use.
    """
    numpy: Any = np.random.get_state()
    name, words, *rest = numpy
    state: dict[str, Any] = dict(
        python=random.getstate(),
        numpy=(name, torch.from_numpy(words.astype(np.int64)), *rest),
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the states that `get_random_state` returned."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restore the states of the generators at the end."""
    state = get_random_state()
    try:
        yield
    finally:
        set_random_state(state)
