"""Class names, COCO's among them, and the ids of the categories that have these names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from ghmdet.coco.records import CategoryRecord, CocoRecords, Id
from ghmdet.files import explain_look_alike, read_lines
from ghmdet.messages import list_items, nearest

_COCO_NAMES = (
    'person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,'
    'stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,'
    'backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,'
    'baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,'
    'banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,'
    'potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,'
    'oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush'
)
COCO_CLASSES = tuple(_COCO_NAMES.split(','))
# Steps of three primes modulo 200 keep neighbouring classes apart and every colour bright.
COCO_PALETTE = [(55 + i * 67 % 200, 55 + i * 113 % 200, 55 + i * 29 % 200) for i in range(80)]


def read_class_names(classes: Any, key: str) -> tuple[str, ...]:
    """Check class names, or read them from a file with one per line; `key` is for messages."""
    if isinstance(classes, str):
        if not os.path.isfile(os.path.expanduser(classes)):
            raise ValueError(
                f'{key} must be a sequence of names, got the str {classes!r}, and there is no file '
                f'of that name with one class per line{explain_look_alike(classes)}; a tuple of '
                f'one needs a comma: classes=({classes!r},)'
            )
        classes = read_lines(classes)
    if not isinstance(classes, list | tuple) or not all(isinstance(n, str) for n in classes):
        raise ValueError(f'{key} must be a sequence of names, got {classes!r}')
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated or not classes:
        what = f'names a class twice: {", ".join(repeated)}' if repeated else 'is empty'
        raise ValueError(f'{key} {what}; it needs each class once')
    return tuple(classes)


def match_classes(
    classes: Sequence[str],
    categories: Sequence[CategoryRecord],
    ann_file: str,
    annotated: Collection[Id],
) -> list[Id]:
    """Find the category id of each class, in the order of the classes, so that labels are indices.

    `annotated` are the ids in annotations.

    Raises:
        ValueError: a class is not among the categories, or two annotated categories have its name.
    """
    ids: dict[str, list[Id]] = {}
    for category in categories:
        ids.setdefault(category.name, []).append(category.id)
    if missing := [name for name in classes if name not in ids]:
        hints = list_items((suggest_name(name, list(ids)) for name in missing), 10)
        raise ValueError(
            f'{ann_file}: of the {len(classes)} classes in metainfo.classes, {len(missing)} are '
            f'not in the file: {hints}. Its categories are {list_items(ids, 100)}. Set '
            'metainfo=dict(classes=(...)) of every dataset in the config to these names (the '
            "default is the 80 COCO classes), and the head's num_classes to their number"
        )
    chosen = {name: choose_ids(ids[name], annotated) for name in classes}
    if repeated := {name: ids for name, ids in chosen.items() if len(ids) > 1}:
        raise ValueError(
            f'{ann_file}: expected one category per class, but several ids of a name have '
            f'annotations: {repeated}. If they are one class, give these annotations the same '
            'category_id; if not, rename a category in the file'
        )
    return [chosen[name][0] for name in classes]


def choose_ids(ids: list[Id], annotated: Collection[Id]) -> list[Id]:
    """Return which categories of one name count: those with annotations, else the first."""
    return [id_ for id_ in ids if id_ in annotated] or ids[:1]


class FileClasses(NamedTuple):
    """The classes of a COCO file: names in the order of the category ids, each once."""

    classes: tuple[str, ...]
    categories: tuple[str, ...]  # all names
    unused: set[str]  # those without annotations
    # No classes: unused and the supercategory of others, as Roboflow writes a project; with a text.
    roots: dict[str, str]
    notes: list[str]  # which of several categories of one name counts


def find_classes(records: CocoRecords) -> FileClasses:
    """Find out which categories of a file are classes."""
    annotated = set(records.annotations.category_ids)
    ids: dict[str, list[Id]] = {}
    children: dict[Any, list[str]] = {}
    for category in sorted(records.categories, key=lambda category: _id_order(category.id)):
        ids.setdefault(category.name, []).append(category.id)
        if isinstance(category.supercategory, str) and category.supercategory != 'none':
            children.setdefault(category.supercategory, []).append(category.name)
    unused = {name for name in ids if annotated.isdisjoint(ids[name])}
    reason = 'is no class: it has no annotation and is the supercategory of'
    roots = {
        name: f'{name!r} {reason} {list_items(of)}'
        for name, of in children.items()
        if name in unused and name not in of  # COCO's person is its own
    }
    chosen = {name: choose_ids(of_name, annotated) for name, of_name in ids.items()}
    classes = sorted(ids.keys() - roots, key=lambda name: _id_order(chosen[name][0]))
    notes = [
        f'of the categories {ids[name]} named {name!r}, only {used[0]!r} has annotations and counts'
        for name, used in chosen.items()
        if len(used) == 1 < len(ids[name]) and name not in unused
    ]
    return FileClasses(tuple(classes or ids), tuple(ids), unused, roots if classes else {}, notes)


def suggest_name(name: str, known: Sequence[str]) -> str:
    """Return a class name, and the nearest of the known ones."""
    near = nearest(str(name), known, count=1, cutoff=0.6)
    return f'{name!r} (did you mean {near[0]!r}?)' if near else repr(name)


def _id_order(id_: Id) -> tuple[int, float, str]:
    """Sort key of category ids: numbers, also those written as text, before other text."""
    if isinstance(id_, str) and id_.isascii() and id_.isdecimal() and len(id_) < 20:
        id_ = int(id_)
    return (0, id_, '') if isinstance(id_, int | float) else (1, 0, str(id_))
