"""CVAT: its XML "for images 1.1" and "for video 1.1"."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from export_records import Box, Export, Image, find_split, list_files, show_progress
from image_finder import ImageFinder, find_images
from shapes_to_boxes import Corners, ellipse_box, polygon_box, rotated_box

from ghmdet.config.cli import LazyModule
from ghmdet.messages import list_items, shorten

voc_xml = LazyModule('ghmdet.datasets.voc_xml')
NAME = 'CVAT'
_CONVERTED = {'polygon': 'polygons', 'ellipse': 'ellipses', 'mask': 'masks', 'cuboid': 'cuboids'}
_SKIPPED = {'polyline': 'polylines', 'points': 'points', 'skeleton': 'skeletons', 'tag': 'tags'}
_MAX_BYTES = 2**31
_ROOT = re.compile(rb'<annotations[\s/>]')


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    names = [file.name for file in _list_files(source)]
    return f'{list_items(names, 3)} with the root <annotations>' if names else ''


def read(source: Path, images: Path | None) -> Export:
    """Read images and tracks; an image's `subset`, or the folder of the file, says its split.

    Raises:
        ValueError: there is no such file, or it is no XML.
    """
    export, finder = Export(NAME), find_images(source, images)
    files = _list_files(source)
    if not files:
        raise ValueError(f'{source}: no .xml file with the root <annotations>')
    base = source if source.is_dir() else source.parent
    for file in files:
        try:
            tree = voc_xml.read_xml(file, _MAX_BYTES)
        except (ValueError, ElementTree.ParseError) as error:
            raise ValueError(f'{file}: {str(error).removeprefix(f"{file}: ")}') from None
        names = (node.findtext('name', '').strip() for node in tree.iterfind('meta/*/labels/label'))
        export.classes += [name for name in names if name and name not in export.classes]
        split = find_split(file.relative_to(base).with_suffix(''))
        for node in show_progress(tree.findall('image'), file.name):
            _read_image(export, file, node, finder, split)
        if tree.find('track') is not None:
            _read_tracks(export, file, tree, finder, split)
    return export


def _list_files(source: Path) -> list[Path]:
    return [file for file in list_files(source, '.xml') if _is_cvat(file)]


def _is_cvat(file: Path) -> bool:
    with file.open('rb') as stream:
        return bool(_ROOT.search(stream.read(2048)))


def _read_image(
    export: Export, file: Path, node: ElementTree.Element, finder: ImageFinder, split: str
) -> None:
    name = node.get('name', '')
    place = f'{file}: image {name}'
    boxes = list(_read_shapes(export, place, node, ''))
    path = finder.find(name, beside=file.parent)
    if path is None:
        export.report(place, finder.explain(name) if name else 'has no name', 'images')
        export.lost['boxes'] += len(boxes)
        return
    width, height = node.get('width', ''), node.get('height', '')
    size = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None
    named = find_split(Path(node.get('subset', '')))
    export.images.append(Image(path, size, boxes, named or split))


def _read_tracks(
    export: Export, file: Path, tree: ElementTree.Element, finder: ImageFinder, split: str
) -> None:
    """Add the images of a video with the boxes of its tracks; CVAT writes each frame of a track."""
    boxes: dict[str, list[Box]] = {}
    for index, track in enumerate(tree.findall('track')):
        place = f'{file}: track {track.get("id", index)}'
        for shape in track:
            if shape.get('outside') != '1':
                one = ElementTree.Element('frame')
                one.append(shape)
                frame = shape.get('frame', '')
                inner = f'{place}, frame {frame}'
                found = _read_shapes(export, inner, one, track.get('label', ''))
                boxes.setdefault(frame, []).extend(found)
    numbered = _number_images(export, file, tree, finder)
    sides = [tree.findtext(f'meta/*/original_size/{side}', '') for side in ('width', 'height')]
    size_wh = (int(sides[0]), int(sides[1])) if all(map(str.isdecimal, sides)) else None
    for number, paths in sorted(numbered.items()):
        if len(paths) == 1:
            found_boxes = boxes.pop(str(number), [])
            export.images.append(Image(paths[0], size_wh, found_boxes, split))
    for text, missing in boxes.items():
        count = len(numbered.get(int(text), [])) if text.isdecimal() else 0
        problem = f'{count} images have its number' if count else 'no image has its number'
        export.report(f'{file}: frame {text}', f'{problem}, such as frame_000012.png', 'images')
        export.lost['boxes'] += len(missing)


def _number_images(
    export: Export, file: Path, tree: ElementTree.Element, finder: ImageFinder
) -> dict[int, list[Path]]:
    """Return the images of a video by the number of their frame, the last one in their name."""
    folder = Path(os.path.abspath(file.parent))
    paths = [path for path in finder.paths if path.is_relative_to(folder)] or finder.paths
    numbered: dict[int, list[Path]] = {}
    for path in paths:
        if digits := re.findall(r'\d+', path.stem):
            numbered.setdefault(int(digits[-1]), []).append(path)
    size, start = (
        int(text) if (text := tree.findtext(f'meta/*/{key}', '')).isdecimal() else 0
        for key in ('size', 'start_frame')
    )
    if size and set(numbered) == set(range(start + 1, start + size + 1)):
        print(f'{file}: the images are numbered from {start + 1}, frames from {start}: 1 is taken')
        return {number - 1: of_number for number, of_number in numbered.items()}
    if 0 not in numbered and 1 in numbered:
        problem = 'no image has the number 0, with which CVAT begins: are they numbered from 1, as '
        export.report(str(file), f'{problem}ffmpeg does? Then rename them, or all boxes are wrong')
    return numbered


def _read_shapes(
    export: Export, place: str, node: ElementTree.Element, label: str
) -> Iterator[Box]:
    """Yield the boxes of the shapes in a node; `label` is that of the track."""
    for index, shape in enumerate(node):
        if shape.tag not in ('box', *_CONVERTED, *_SKIPPED):
            continue
        export.num_boxes += 1
        if shape.tag in _SKIPPED:
            export.skipped[_SKIPPED[shape.tag]] += 1
            continue
        inner = f'{place}: {shape.tag} {index}'
        try:
            name = (label or shape.get('label', '')).strip()
            if not name:
                raise ValueError('has no label')
            corners, made_of = _find_box(shape)
        except (KeyError, ValueError) as error:
            export.report(inner, f'{error}: {shorten(dict(shape.attrib))}', 'boxes')
            continue
        export.converted.update([made_of] if made_of else [])
        yield Box(name, corners, place=inner)


def _find_box(shape: ElementTree.Element) -> tuple[Corners, str]:
    """Return the corners, and of which shape they were made, '' if of none."""
    values = shape.attrib
    turn, made_of = float(values.get('rotation') or 0), _CONVERTED.get(shape.tag, '')
    if shape.tag == 'polygon':
        points = [point.split(',') for point in values['points'].split(';')]
        return polygon_box([(float(x), float(y)) for x, y in points]), made_of
    if shape.tag == 'ellipse':
        cx, cy, rx, ry = (float(values[key]) for key in ('cx', 'cy', 'rx', 'ry'))
        return ellipse_box(cx, cy, rx, ry, turn), made_of
    if shape.tag == 'mask':
        x, y, w, h = (float(values[key]) for key in ('left', 'top', 'width', 'height'))
        return (x, y, x + w, y + h), made_of
    if shape.tag == 'cuboid':
        xs, ys = ([float(v) for k, v in values.items() if re.match(f'{a}[tb]', k)] for a in 'xy')
        return polygon_box(list(zip(xs, ys, strict=True))), made_of
    x1, y1, x2, y2 = (float(values[key]) for key in ('xtl', 'ytl', 'xbr', 'ybr'))
    if turn:
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        return rotated_box(*centre, x2 - x1, y2 - y1, turn), 'rotated boxes'
    return (x1, y1, x2, y2), ''
