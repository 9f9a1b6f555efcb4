"""Reads COCO files with all their fields, joins them, takes parts of them, and writes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coco_output import Account, make_table, write_json
from export_records import Box, Image

from ghmdet.coco.classes import find_classes, suggest_name
from ghmdet.coco.reader import read_coco, read_coco_json
from ghmdet.coco.records import CocoRecords, convert_records
from ghmdet.files import explain_look_alike, read_lines
from ghmdet.messages import list_items

_MARK = 'coco.py '
_LISTS = ('images', 'annotations', 'categories')


@dataclass
class CocoFile:
    """A file that was read and checked."""

    path: Path
    records: CocoRecords
    data: dict[str, Any]
    """All of its content; `annotations` and `categories` may be absent in the file."""


def read(path: Path, need_data: bool) -> CocoFile:
    """Read a COCO file, test images without annotations too; errors as of `read_coco`.

    Without `need_data`, its `data` is empty, which takes much less time and memory.
    """
    if not path.is_file():
        raise FileNotFoundError(f'no file {path}{explain_look_alike(path)}')
    if not need_data:
        return CocoFile(path, read_coco(str(path), need_annotations=False), {})
    records, data = read_coco_json(str(path), need_annotations=False)
    return CocoFile(path, records, data)


def list_images(records: CocoRecords) -> list[Image]:
    """Return the images with their boxes; paths are the file names, `place` names the box."""
    columns, names = records.annotations, {c.id: c.name for c in records.categories}
    index_of = {image.id: index for index, image in enumerate(records.images)}
    images = [
        Image(Path(str(image.file_name)), (image.width, image.height)) for image in records.images
    ]
    rows = zip(
        *(columns.find_images(index_of).tolist(), columns.category.tolist()),
        *(columns.bbox.tolist(), columns.is_ignored.tolist(), columns.is_crowd.tolist()),
        strict=True,
    )
    for number, (image, category, (x, y, w, h), is_ignored, is_crowd) in enumerate(rows):
        name = names[columns.category_ids[category]]
        box = Box(name, (x, y, x + w, y + h), is_ignored, is_crowd, columns.name(number))
        images[image].boxes.append(box)
    return images


def merge(
    files: Sequence[CocoFile], prefixes: Sequence[str], join: bool
) -> tuple[dict[str, Any], int]:
    """Join files: categories by name, all ids anew from 1; the first file's fields count.

    Args:
        files: at least one.
        prefixes: folder put before the file names, of each file; '' for none.
        join: make one image of those that have the same file name and size.

    Returns:
        Content of the file, and how many boxes were left out since an earlier file has an equal one
        in the same image.

    Raises:
        ValueError: several images have a file name, and not `join`, or their sizes differ.
    """
    merged: dict[str, Any] = {name: [] for name in _LISTS}
    images: dict[str, tuple[dict, Path]] = {}
    repeated, num_equal, seen = list[str](), 0, set[tuple]()
    category_ids = _merge_categories(files, merged['categories'])
    for file, prefix in zip(files, prefixes, strict=True):
        license_ids = _merge_licenses(file, merged)
        image_of = {}
        for entry in file.data['images']:
            name = f'{prefix.rstrip("/")}/{entry["file_name"]}' if prefix else entry['file_name']
            new = entry | {'id': len(images) + 1, 'file_name': name}
            if license_ids and 'license' in new:
                new['license'] = license_ids.get(repr(new['license']))
            first, path = images.setdefault(name, (new, file.path))
            if first is not new:
                sizes = [f'{image["width"]}x{image["height"]}' for image in (first, entry)]
                differ = f', {sizes[0]} and {sizes[1]} pixels' if sizes[0] != sizes[1] else ''
                if differ or not join:
                    repeated.append(f'{name} ({path} and {file.path}{differ})')
                first |= new | first
            image_of[entry['id']] = first
        names = {category['id']: category['name'] for category in file.data['categories']}
        of_file = set()
        for entry in file.data['annotations']:
            image, name = image_of[entry['image_id']], names[entry['category_id']]
            flags = bool(entry.get('iscrowd')), bool(entry.get('ignore'))
            key = (image['id'], name, *entry['bbox'], *flags)
            of_file.add(key)
            if key in seen:
                num_equal += 1
                continue
            ids = {'id': len(merged['annotations']) + 1, 'image_id': image['id']}
            merged['annotations'].append(entry | ids | {'category_id': category_ids[name]})
        seen |= of_file
        _keep_other_fields(file, merged)
    if repeated:
        advice = 'correct the files' if join else 'make one image of each by --join'
        raise ValueError(
            f'{len(repeated)} images have the file name of another: {list_items(repeated, 3)}. If '
            f'they are the same image, {advice}; if not, put the images of each file into a folder '
            'of its own and name these folders by --prefix'
        )
    merged['images'] = [entry for entry, _ in images.values()]
    return merged, num_equal


def _merge_categories(files: Sequence[CocoFile], merged: list[dict]) -> dict[str, int]:
    """Add the categories in the order of their ids, each name once; return their new ids."""
    first: dict[str, tuple[dict, Path]] = {}
    for file in files:
        names = find_classes(file.records).categories
        for entry in sorted(file.data['categories'], key=lambda c: names.index(c['name'])):
            kept, path = first.setdefault(entry['name'], (entry, file.path))
            parents = [category.get('supercategory') for category in (kept, entry)]
            if parents[0] != parents[1]:
                print(
                    f'category {entry["name"]!r} has the supercategory {parents[0]!r} in {path}, '
                    f'which is kept, and {parents[1]!r} in {file.path}'
                )
    alike: dict[str, list[str]] = {}
    for name in first:
        alike.setdefault(' '.join(name.lower().split()), []).append(name)
    for names_alike in (names for names in alike.values() if len(names) > 1):
        print(f'categories that differ only in case or spaces stay apart: {names_alike}')
    merged += [kept | {'id': id_} for id_, (kept, _) in enumerate(first.values(), start=1)]
    return {category['name']: category['id'] for category in merged}


def _merge_licenses(file: CocoFile, merged: dict[str, Any]) -> dict[str, int]:
    """Add the licenses that are not there yet; return their new ids by the repr of the old ones."""
    given = file.data.get('licenses')
    ids = {}
    for entry in given if isinstance(given, list) else []:
        if isinstance(entry, dict) and 'id' in entry:
            known = merged.setdefault('licenses', [])
            equal = [one['id'] for one in known if entry | {'id': one['id']} == one]
            ids[repr(entry['id'])] = equal[0] if equal else len(known) + 1
            if not equal:
                known.append(entry | {'id': len(known) + 1})
    return ids


def _keep_other_fields(file: CocoFile, merged: dict[str, Any]) -> None:
    for key, value in file.data.items():
        if key not in (*_LISTS, 'licenses') and merged.setdefault(key, value) != value:
            print(f'{file.path}: {key!r} differs from that of an earlier file, which is kept')


def choose_images(file: CocoFile, list_file: Path) -> set[int]:
    """Return the indices of the images that a list names, one per line, by file name or id.

    Raises:
        ValueError: an entry is neither.
    """
    index_of = {str(image['id']): index for index, image in enumerate(file.data['images'])}
    names = [image['file_name'] for image in file.data['images']]
    by_name: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_name.setdefault(name.strip(), []).append(index)
    found, unknown = set[int](), list[str]()
    for line in read_lines(list_file):
        indices = by_name.get(line) or ([index_of[line]] if line in index_of else [])
        found.update(indices)
        unknown += [] if indices else [line]
    if unknown:
        hints = [suggest_name(name, names) for name in unknown[:3]]
        raise ValueError(
            f'{list_file}: {len(unknown)} lines are neither a file_name nor an id of an image in '
            f'{file.path}: {list_items(hints, 3, total=len(unknown))}. Its file names are such as '
            f'{list_items(map(repr, names), 3)}'
        )
    return found


def choose_categories(file: CocoFile, classes: Sequence[str]) -> list[dict]:
    """Return the categories of these names; a name that is not there is a ValueError."""
    known = find_classes(file.records).categories
    if unknown := [name for name in classes if name not in known]:
        hints = list_items(suggest_name(name, known) for name in unknown)
        raise ValueError(
            f'--classes: {file.path} has no category {hints}; there are {list_items(known, 100)}'
        )
    return [entry for entry in file.data['categories'] if entry['name'] in classes]


def take(data: dict[str, Any], indices: Collection[int]) -> dict[str, Any]:
    """Return the content with these images alone, in its order, and their annotations."""
    images = [data['images'][index] for index in sorted(indices)]
    ids = {image['id'] for image in images}
    annotations = [entry for entry in data['annotations'] if entry['image_id'] in ids]
    return data | {'images': images, 'annotations': annotations}


def check_target(path: Path, sources: Iterable[Path]) -> None:
    """Refuse to overwrite what was not written by `write`, or what is read.

    Raises:
        FileExistsError: there is another file, or a folder.
    """
    if any(path.resolve() == source.resolve() for source in sources):
        raise FileExistsError(f'--out {path} is the file that is read; give another')
    if path.exists() and (path.is_dir() or not is_written(path)):
        kind = 'a folder' if path.is_dir() else 'not a file that this tool wrote'
        raise FileExistsError(f'--out {path} exists and is {kind}; give another name')


def is_written(path: Path, command: str = '') -> bool:
    """Whether `write` wrote it, by this command."""
    with path.open('rb') as stream:
        return f'"written_by": "{_MARK}{command}'.encode() in stream.read(200)


def write(path: Path, data: dict[str, Any], command: str, sources: Sequence[Path]) -> None:
    """Write a file with `info.written_by`; NaN, which is no JSON, becomes null."""
    info = data.get('info') or {}
    info = info if isinstance(info, dict) else {'description': info}
    text = f'{_MARK}{command} from {list_items((source.name for source in sources), 3)}'
    content = {'info': {'written_by': text} | {k: info[k] for k in info if k != 'written_by'}}
    content |= {key: value for key, value in data.items() if key != 'info'}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_json(path, content)
    except ValueError:
        print(f'{path}: NaN and infinity, which are no JSON, are written as null')
        write_json(path, _replace_nan(content))
    print(f'written: {path}')


def _replace_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(
    num_read: Sequence[int], parts: dict[str, dict[str, Any]], images_out: str, boxes_out: dict
) -> None:
    """Print the table of the parts, and what became of the images and boxes that were read.

    Args:
        num_read: images and annotations in the files.
        parts: content of each file to write.
        images_out: why images are left out.
        boxes_out: how many boxes are left out, by reason.
    """
    records = {name: convert_records(data, name) for name, data in parts.items()}
    classes = find_classes(next(iter(records.values()))).categories
    images = {name: list_images(of_part) for name, of_part in records.items()}
    print(make_table(images, classes, len(parts) > 1))
    num_images = sum(map(len, images.values()))
    left_out = Counter({images_out: num_read[0] - num_images})
    print(Account(left_out).describe(num_read[0], num_images, 'images'))
    num_boxes = sum(len(image.boxes) for of_part in images.values() for image in of_part)
    print(Account(Counter(boxes_out)).describe(num_read[1], num_boxes))
