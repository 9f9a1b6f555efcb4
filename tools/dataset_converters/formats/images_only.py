"""A folder of images without boxes, of which all become images of the COCO file."""

from __future__ import annotations

import os
from pathlib import Path

from formats.export import Export, Image, find_split
from formats.images import list_images

NAME = 'images'
_LABELS = ('.xml', '.json', '.csv', '.txt', '.yaml', '.yml')


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    images = list_images(source)
    others = [path for path in source.rglob('*') if path.suffix.lower() in _LABELS]
    others = [path for path in others if not path.name.lower().startswith('readme')]
    return f'{len(images)} images and no labels' if images and not others else ''


def read(source: Path, images: Path | None) -> Export:
    """Read a folder of images; folders named train, val and test in it are splits."""
    if not source.is_dir():
        raise NotADirectoryError(f'--from images needs a folder of images, got {source}')
    folder = Path(os.path.abspath(images or source))
    paths = list_images(folder)
    return Export(NAME, [Image(p, split=find_split(p.relative_to(folder))) for p in paths])
