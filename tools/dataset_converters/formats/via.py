"""VGG Image Annotator (VIA): JSON of VIA 1, 2 and 3, and the CSV of VIA 1 and 2."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export_records import Box, Export, list_files, show_progress
from image_finder import find_images
from shapes_to_boxes import Corners, ellipse_box, polygon_box

from formats.tables import TableImages, list_tables, read_head, read_table
from ghmdet.config.cli import LazyModule
from ghmdet.messages import list_items, shorten

reader = LazyModule('ghmdet.coco.reader')
NAME = 'VIA'
_KEYS = re.compile(rb'"(file_attributes|region_attributes|_via_settings|anchor_id)"\s*:')
_COLUMNS = ('filename', 'region_shape_attributes', 'region_attributes')
_CLASS = (r'class|label|categor', r'name|type|object|species|kind')  # the first that fits counts
_SKIPPED = {'point': 'points', 'polyline': 'lines', 'line': 'lines'}
_VIA3_SHAPES = ('', 'point', 'rect', 'circle', 'ellipse', 'line', 'polyline', 'polygon', 'rect4')
_VIA3_KEYS = {
    'rect': ('x', 'y', 'width', 'height'),
    'circle': ('cx', 'cy', 'r'),
    'ellipse': ('cx', 'cy', 'rx', 'ry'),
}
_BLOCK = 2**18


@dataclass
class _Entry:
    """An image with its regions, as in VIA 2."""

    file: Path
    place: str
    name: str
    regions: list[Any]


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    names = list_items((file.name for file in _list_via(source)), 3)
    return f'{names} with regions of VIA' if names else ''


def read(source: Path, images: Path | None) -> Export:
    """Read the JSON files of VIA, or its CSV files if there are none.

    The class is the one attribute of the regions, or the one whose name says so.

    Raises:
        ValueError: there is no such file, it is broken, or several attributes may be the class.
        FileNotFoundError: there is no image.
    """
    export, files = Export(NAME), _list_via(source)
    if not files:
        raise ValueError(f'{source}: no .json or .csv file of VIA: export the annotations')
    entries: list[_Entry] = []
    options: dict[str, dict[str, str]] = {}
    for file in files:
        if file.suffix.lower() == '.json':
            data = reader.load_json(str(file))
            entries += _read_via3(file, data) if _is_via3(data) else _read_via2(file, data)
            options |= _read_options(data)
        else:
            entries += _read_csv(file)
    attribute = _choose_attribute(entries)
    table_images = TableImages(export, find_images(source, images), source)
    for entry in show_progress(entries, 'images'):
        num = len(entry.regions)
        export.num_boxes += num
        image = table_images.find_or_report(entry.name, entry.file, entry.place, num)
        if image is None:
            continue
        for number, region in enumerate(entry.regions):
            place = f'{entry.place}: region {number}'
            try:
                shape, corners = _read_shape(region)
                if not corners:
                    export.skipped[shape] += 1
                    continue
                name = _read_class(region, attribute, options)
            except ValueError as error:
                export.report(place, str(error), 'boxes')
            except (AttributeError, KeyError, TypeError):
                problem = f'expected a shape of VIA with its attributes, got {shorten(region)}'
                export.report(place, problem, 'boxes')
            else:
                export.converted.update([shape] if shape else [])
                image.boxes.append(Box(name, corners, place=place))
    table_images.print_unused()
    return export


def _list_via(source: Path) -> list[Path]:
    found = []
    for file in list_files(source, '.json'):
        with file.open('rb') as stream:
            found += [file] * bool(_KEYS.search(stream.read(_BLOCK)))
    if found or source.suffix.lower() == '.json':
        return found
    return [f for f in list_tables(source) if set(_COLUMNS) <= _columns(read_head(f).header)]


def _columns(header: Sequence[str]) -> set[str]:
    return {name.lstrip('# ') for name in header}  # VIA 1 begins with `#filename`


def _is_via3(data: Any) -> bool:
    return isinstance(data, dict) and {'file', 'metadata', 'attribute'} <= set(data)


def _read_via2(file: Path, data: Any) -> Iterator[_Entry]:
    """Yield the images of a project, or of exported annotations."""
    metadata = data.get('_via_img_metadata', data) if isinstance(data, dict) else data
    entries = metadata if isinstance(metadata, list) else list(_dict(metadata, file).values())
    for number, entry in enumerate(entries):
        name = _dict(entry, file).get('filename')
        regions = entry.get('regions') or []
        regions = list(regions.values()) if isinstance(regions, dict) else regions  # of VIA 1
        if not isinstance(regions, list):
            raise ValueError(f'{file}: {name}: expected a list of regions, got {shorten(regions)}')
        yield _Entry(file, f'{file}: {name or number}', str(name or ''), regions)


def _read_via3(file: Path, data: dict) -> Iterator[_Entry]:
    """Yield the images of a VIA 3 project, with its regions in the form of VIA 2."""
    files, views = _dict(data['file'], file), _dict(data.get('view', {}), file)
    attributes = _dict(data['attribute'], file)
    names = {key: attribute.get('aname', key) for key, attribute in attributes.items()}
    regions: dict[str, list[Any]] = {}
    for entry in _dict(data['metadata'], file).values():
        if _dict(entry, file).get('xy'):  # otherwise it is of the whole file
            kind, *xy = entry['xy']
            shape = _VIA3_SHAPES[kind] if kind in range(1, 9) else f'number {kind}'
            values: dict[str, Any] = dict(zip(_VIA3_KEYS.get(shape, ()), xy, strict=False))
            if shape in ('polygon', 'rect4'):
                values = {'all_points_x': xy[::2], 'all_points_y': xy[1::2]}
            region = {
                'shape_attributes': {'name': shape, **values},
                'region_attributes': {names.get(k, k): v for k, v in entry.get('av', {}).items()},
            }
            regions.setdefault(str(entry.get('vid')), []).append(region)
    for key in dict.fromkeys([*views, *regions]):
        numbers = views.get(key, {}).get('fid_list', [key])
        entry = files.get(str(numbers[0])) if numbers else None
        name = str((entry or {}).get('fname') or '')
        yield _Entry(file, f'{file}: {name or key}', name, regions.get(key, []))


def _read_csv(file: Path) -> Iterator[_Entry]:
    """Yield the rows of a table, each of one region or of none."""
    table = read_table(file)
    header = [name.lstrip('# ') for name in table.header]
    for line, cells in table.rows:
        row = dict(zip(header, cells, strict=False))
        try:
            texts = [row[name] or '{}' for name in _COLUMNS[1:]]
            shape, attributes = map(json.loads, texts)
        except (KeyError, ValueError):
            problem = f'{file}: line {line}: expected {len(header)} cells, those of regions in JSON'
            raise ValueError(f'{problem}, got {shorten(cells)}') from None
        region = {'shape_attributes': shape, 'region_attributes': attributes}
        yield _Entry(file, f'{file}: line {line}', row['filename'], [region] if shape else [])


def _read_options(data: Any) -> dict[str, dict[str, str]]:
    """Return the texts of the values of each attribute, where the values alone are keys.

    These are the options of VIA 3, and those of VIA 2 whose values are numbers.
    """
    if _is_via3(data):
        return {a.get('aname', k): a.get('options') or {} for k, a in data['attribute'].items()}
    found = data.get('_via_attributes', {}).get('region', {}) if isinstance(data, dict) else {}
    options = {name: a.get('options') or {} for name, a in found.items() if isinstance(a, dict)}
    return {
        name: {key: text for key, text in texts.items() if key.isdigit() and text}
        for name, texts in options.items()
    }


def _choose_attribute(entries: Sequence[_Entry]) -> str:
    """Return the attribute that is the class; '' if no region has one."""
    counts: Counter[str] = Counter()
    for entry in entries:
        for region in entry.regions:
            attributes = region.get('region_attributes') if isinstance(region, dict) else None
            if isinstance(attributes, dict):
                counts.update(name for name, value in attributes.items() if value)
    if not counts:
        print('no region has an attribute: all boxes have the class object')
        return ''
    found = list(counts)
    for pattern in _CLASS:
        fit = [name for name in counts if re.search(pattern, name, re.IGNORECASE)]
        if len(counts) > 1 and fit:
            found = fit
            break
    if len(found) > 1:
        listed = ', '.join(f'{name!r} ({counts[name]} regions)' for name in found)
        raise ValueError(f'several attributes may be the class: {listed}. Name one of them class')
    print(f'class: the attribute {found[0]!r} of the regions')
    return found[0]


def _read_class(region: dict, attribute: str, options: dict[str, dict[str, str]]) -> str:
    if not attribute:
        return 'object'
    value = region['region_attributes'].get(attribute)
    if isinstance(value, dict):  # checkboxes
        chosen = [name for name, is_set in value.items() if is_set]
        if len(chosen) > 1:
            raise ValueError(f'has several classes: {list_items(chosen)}')
        value = chosen[0] if chosen else ''
    name = str(value if value is not None else '').strip()
    if not name:
        raise ValueError(f'has no class, the attribute {attribute!r}')
    return options.get(attribute, {}).get(name, name)


def _read_shape(region: Any) -> tuple[str, Corners | None]:
    """Return of which shape the box is made, '' if of none, and its corners.

    Without corners: what is skipped.
    """
    shape = region['shape_attributes']
    name = shape['name']
    if name in _SKIPPED:
        return _SKIPPED[name], None
    if name == 'rect':
        x, y, w, h = (float(shape[key]) for key in ('x', 'y', 'width', 'height'))
        return '', (x, y, x + w, y + h)
    if name == 'circle':
        x, y, r = (float(shape[key]) for key in ('cx', 'cy', 'r'))
        return 'circles', (x - r, y - r, x + r, y + r)
    if name == 'ellipse':
        x, y, rx, ry = (float(shape[key]) for key in ('cx', 'cy', 'rx', 'ry'))
        degrees = math.degrees(float(shape.get('theta') or 0))
        return 'ellipses', ellipse_box(x, y, rx, ry, degrees)
    if name in ('polygon', 'rect4'):
        xs, ys = ([float(v) for v in shape[key]] for key in ('all_points_x', 'all_points_y'))
        if len(xs) != len(ys):
            raise ValueError(f'has {len(xs)} x and {len(ys)} y of points')
        corners = polygon_box(list(zip(xs, ys, strict=True)))
        return 'polygons' if name == 'polygon' else '', corners
    raise ValueError(f'has the unknown shape {name!r}')


def _dict(value: Any, file: Path) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f'{file}: expected an object of VIA, got {shorten(value)}')
    return value
