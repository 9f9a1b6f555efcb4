"""The datasets inside of wrappers, and their classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def base_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets inside of repeating, balancing and concatenating ones."""
    for part in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if part is None:
            yield dataset
        else:
            yield from base_datasets(part)


def classes_of(split: str, loop: Any) -> tuple[str, ...] | None:
    """Class names of the first dataset of a loop."""
    return next(iter(all_classes(split, loop).values()))


def all_classes(split: str, loop: Any) -> dict[str, tuple[str, ...] | None]:
    """Class names of the base datasets of a loop, by their key in the config.

    A wrapper itself holds a copy from before the dataset was initialised. Classes that are one
    string are a ValueError.
    """
    found: dict[str, tuple[str, ...] | None] = {}
    for number, dataset in enumerate(base_datasets(loop.dataloader.dataset)):
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        key = f'{split}_dataloader'
        if isinstance(classes, str):
            raise ValueError(
                f'{key}.dataset.metainfo.classes must be a tuple of names, but is the string '
                f'{classes!r}; for one class write classes=({classes!r},)'
            )
        key += f' (part {number} of its dataset)' if number else ''
        found[key] = None if classes is None else tuple(classes)
    return found
