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


def find_image_folder(folder: str, ann_file: str, fix_names: bool) -> str:
    """Return the folder of the images; with `fix_names` it may have nearly this name.

    Raises:
        FileNotFoundError: there is none.
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
        f'data_prefix.img of the dataset that reads {ann_file}'
    )


def fix_names(images: Sequence[ImageRecord], folder: str, ann_file: str) -> None:
    """Change the names of missing files to those under which they exist, and log how many."""
    names = find_real_names([str(image.file_name) for image in images], folder)
    for image in images:
        image.file_name = names.get(str(image.file_name), image.file_name)
    if names:
        listed = list_items((f'{real!r} for {name!r}' for name, real in names.items()), 2)
        print_log(
            f'{ann_file}: fix_names=True: {len(names)} image files have nearly the name that is in '
            f'the file, and are used: {listed}',
            logger='current',
        )


def find_real_names(names: Iterable[str], folder: str) -> dict[str, str]:
    """Map the names of missing files to those under which they exist, see `find_look_alike`.

    Left out is a file with nearly the names of two, and one whose own name is among `names`.

    Args:
        names: file names below the folder.
        folder: the folder, '' for the working directory.
    """
    known = dict.fromkeys(names)
    paths = {name: osp.join(folder, name) for name in known}
    near = {name: find_look_alike(path) for name, path in paths.items() if not osp.lexists(path)}
    found = {name: osp.relpath(path, folder or '.') for name, path in near.items() if path}
    counts = Counter(found.values())
    return {name: real for name, real in found.items() if counts[real] == 1 and real not in known}


def check_not_elsewhere(images: Sequence[ImageRecord], folder: str, ann_file: str) -> None:
    """Raise a ValueError for the names of `find_elsewhere_names`."""
    if names := find_elsewhere_names([str(image.file_name) for image in images], folder):
        raise ValueError(
            f'{ann_file}: {len(names)} file names are URLs or paths of Windows, not of files below '
            f'the image folder {folder!r}: {_list_names(names, images)}. Copy the images into this '
            'folder, and write their paths relative to it into the file'
        )


def check_not_outside(images: Sequence[ImageRecord], folder: str, ann_file: str) -> None:
    """Raise a ValueError for the names of `find_outside_names`."""
    if names := find_outside_names([str(image.file_name) for image in images], folder):
        raise ValueError(
            f'{ann_file}: {len(names)} file names lead out of the image folder '
            f'{osp.abspath(folder)!r}: {_list_names(names, images)}. Correct data_root and '
            'data_prefix.img or the file; if it is trusted, set allow_outside=True of the dataset'
        )


def _list_names(names: Sequence[str], images: Sequence[ImageRecord]) -> str:
    ids = {image.file_name: image.id for image in images}
    return list_items(f'{name!r} (image id {ids[name]!r})' for name in names)


def find_elsewhere_names(names: Iterable[str], folder: str) -> list[str]:
    r"""Return the names that are URLs or absolute paths of another system.

    Without a folder, URLs are what mmengine reads.

    Example:
        >>> find_elsewhere_names(['a.jpg', 'https://host/b.jpg', r'D:\c.jpg', 's3://d/e.jpg'], 'f')
        ['https://host/b.jpg', 'D:\\c.jpg', 's3://d/e.jpg']
    """
    return [
        name
        for name in filter(_ELSEWHERE.match, names)
        if ('://' in name or not osp.lexists(osp.join(folder, name)))
        and (folder or name.partition('://')[0].rpartition(':')[2] not in prefix_to_backends)
    ]
