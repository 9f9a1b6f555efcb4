"""ImageFolder: the images of a folder, without annotations."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ghmdet.datasets.coco import CocoDataset
from ghmdet.datasets.image_file import applies_exif, read_image_sizes
from ghmdet.registry import DATASETS

SUFFIXES = (
    *('.apng', '.avif', '.bmp', '.dib', '.gif', '.j2c', '.j2k', '.jfi', '.jfif', '.jif', '.jp2'),
    *('.jpc', '.jpe', '.jpeg', '.jpf', '.jpg', '.jpx', '.mpo', '.pam', '.pbm', '.pgm', '.pjp'),
    *('.pjpeg', '.png', '.pnm', '.ppm', '.ras', '.sr', '.tif', '.tiff', '.webp'),
)
"""Of the formats that `read_image` decodes, in lower case."""


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """List the images in a folder and below by their path relative to it, sorted.

    Links to folders are followed, each folder once. Names that begin with a dot are left out, such
    as the files that macOS adds. No image is a ValueError, no folder a NotADirectoryError.
    """
    if not os.path.isdir(root):
        raise NotADirectoryError(f'expected a folder of images, but {str(root)!r} is none')
    names, seen = [], set()
    folders, links = [Path(root)], list[Path]()
    while folders or links:  # links last: a file that is below the folder too has its name there
        folder = folders.pop() if folders else links.pop(0)
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        for path in sorted(folder.iterdir()):
            if path.name.startswith('.'):
                continue
            if path.is_dir():
                (links if path.is_symlink() else folders).append(path)
            elif path.suffix.lower() in SUFFIXES:
                names.append(path.relative_to(root).as_posix())
    if not names:
        raise ValueError(
            f'{root}: no image in this folder; looked for {", ".join(SUFFIXES)} there and in its '
            'subfolders'
        )
    return sorted(names)


@DATASETS.register_module()
class ImageFolder(CocoDataset):
    """All images in a folder and its subfolders, sorted by name; for `tools/test.py --images`.

    The path of an image relative to the folder `data_prefix.img` is its `img_id`. There is no
    annotation file, so this is for tests that only write detections.

    Args:
        left_out: images not to use, by their `img_id`.
        *args: of `CocoDataset`.
        **kwargs: of `CocoDataset`; `test_mode` must be True.

    Raises:
        NotADirectoryError, ValueError: see `list_images`.
        ImageError: a file is no image.
    """

    def __init__(self, *args: Any, left_out: Collection[str] = (), **kwargs: Any) -> None:
        self.left_out = frozenset(left_out)
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the images with their sizes, which are read from their headers."""
        root, loader, infos = Path(self.data_prefix['img']), self.image_loader, []
        for name in [name for name in list_images(root) if name not in self.left_out]:
            sizes_wh = read_image_sizes(root / name, loader.max_pixels)
            w, h = sizes_wh[applies_exif(loader.color_type)]
            info = dict(img_id=name, img_path=f'{root}/{name}', width=w, height=h, instances=[])
            infos.append(info)
        return infos
