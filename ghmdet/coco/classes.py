"""Class names, COCO's among them, and the ids of the categories that have these names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.fileio import join_path
from mmengine.utils import is_abs

from ghmdet.coco.reader import read_coco
from ghmdet.coco.records import CategoryRecord, Id
from ghmdet.messages import list_items, nearest

_COCO_NAMES = (
    'person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,'
    'stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,'
    'backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,'
    'baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,'
    'banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,'
    'potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,'
    'oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,'
    'toothbrush'
)
COCO_CLASSES = tuple(_COCO_NAMES.split(','))
# Steps of three primes modulo 200 keep neighbouring classes apart and every colour bright.
COCO_PALETTE = [(55 + i * 67 % 200, 55 + i * 113 % 200, 55 + i * 29 % 200) for i in range(80)]


def match_classes(
    classes: Sequence[str], categories: Sequence[CategoryRecord], ann_file: str
) -> list[Id]:
    """Find the category id of each class, in the order of the classes.

    A label is then an index in `metainfo.classes`. MMDetection returns the ids in the order of the
    file, which swaps names where the two orders differ.

    Raises:
        ValueError: a class is not among the categories, or two categories have its name.

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
        hints = list_items((suggest_name(name, list(ids)) for name in missing), 10)
        raise ValueError(
            f'{ann_file}: of the {len(classes)} classes in metainfo.classes, {len(missing)} are '
            f'not in the file: {hints}. Its categories are {list_items(ids, 100)}. Set '
            'metainfo=dict(classes=(...)) of every dataset in the config to these names (the '
            "default is the 80 COCO classes), and the head's num_classes to their number"
        )
    repeated = {name: ids[name] for name in classes if len(ids[name]) > 1}
    if repeated:
        raise ValueError(
            f'{ann_file}: expected one category per class, got several ids for {repeated}; rename '
            'or merge these categories in the file'
        )
    return [ids[name][0] for name in classes]


def suggest_name(name: str, known: Sequence[str]) -> str:
    """Return a class name, and the nearest of the known ones."""
    near = nearest(str(name), known, count=1, cutoff=0.6)
    return f'{name!r} (did you mean {near[0]!r}?)' if near else repr(name)


def read_categories(
    ann_file: str,
    data_root: str | None = '',
    backend_args: dict[str, Any] | None = None,
    test_mode: bool = False,
) -> tuple[str, tuple[str, ...]]:
    """Read an annotation file before its `CocoDataset` does, which then need not read it again.

    Args:
        ann_file: as in the config of a `CocoDataset`, like the other arguments.
        data_root: folder of `ann_file` unless that is absolute.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
        test_mode: whether annotations and categories may be absent.

    Returns:
        The path of the file, and the names of its categories in the order of their ids.
    """
    if data_root and ann_file and not is_abs(ann_file):
        ann_file = join_path(data_root, ann_file)
    records = read_coco(ann_file, backend_args, need_annotations=not test_mode, keep=True)
    categories = sorted(records.categories, key=lambda category: _id_order(category.id))
    return ann_file, tuple(category.name for category in categories)


def _id_order(id_: Id) -> tuple[int, float, str]:
    """Sort key of category ids: numbers, also those written as text, before other text."""
    if isinstance(id_, str) and id_.isascii() and id_.isdecimal() and len(id_) < 20:
        id_ = int(id_)
    return (0, id_, '') if isinstance(id_, int | float) else (1, 0, str(id_))
