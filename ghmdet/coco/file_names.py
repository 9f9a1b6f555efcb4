"""Keeps the file names of an annotation file inside the image folder."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterable
from pathlib import PurePath


def find_outside_names(names: Iterable[str], folder: str) -> list[str]:
    """Return the names that lead out of a folder: absolute paths, and `..` past its top.

    An absolute path below the folder is inside. Links are followed where there is a `..`, since
    `link/..` is not where it looks; a link in the folder may point anywhere, it is the owner's.

    Args:
        names: file names of images.
        folder: where they are to be, '' for the working directory.

    Example:
        >>> find_outside_names(['a.jpg', 'b/../c.jpg', '../d.jpg', '/etc/passwd'], 'images')
        ['../d.jpg', '/etc/passwd']
    """
    # Most need no second look.
    suspects = [name for name in names if '..' in name or osp.isabs(name)]
    return [name for name in suspects if not _is_inside(name, folder)]


def _is_inside(name: str, folder: str) -> bool:
    path = osp.join(folder, name)
    if '..' not in PurePath(name).parts and _is_below(osp.abspath(path), osp.abspath(folder)):
        return True
    return _is_below(osp.realpath(osp.dirname(path)), osp.realpath(folder))


def _is_below(path: str, folder: str) -> bool:
    return PurePath(path).is_relative_to(folder)
