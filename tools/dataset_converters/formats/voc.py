"""Pascal VOC: XML files of LabelImg, of other tools, and of VOC itself with its ImageSets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from export_records import Box, Export, Image, find_split, list_files, show_progress
from image_finder import ImageFinder, find_images
from shapes_to_boxes import polygon_box, rotated_box

from ghmdet.config.cli import LazyModule
from ghmdet.files import find_look_alike, fold_name, read_lines
from ghmdet.messages import list_items

voc_xml = LazyModule('ghmdet.datasets.voc_xml')
NAME = 'Pascal VOC'
_SETS = {'train': 'train', 'val': 'val', 'valid': 'val', 'test': 'test'}
_SECOND_COLUMN = re.compile(r'\s+(-1|0|1|\S+\.xml)$', re.IGNORECASE)
_OUTER_FOLDERS = re.compile(r'^(.*/)?(jpegimages|annotations)/|^\./', re.IGNORECASE)
_IS_ABSOLUTE = re.compile(r'/|[a-z]:/', re.IGNORECASE)
_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def recognise(source: Path) -> str:
    """Say why a source is of this format, '' if it is not."""
    files = list_files(source, '.xml')
    read = [_read_root(file) for file in files[:5]]
    count = sum(tree is not None and tree.tag == 'annotation' for tree in read)
    of_all = f' of the first 5 of {len(files)}' if len(files) > 5 else ''
    return f'{count}{of_all} .xml files have the element <annotation>' if count else ''


def read(source: Path, images: Path | None) -> Export:
    """Read a folder of XML files, or VOC's folders, of which the ImageSets become splits.

    Raises:
        ValueError: there is no XML file.
        FileNotFoundError: there is no image.
    """
    export = Export(NAME)
    folders = dict.fromkeys(file.parent for file in list_files(source, '.txt'))
    trees = [d.parents[1] for d in folders if fold_name(d.as_posix()).endswith('imagesets/main')]
    trees = [tree for tree in trees if find_lists(tree)]
    for tree in trees:
        finder = find_images(tree, images or _find_folder(tree, 'JPEGImages'))
        for xml_file, split in _read_lists(export, tree):
            _read_image(export, xml_file, split, finder)
    if trees:
        return export
    files = list_files(source, '.xml')
    if not files:
        raise ValueError(f'{source}: no XML file there or below')
    base = source if source.is_dir() else source.parent
    finder = find_images(source, images or _find_folder(base, 'JPEGImages'))
    for xml_file in show_progress(files, 'XML files'):
        _read_image(export, xml_file, find_split(xml_file.relative_to(base).parent), finder)
    missing = len(set(finder.paths) - {image.path for image in export.images})
    if missing:
        print(f'{missing} images have no XML file that can be used, and are left out')
    return export


def find_lists(tree: Path) -> dict[Path, str]:
    """Return the usual lists in ImageSets/Main with their splits; trainval if no other is there."""
    folder = _find_folder(tree, 'ImageSets/Main')
    files = sorted(folder.iterdir()) if folder else []
    names = {file.stem.lower(): file for file in files if file.suffix.lower() == '.txt'}
    lists = {names[name]: split for name, split in _SETS.items() if name in names}
    return lists or {names[name]: 'train' for name in ('trainval',) if name in names}


def _find_folder(tree: Path, name: str) -> Path | None:
    """Find a folder in any case."""
    found = Path(find_look_alike(tree / name) or tree / name)
    return found if found.is_dir() else None


def _read_lists(export: Export, tree: Path) -> Iterator[tuple[Path, str]]:
    """Yield the XML file and the split of each line of the lists."""
    folder = _find_folder(tree, 'Annotations') or tree / 'Annotations'
    known = {
        fold_name(f.relative_to(folder).as_posix()[:-4]): f for f in list_files(folder, '.xml')
    }
    listed: set[Path] = set()
    for list_file, split in find_lists(tree).items():
        found: dict[Path, None] = {}
        for line in read_lines(list_file):
            keys = [fold_name(text) for text in list_spellings(line)]
            keys += [re.sub(r'\.\w+$', '', key) for key in keys]
            key = next((key for key in keys if key in known), None)
            if key is None:
                export.report(f'{list_file}: {line[:100]}', f'no XML file in {folder}', 'images')
            else:
                found[known[key]] = None
        listed |= set(found)
        yield from ((file, split) for file in show_progress(list(found), list_file.stem))
    if others := len(set(known.values()) - listed):
        names = list_items(file.name for file in find_lists(tree))
        print(f'{tree}: {others} XML files are in none of {names}, and are left out')


def list_spellings(line: str) -> Iterator[str]:
    """Yield the names that a line of a list may mean, the likeliest first."""
    for text in (line, _SECOND_COLUMN.sub('', line)):
        path = text.replace('\\', '/')
        yield from (text, path, _OUTER_FOLDERS.sub('', path))
        if _IS_ABSOLUTE.match(path):
            parts = path.split('/')
            yield from ('/'.join(parts[number:]) for number in range(1, len(parts)))


def _read_image(export: Export, xml_file: Path, split: str, finder: ImageFinder) -> None:
    try:
        tree = voc_xml.read_xml(xml_file)
        if tree.tag != 'annotation':
            raise ValueError(f'expected <annotation>, got <{tree.tag}>')
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        problem = str(error).removeprefix(f'{xml_file}: ')
        export.report(str(xml_file), problem, 'images')
        return
    nodes = tree.findall('object')
    export.num_boxes += len(nodes)
    path, problem = _find_image(tree, xml_file, finder)
    if path is None:
        export.report(str(xml_file), problem, 'images')
        export.lost['boxes'] += len(nodes)
        return
    image = Image(path, voc_xml.read_size(tree), split=split)
    for index, node in enumerate(nodes):
        place = f'{xml_file}: object {index}'
        try:
            kind = _add_box(node)
            read = voc_xml.read_object(node)
        except ValueError as error:
            export.report(place, str(error), 'boxes')
            export.reasons.update(re.findall('degenerate|not finite', str(error)))
            continue
        export.converted.update([kind] if kind else [])
        image.boxes.append(Box(read.name, read.corners, ignore=read.difficult, place=place))
    export.images.append(image)


def _find_image(
    tree: ElementTree.Element, xml_file: Path, finder: ImageFinder
) -> tuple[Path | None, str]:
    """Return the image of an XML file, or why there is none.

    This is the image with the name of the XML file, in the folder most like its own. Between
    several of them, or if there is none, <filename> and <path> decide.
    """
    fit = finder.find_all(xml_file.as_posix())
    if len(fit) == 1:
        return fit[0], ''
    names = list(list_names(tree))
    if fit and (named := choose_by_name(fit, names)):
        return named, ''
    for name in names if not fit else ():
        if path := finder.find(name, beside=xml_file.parent):
            return path, ''
    listed = list_items((repr(name) for name in (xml_file.stem, *names)), 3)
    if fit:
        return None, f'{len(fit)} images fit ({list_items(fit, 3)}), and <filename> names none'
    return None, f'no image named {listed} in {list_items(finder.folders)}'


def list_names(tree: ElementTree.Element) -> Iterator[str]:
    """Yield what the XML calls its image, in the slashes of Unix."""
    for key in ('filename', 'path'):
        if name := tree.findtext(key, '').strip().replace('\\', '/'):
            yield name


def choose_by_name(images: Sequence[Path], names: Iterable[str]) -> Path | None:
    """Return the one of some images that has a name of the XML, the first that fits one only."""
    for name in names:
        base = fold_name(name.rpartition('/')[2])
        same = [path for path in images if fold_name(path.name) == base]
        if len(same) == 1:
            return same[0]
    return None


def _add_box(node: ElementTree.Element) -> str:
    """Give an object without <bndbox> the box of its other shape; return what this is."""
    if node.find('bndbox') is not None:
        return ''
    corners: tuple[float, ...]
    try:
        if (rotated := node.find('robndbox')) is not None:  # of roLabelImg
            keys = ('cx', 'cy', 'w', 'h', 'angle')
            *box, angle = (float(rotated.findtext(key, '')) for key in keys)
            kind, corners = 'rotated boxes', rotated_box(*box, math.degrees(angle), about='centre')
        elif (polygon := node.find('polygon')) is not None:
            kind, corners = 'polygons', polygon_box(_read_points(polygon))
        else:
            return ''
    except ValueError:
        raise ValueError('has a <robndbox> or <polygon> that is not numbers') from None
    box_node: Any = ElementTree.SubElement(node, 'bndbox')
    for key, value in zip(_CORNERS, corners, strict=True):
        ElementTree.SubElement(box_node, key).text = repr(float(value))
    return kind


def _read_points(polygon: ElementTree.Element) -> list[tuple[float, float]]:
    """Read <pt><x>, <y></pt>, as LabelMe writes, or <x1>, <y1>, <x2>, as Roboflow does."""
    points = [(p.findtext('x', ''), p.findtext('y', '')) for p in polygon.findall('pt')]
    numbers = [node.tag[1:] for node in polygon if re.fullmatch(r'x\d+', node.tag)]
    points += [(polygon.findtext(f'x{n}', ''), polygon.findtext(f'y{n}', '')) for n in numbers]
    if not points:
        raise ValueError
    return [(float(x), float(y)) for x, y in points]


def _read_root(file: Path) -> ElementTree.Element | None:
    try:
        return voc_xml.read_xml(file)
    except (OSError, ValueError, LookupError, ElementTree.ParseError):
        return None
