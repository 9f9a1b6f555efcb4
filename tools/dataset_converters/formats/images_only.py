"""A folder of images without boxes, of which all become images of the COCO file."""

from __future__ import annotations

import os
from pathlib import Path

from export_records import Export, Image, find_split, list_files
from image_finder import list_images

NAME = 'images'
_LABELS = ('.xml', '.json', '.csv', '.txt', '.yaml', '.yml')


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    images = list_images(source)
    files = list_files(source, *_LABELS)
    others = [file for file in files if not file.name.lower().startswith('readme')]
    return f'{len(images)} images and no labels' if images and not others else ''


def read(source: Path, images: Path | None) -> Export:
    """Read a folder of images; folders named train, val and test in it are splits."""
    if not source.is_dir():
        raise NotADirectoryError(f'--from images needs a folder of images, got {source}')
    folder = Path(os.path.abspath(images or source))
    paths = list_images(folder)
    return Export(NAME, [Image(p, split=find_split(p.relative_to(folder).parent)) for p in paths])
