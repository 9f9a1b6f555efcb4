"""COCO JSON files: of COCO itself, of Roboflow and of other tools."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from export_records import Box, Export, Image, find_split, list_files, show_progress
from image_finder import ImageFinder, find_images
from shapes_to_boxes import polygon_box

from ghmdet.config.cli import LazyModule
from ghmdet.messages import list_items

classes = LazyModule('ghmdet.coco.classes')
faults = LazyModule('ghmdet.coco.faults')
reader = LazyModule('ghmdet.coco.reader')
records = LazyModule('ghmdet.coco.records')
NAME = 'COCO JSON'
_SECTIONS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_BLOCK = 2**18


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    files = list_coco_files(source)
    names = list_items((file.name for file in files), 3)
    return f'{names} with the lists images, annotations, categories' if files else ''


def read(source: Path, images: Path | None) -> Export:
    """Read COCO files; a name or folder such as train2017 or valid says the split of one.

    Raises:
        ValueError: there is no COCO file, it is no JSON, or a category is broken.
        FileNotFoundError: there is no image.
    """
    export, base = Export(NAME), source if source.is_dir() else source.parent
    files = list_coco_files(source) or ([source] if source.is_file() else [])
    if not files:
        raise ValueError(f'{source}: no .json file with the lists images, annotations, categories')
    finder = find_images(source, images)
    roots: dict[str, str] = {}
    for file in files:
        print(f'reads {file}')
        roots |= _read_file(
            export, file, find_split(file.relative_to(base).with_suffix('')), finder
        )
    used = {box.name for image in export.images for box in image.boxes}
    for name in [name for name in roots if name not in used]:
        print(f'left out of the classes: {roots[name]}')
    names = dict.fromkeys(name for name in export.classes if name in used or name not in roots)
    export.classes = list(names)
    return export


def list_coco_files(source: Path) -> list[Path]:
    """List the COCO files of a source; of COCO's own only the instances."""
    found = [file for file in list_files(source, '.json') if _is_coco(file)]
    instances = [file for file in found if file.name.startswith('instances')]
    return instances or found


def _is_coco(file: Path) -> bool:
    """Whether the begin and the end of a file have two of its lists, without reading all of it."""
    with file.open('rb') as stream:
        text = stream.read(_BLOCK)
        stream.seek(max(_BLOCK, file.stat().st_size - _BLOCK))
        text += stream.read()
    return text.lstrip(b'\xef\xbb\xbf \r\n\t')[:1] == b'{' and len(set(_SECTIONS.findall(text))) > 1


def _read_file(export: Export, file: Path, split: str, finder: ImageFinder) -> dict[str, str]:
    """Add the images of a file; return its categories that are no classes."""
    data = reader.load_json(str(file))
    entries = data if isinstance(data, dict) else {}
    keys = ('images', 'annotations', 'categories')
    if 'images' not in entries or not all(isinstance(entries.get(k, []), list) for k in keys):
        records.convert_records(data, str(file))  # says what is missing
    entries = {key: entries.get(key, []) for key in keys}
    export.num_boxes += len(entries['annotations'])
    export.converted['polygons'] += _fill_in_boxes(entries['annotations'])
    broken = faults.Faults()
    faults.find_type_faults(broken, 'categories', entries['categories'])
    broken.raise_any(str(file))
    names = {category['id']: category['name'] for category in entries['categories']}
    if len(names) < len(entries['categories']):
        raise ValueError(f'{file}: several categories have the same id; correct the file')
    images = _keep_valid(export, file, 'images', entries['images'])
    ids = Counter(entry['id'] for entry in images)
    valid = _keep_valid(export, file, 'annotations', entries['annotations'])
    found = classes.find_classes(
        records.convert_records(entries | {'images': [], 'annotations': valid}, '')
    )
    export.classes += found.categories
    for note in found.notes:
        print(f'{file}: {note}')
    boxes: dict[Any, list[Box]] = {}
    for entry in valid:
        place = f'{file}: annotation id {entry.get("id")!r}'
        if entry['category_id'] not in names:
            problem = f'no category has its category_id {entry["category_id"]!r}'
            export.report(place, problem, 'boxes')
            continue
        x, y, w, h = entry['bbox']
        flags = bool(entry.get('ignore')), bool(entry.get('iscrowd'))
        box = Box(names[entry['category_id']], (x, y, x + w, y + h), *flags, place)
        boxes.setdefault(entry['image_id'], []).append(box)
    for entry in show_progress(images, file.name):
        if ids[entry['id']] > 1:
            problem = f'{ids[entry["id"]]} images have the id {entry["id"]!r}'
            export.report(f'{file}: {entry.get("file_name")}', problem, 'images')
        else:
            _add_image(export, file, split, finder, entry, boxes.pop(entry['id'], []))
    for id_, of_image in boxes.items():
        problem = f'{len(of_image)} annotations of image_id {id_!r}, which no usable image has'
        export.report(str(file), problem, 'boxes', len(of_image))
    return found.roots


def _keep_valid(export: Export, file: Path, section: str, entries: list[Any]) -> list[dict]:
    """Return the entries of a list that are not broken, and report the others."""
    broken = faults.Faults(limit=len(entries) * 9)
    faults.find_type_faults(broken, section, entries)
    lost = 'images' if section == 'images' else 'boxes'
    for (_, _), texts in broken.places.items():
        export.report(str(file), '; '.join(broken.texts[number] for number, _ in texts), lost)
    indices = broken.indices.get(section, set())
    return [entry for index, entry in enumerate(entries) if index not in indices]


def _add_image(
    export: Export, file: Path, split: str, finder: ImageFinder, entry: dict, boxes: list[Box]
) -> None:
    name = entry.get('file_name') or ''
    fit = finder.find_all(name, beside=file.parent)
    if len(fit) > 1:  # train/1.jpg and val/1.jpg
        fit = [path for path in fit if split and _find_split(path, finder) == split] or fit
    if len(fit) != 1:
        problem = finder.explain(name) if name else 'has no file_name'
        export.report(f'{file}: image id {entry["id"]!r} {name}', problem, 'images')
        export.lost['boxes'] += len(boxes)
        return
    size = entry.get('width'), entry.get('height')
    known = all(isinstance(side, int | float) and side > 0 for side in size)
    export.images.append(Image(fit[0], size if known else None, boxes, split))


def _find_split(path: Path, finder: ImageFinder) -> str:
    below = [path.relative_to(f) for f in finder.folders if path.is_relative_to(f)]
    return find_split(below[0].parent) if below else ''


def _fill_in_boxes(annotations: list[Any]) -> int:
    """Give annotations that have polygons and no `bbox` the box of these; return how many."""
    count = 0
    for entry in annotations:
        polygons = entry.get('segmentation') if isinstance(entry, dict) else None
        if polygons and isinstance(polygons, list) and not entry.get('bbox'):
            try:
                flat = [float(value) for polygon in polygons for value in polygon]
                x1, y1, x2, y2 = polygon_box(list(zip(flat[::2], flat[1::2], strict=True)))
            except (TypeError, ValueError):
                continue
            entry['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            count += 1
    return count
