"""The folder of the images and their file names: checked, and found under nearly these names."""

from __future__ import annotations

import os.path as osp
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mmengine.fileio.backends import prefix_to_backends
from mmengine.logging import print_log

from ghmdet.coco.faults import find_outside_names
from ghmdet.coco.records import ImageRecord
from ghmdet.files import explain_look_alike, find_look_alike
from ghmdet.messages import list_items

# A URL, a drive or a host of Windows, an image as text.
_ELSEWHERE = re.compile(r'.*://|[a-z][\w+.-]*:/|[a-z]:\\|\\\\|data:', re.IGNORECASE)


def find_image_folder(
    folder: str, ann_file: str, fix_names: bool, keys: str = 'data_prefix.img'
) -> str:
    """Return the folder of the images, if it exists; with `fix_names` under nearly this name.

    `keys` are those of the dataset that name it, for the message.
    """
    if not folder or osp.isdir(folder):
        return folder
    near = find_look_alike(folder) or ''
    if fix_names and osp.isdir(near):
        print_log(f'{ann_file}: fix_names=True: the image folder is {near!r}', logger='current')
        return near
    hint = ' (fix_names=True of the dataset uses it)' if osp.isdir(near) else ''
    raise FileNotFoundError(
        f'no image folder at {folder!r}{explain_look_alike(folder)}{hint}: check data_root and '
        f'{keys} of the dataset that reads {ann_file}'
    )


def fix_names(images: Sequence[ImageRecord], folder: str, ann_file: str) -> None:
    """Change the names of missing files to those under which they exist, and log how many.

    A name is kept if it is nearly that of several files, or if the file it is nearly that of is
    another image's, or nearly another image's.
    """
    known = dict.fromkeys(str(image.file_name) for image in images)
    paths = {name: osp.join(folder, name) for name in known}
    near = {name: find_look_alike(path) for name, path in paths.items() if not osp.lexists(path)}
    found = {name: osp.relpath(path, folder or '.') for name, path in near.items() if path}
    counts = Counter(found.values())
    fixed = {name: real for name, real in found.items() if counts[real] == 1 and real not in known}
    for image in images:
        image.file_name = fixed.get(str(image.file_name), image.file_name)
    if fixed:
        listed = list_items((f'{real!r} for {name!r}' for name, real in fixed.items()), 2)
        print_log(
            f'{ann_file}: fix_names=True: {len(fixed)} image files have nearly the name that is in '
            f'the file, and are used: {listed}',
            logger='current',
        )


def check_file_names(
    images: Sequence[ImageRecord], folder: str, ann_file: str, *, elsewhere: bool, outside: bool
) -> None:
    """Raise a ValueError for names that `find_elsewhere_names` or `find_outside_names` returns."""
    ids = {str(image.file_name): image.id for image in images}
    names = find_elsewhere_names(ids, folder) if elsewhere else []
    fault = 'are URLs or paths of Windows, not of files below the image folder'
    advice = 'Copy the images into this folder, and write their paths relative to it into the file'
    if not names and outside:
        names = find_outside_names(ids, folder)
        fault = 'lead out of the image folder'
        advice = (
            'Correct data_root and data_prefix.img or the file; if it is trusted, set '
            'allow_outside=True of the dataset'
        )
    if names:
        listed = list_items(f'{name!r} (image id {ids[name]!r})' for name in names)
        where = folder if '://' in folder else osp.abspath(folder)
        raise ValueError(
            f'{ann_file}: {len(names)} file names {fault} {where!r}: {listed}. {advice}'
        )


def find_elsewhere_names(names: Iterable[str], folder: str) -> list[str]:
    """Return the names that are URLs or absolute paths of Windows.

    Without a folder, mmengine reads the URLs that it knows.
    """
    return [
        name
        for name in filter(_ELSEWHERE.match, names)
        if ('://' in name or not osp.lexists(osp.join(folder, name)))
        and (folder or name.partition('://')[0].rpartition(':')[2] not in prefix_to_backends)
    ]
