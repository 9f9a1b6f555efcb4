"""Batches of images that are all upright or all lying, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Sampler

from ghmdet.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class AspectRatioBatchSampler(BatchSampler):
    """Group the indices of a sampler by `width < height` into batches.

    A batch is given out as soon as its group is full. What is left at the end, first the upright
    images and then the others, is cut into batches too, so one or more of these may be mixed.

    Unlike MMDetection's, a full last batch is kept with `drop_last=True`, so that there are always
    `len(self)` batches; and an epoch broken off leaves nothing behind for the next.

    Args:
        sampler: gives indices and has `dataset`, whose `get_data_info(index)` returns at least
            `width` and `height`; mmengine's samplers and dataset wrappers do.
        batch_size: images per batch.
        drop_last: whether to leave out a last batch that is not full.

    Raises:
        TypeError: the sampler is no `Sampler` or its dataset has no `get_data_info`.
        ValueError: `batch_size` is not a positive int.

    Example:
        >>> from mmengine.dataset import DefaultSampler
        >>> class Sizes:
        ...     sizes_wh = [(4, 3), (3, 4), (4, 3), (3, 4), (4, 3)]
        ...     def __len__(self):
        ...         return len(self.sizes_wh)
        ...     def get_data_info(self, index):
        ...         return dict(zip(('width', 'height'), self.sizes_wh[index]))
        >>> list(AspectRatioBatchSampler(DefaultSampler(Sizes(), shuffle=False), batch_size=2))
        [[0, 2], [1, 3], [4]]
    """

    # torch's annotation knows of no dataset and no length.
    sampler: Any

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(sampler, Sampler):
            raise TypeError(f'sampler must be a torch Sampler, got {type(sampler).__name__}')
        dataset = getattr(sampler, 'dataset', None)
        if not hasattr(dataset, 'get_data_info'):
            raise TypeError(
                'AspectRatioBatchSampler needs a sampler whose dataset has get_data_info, got '
                f'{type(sampler).__name__} over {type(dataset).__name__}; remove batch_sampler '
                'from the dataloader in the config, or use a mmengine dataset and sampler'
            )
        if not isinstance(batch_size, int) or batch_size <= 0:
            raise ValueError(f'batch_size must be a positive int, got {batch_size!r}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        """Give out batches of indices."""
        upright: list[int] = []
        lying: list[int] = []
        for index in self.sampler:
            info = self.sampler.dataset.get_data_info(index)
            group = upright if info['width'] < info['height'] else lying
            group.append(index)
            if len(group) == self.batch_size:
                yield group.copy()
                group.clear()
        rest = upright + lying
        for start in range(0, len(rest), self.batch_size):
            batch = rest[start : start + self.batch_size]
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def __len__(self) -> int:
        """Count the batches of one epoch."""
        full, short = divmod(len(self.sampler), self.batch_size)
        return full + (short > 0 and not self.drop_last)
