"""CreateML: a JSON list of images with boxes around centres."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export_records import Box, Export, Image, find_split, load_all, read_name, show_progress
from image_finder import ImageFinder, find_images

from ghmdet.messages import list_items, shorten

NAME = 'CreateML'


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    names = [file.name for file, data in load_all(source) if _is_createml(data)]
    return f'{list_items(names, 3)}: a list of `image` and `annotations`' if names else ''


def read(source: Path, images: Path | None) -> Export:
    """Read CreateML files; a folder such as valid says the split of one.

    Raises:
        ValueError: there is none.
    """
    export, finder = Export(NAME), find_images(source, images)
    files = [pair for pair in load_all(source, export) if _is_createml(pair[1])]
    if not files:
        raise ValueError(f'{source}: no .json file with a list of `image` and `annotations`')
    base = source if source.is_dir() else source.parent
    for file, entries in files:
        split = find_split(file.relative_to(base).with_suffix(''))
        for index, entry in enumerate(show_progress(entries, file.name)):
            _read_image(export, file, index, entry, finder, split)
    return export


def _is_createml(data: Any) -> bool:
    first = data[0] if isinstance(data, list) and data else None
    return isinstance(first, dict) and bool(_image_name(first)) and _annotations(first) is not None


def _image_name(entry: dict) -> Any:
    return entry.get('image') or entry.get('imagefilename')


def _annotations(entry: dict) -> list | None:
    found = entry.get('annotations', entry.get('annotation'))
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list):
        return None
    return found if all(isinstance(a, dict) and 'coordinates' in a for a in found[:1]) else None


def _read_image(
    export: Export, file: Path, index: int, entry: Any, finder: ImageFinder, split: str
) -> None:
    place, boxes = f'{file}: entry {index}', []
    found = _annotations(entry) if isinstance(entry, dict) else None
    name = _image_name(entry) if isinstance(entry, dict) else None
    if found is None or not isinstance(name, str):
        export.report(place, f'expected image and annotations, got {shorten(entry)}', 'images')
        return
    export.num_boxes += len(found)
    for number, annotation in enumerate(found):
        inner = f'{place} ({name}): annotation {number}'
        try:
            label = read_name(annotation['label'])
            where = annotation['coordinates']
            x, y, w, h = (float(where[key]) for key in ('x', 'y', 'width', 'height'))
        except (KeyError, TypeError, ValueError) as error:
            problem = f'expected label and coordinates x, y, width, height ({error!r}), got '
            export.report(inner, problem + shorten(annotation), 'boxes')
            continue
        boxes.append(Box(label, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), place=inner))
    path = finder.find(name, beside=file.parent)
    if path is None:
        export.report(place, f'image {name}: {finder.explain(name)}', 'images')
        export.lost['boxes'] += len(boxes)
        return
    export.images.append(Image(path, boxes=boxes, split=split))
