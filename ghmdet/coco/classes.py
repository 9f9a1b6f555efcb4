"""Class names and the ids of the categories that they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from ghmdet.coco.records import CategoryRecord, Id


def match_classes(
    classes: Sequence[str], categories: Sequence[CategoryRecord], ann_file: str
) -> list[Id]:
    """Find the category id of each class, in the order of the classes.

    This order is what makes a label mean the class at its place in `metainfo.classes`. MMDetection
    returns the ids in the order of the file, which swaps names as soon as the two orders differ.

    Raises:
        ValueError: a class is not among the categories, or two categories bear its name.

    Example:
        >>> categories = [CategoryRecord(7, 'dog'), CategoryRecord(3, 'cat')]
        >>> match_classes(('cat', 'dog'), categories, 'train.json')
        [3, 7]
    """
    ids: dict[str, list[Id]] = {}
    for category in categories:
        ids.setdefault(category.name, []).append(category.id)
    missing = [name for name in classes if name not in ids]
    if missing:
        hints = ', '.join(_suggest_name(name, ids) for name in missing[:10])
        more = f' and {len(missing) - 10} more' if len(missing) > 10 else ''
        raise ValueError(
            f'{ann_file}: of the {len(classes)} classes in metainfo.classes, {len(missing)} are '
            f'not in the file: {hints}{more}. Its categories are {_shorten(list(ids), 100)}. Set '
            'metainfo=dict(classes=(...)) of every dataset in the config to these names (without '
            "it the 80 COCO classes hold), and the head's num_classes to their number"
        )
    repeated = {name: ids[name] for name in classes if len(ids[name]) > 1}
    if repeated:
        raise ValueError(
            f'{ann_file}: expected one category per class, got several ids for {repeated}; rename '
            'or merge these categories in the file'
        )
    return [ids[name][0] for name in classes]


def _suggest_name(name: str, known: Iterable[str]) -> str:
    by_lower = {other.lower(): other for other in known}
    close = get_close_matches(str(name).lower(), by_lower, n=1)
    return f'{name!r} (did you mean {by_lower[close[0]]!r}?)' if close else repr(name)


def _shorten(items: Sequence[str], limit: int) -> str:
    more = f', and {len(items) - limit} more' if len(items) > limit else ''
    return ', '.join(items[:limit]) + more
