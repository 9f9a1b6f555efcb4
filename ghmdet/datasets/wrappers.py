"""The datasets inside of wrappers, and their classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def base_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets inside of repeating, balancing and concatenating ones."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inside:
        if part is None:
            yield dataset
        else:
            yield from base_datasets(part)


def classes_of(split: str, loop: Any) -> tuple[str, ...] | None:
    """Class names of the first dataset of a loop."""
    return next(iter(_all_classes(split, loop).values()))


def _all_classes(split: str, loop: Any) -> dict[str, tuple[str, ...] | None]:
    """Class names of the innermost datasets: a wrapper holds a copy from before its init."""
    found: dict[str, tuple[str, ...] | None] = {}
    for number, dataset in enumerate(base_datasets(loop.dataloader.dataset)):
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        place = f'{split}_dataloader'
        if isinstance(classes, str):
            raise ValueError(
                f'{place}.dataset.metainfo.classes must be a tuple of names, but is the string '
                f'{classes!r}; for one class write classes=({classes!r},)'
            )
        place += f' (part {number} of its dataset)' if number else ''
        found[place] = None if classes is None else tuple(classes)
    return found


def _shorten(names: Sequence[str], limit: int = 5) -> str:
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')
