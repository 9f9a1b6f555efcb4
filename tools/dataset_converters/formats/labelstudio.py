"""Label Studio: its JSON and JSON-MIN exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from export_records import Box, Export, Image, load_all, read_name, show_progress
from image_finder import ImageFinder, find_images, image_folder, read_size
from shapes_to_boxes import Corners, ellipse_box, polygon_box, rotated_box

from ghmdet.messages import list_items, shorten

NAME = 'Label Studio'
_PREFIX = re.compile(r'^[0-9a-f]{8}-')
_OWN_KEYS = ('annotations', 'completions')  # the latter before version 1.0
_SKIPPED = {'brushlabels': 'brush masks', 'keypointlabels': 'points', 'vectorlabels': 'lines'}


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    names = [file.name for file, _ in _load_tasks(source)]
    return f'{list_items(names, 3)}: tasks of Label Studio' if names else ''


def read(source: Path, images: Path | None) -> Export:
    """Read tasks. Of several annotations of a task the newest counts; predictions do not.

    A task without an annotation is left out: nobody said that its image has no object.

    Raises:
        ValueError: there is no file with tasks.
    """
    export, finder = Export(NAME, relative=True), find_images(source, images)
    files = _load_tasks(source, export)
    if not files:
        raise ValueError(f'{source}: no .json file with tasks of Label Studio')
    counts = {'predictions': 0, 'older': 0, 'cancelled': 0, 'open': 0}
    for file, tasks in files:
        for index, task in enumerate(show_progress(_drop_older(tasks, counts), file.name)):
            place = f'{file}: task {task.get("id", index) if isinstance(task, dict) else index}'
            if isinstance(task, dict):
                regions = _choose_regions(task, counts)
                if regions is not None:
                    _read_task(export, place, task, regions, finder)
            else:
                export.report(place, f'expected a task, got {shorten(task)}', 'images')
    for key, text in (
        ('older', 'annotations are left out: another of the same task is newer'),
        ('cancelled', 'annotations were cancelled in Label Studio, and are left out'),
        ('predictions', 'predictions are not read'),
        ('open', 'tasks have no annotation, and their images are left out'),
    ):
        if counts[key]:
            print(f'{counts[key]} {text}')
    return export


def _load_tasks(source: Path, export: Export | None = None) -> list[tuple[Path, list]]:
    loaded = load_all(source, export)
    tasks = ((file, [data] if isinstance(data, dict) else data) for file, data in loaded)
    return [(file, data) for file, data in tasks if isinstance(data, list) and _has_tasks(data)]


def _drop_older(tasks: list, counts: dict[str, int]) -> list:
    """Keep the newest of the JSON-MIN rows of a task: there is one for each annotation."""
    kept: dict[Any, Any] = {}
    for number, task in enumerate(tasks):
        is_row = isinstance(task, dict) and 'data' not in task and 'id' in task
        key = repr(task['id']) if is_row else number
        if key in kept:
            counts['older'] += 1
        kept[key] = max(kept.get(key, task), task, key=_get_date) if is_row else task
    return list(kept.values())


def _get_date(entry: dict) -> str:
    return str(entry.get('updated_at') or entry.get('created_at') or '')


def _has_tasks(data: list) -> bool:
    """Whether any of the first tasks is one: JSON-MIN has no region in a task without labels."""
    tasks = [task for task in data[:50] if isinstance(task, dict)]
    full = [task for task in tasks if 'data' in task and set(_OWN_KEYS) & set(task)]
    return bool(full) or any(list(_find_regions(task)) for task in tasks if 'data' not in task)


def _find_regions(task: dict) -> Iterator[dict]:
    """Yield the regions of a JSON-MIN task, whichever key its labels have."""
    for value in task.values():
        for region in value if isinstance(value, list) else ():
            if isinstance(region, dict) and 'original_width' in region:
                yield region


def _choose_regions(task: dict, counts: dict[str, int]) -> list[tuple[dict, dict]] | None:
    """Return the regions of a task, the entry and its values; None without an annotation."""
    if 'data' not in task:
        return [(region, region) for region in _find_regions(task)]
    found: list = next((task[key] for key in _OWN_KEYS if isinstance(task.get(key), list)), [])
    found = [annotation for annotation in found if isinstance(annotation, dict)]
    kept = [annotation for annotation in found if not annotation.get('was_cancelled')]
    counts['cancelled'] += len(found) - len(kept)
    counts['older'] += max(0, len(kept) - 1)
    counts['predictions'] += len(task.get('predictions') or ())
    if not kept:
        counts['open'] += 1
        return None
    newest = max(kept, key=_get_date)
    joined: dict[Any, tuple[dict, dict]] = {}
    for number, entry in enumerate(newest.get('result') or ()):
        value = entry.get('value') if isinstance(entry, dict) else None
        if isinstance(value, dict):
            # A region and its labels may be two entries of one id.
            key = repr(entry.get('id', number))
            before = joined.get(key, ({}, {}))
            joined[key] = before[0] | entry, before[1] | value
    return [(entry, value) for entry, value in joined.values() if _is_region(value)]


def _is_region(value: dict) -> bool:
    """Whether it is a part of the image, not a choice or a text."""
    # Those of videos have only labels.
    return bool({'x', 'points', 'rle', 'vertices'} & set(value)) or bool(_list_labels(value))


def _list_labels(value: dict) -> list[tuple[str, Any]]:
    return [(key, each) for key, each in value.items() if key.endswith('labels') and each]


def _read_task(
    export: Export, place: str, task: dict, regions: list[tuple[dict, dict]], finder: ImageFinder
) -> None:
    export.num_boxes += len(regions)
    names = _image_names(task)
    path = next(filter(None, map(finder.find, names)), None)
    if path is None:
        problem = f'image {names[0]}: {finder.explain(names[-1])}' if names else 'names no image'
        export.report(place, problem, 'images')
        export.lost['boxes'] += len(regions)
        return
    image = Image(path)
    for number, (entry, value) in enumerate(regions):
        inner = f'{place} ({path.name}): region {entry.get("id", number)}'
        labels = _list_labels(value)
        kind = labels[0][0] if labels else ''
        if kind == 'labels' and set(value) <= {'x', 'y', 'width', 'labels'}:
            kind = 'keypointlabels'  # with its label in an entry of its own
        if 'rle' in value or 'imageDataURL' in value or kind in _SKIPPED:
            export.skipped[_SKIPPED.get(kind, 'brush masks')] += 1
            continue
        try:
            if not labels:
                raise ValueError('has no label')
            name = labels[0][1]
            name = read_name(name[0] if isinstance(name, list) else name)
            if len(labels[0][1]) > 1 and isinstance(labels[0][1], list):
                export.report(inner, f'has several labels, {name} is used: {labels[0][1]}')
            size = entry.get('original_width'), entry.get('original_height')
            size_wh = size if all(isinstance(s, int) and s > 0 for s in size) else read_size(path)
            image.size_wh = size_wh
            corners, made_of = _find_box(value, *size_wh)
        except KeyError as error:
            export.report(inner, f'is no box, lacks {error}: {shorten(value)}', 'boxes')
            continue
        except (TypeError, ValueError) as error:
            export.report(inner, f'{error}: {shorten(value)}', 'boxes')
            continue
        export.converted.update([made_of] if made_of else [])
        image.boxes.append(Box(name, corners, place=inner))
    export.images.append(image)


def _find_box(value: dict, width: float, height: float) -> tuple[Corners, str]:
    """Return the corners in pixels, and of which shape they were made, '' if of none."""
    across, down = width / 100, height / 100
    if 'points' in value:
        points = [(float(x) * across, float(y) * down) for x, y in value['points']]
        if len(points) < 2:
            raise ValueError(f'has {len(points)} points')
        return polygon_box(points), 'polygons'
    x, y, turn = float(value['x']) * across, float(value['y']) * down, value.get('rotation') or 0
    if 'radiusX' in value:
        rx, ry = float(value['radiusX']) * across, float(value['radiusY']) * down
        return ellipse_box(x, y, rx, ry, float(turn)), 'ellipses'
    w, h = float(value['width']) * across, float(value['height']) * down
    if turn:
        return rotated_box(x, y, w, h, float(turn), about='corner'), 'rotated boxes'
    return (x, y, x + w, y + h), ''


def _is_image(text: str) -> bool:
    """Whether it ends as an image does, before or after the parameters of a URL."""
    return text.partition('?')[0].lower().endswith(image_folder.SUFFIXES) or (
        text.lower().endswith(image_folder.SUFFIXES)
    )


def _image_names(task: dict) -> list[str]:
    """List what the image of a task may be called, the likeliest first."""
    data = task.get('data', task)
    values = data.items() if isinstance(data, dict) else ()
    texts = [(key, value) for key, value in values if isinstance(value, str) and value]
    texts.sort(key=lambda item: (not _is_image(item[1]), item[0] not in ('image', 'img', 'ocr')))
    names = [text for _, text in texts[:1]] + [str(task.get('file_upload') or '')]
    found: list[str] = []
    for name in filter(None, names):
        parts = urlsplit(name)
        local = parse_qs(parts.query).get('d', [''])[0]  # /data/local-files/?d=a/b.jpg
        path = local or unquote(parts.path) or name
        folder, slash, base = path.rpartition('/')
        # Uploads get a prefix, which other exports than this one leave out.
        found += [name, path, f'{folder}{slash}{_PREFIX.sub("", base)}']
    return list(dict.fromkeys(found))
