"""Convert a Pascal VOC dataset to COCO format: DIR/annotations/<set>.json, DIR/JPEGImages.

python tools/dataset_converters/pascal_voc.py VOC_ROOT --out DIR [--sets train val] [--classes a b]

VOC_ROOT contains Annotations/*.xml, ImageSets/Main/<set>.txt and JPEGImages. DIR gets a link to
JPEGImages; no image is copied. Set data_root=DIR and data_prefix.img='JPEGImages/' in the config.
VOC counts pixels from 1, so 1 is subtracted from all four coordinates; width is xmax - xmin, as in
MMDetection. Images without objects are kept. Files and boxes with errors are reported on stderr,
left out and counted. If an XML gives another size than its image has, this is reported too, and
the image's size is used. Nothing is written outside of DIR.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from ghmdet.config.cli import add_debug_argument, run, user_path
from ghmdet.datasets.image_file import ImageError, read_image_sizes
from ghmdet.datasets.image_folder import SUFFIXES
from ghmdet.files import replacing

USUAL_SETS = ('train', 'val', 'test')
# The largest of Pascal VOC has 20 kB.
MAX_XML_BYTES = 16 * 2**20


@dataclass
class VocObject:
    """One object of an image."""

    name: str
    bbox: list[float]
    """x, y, width, height in pixels, counted from 0."""
    difficult: bool


@dataclass
class VocSet:
    """The images of one ImageSets list, (file name, (width, height), objects) each."""

    name: str
    images: list[tuple[str, tuple[int, int], list[VocObject]]] = field(default_factory=list)
    num_problems: int = 0

    def report(self, problem: str) -> None:
        """Count and print a problem."""
        self.num_problems += 1
        print(f'{self.name}: {problem}', file=sys.stderr)


class RefuseDoctype(ElementTree.TreeBuilder):
    """Refuses a DOCTYPE, without which there are no entities to expand."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Raise; the parser calls this before it reads any entity."""
        raise ValueError('has a DOCTYPE, which is refused')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Convert a Pascal VOC dataset to COCO format.')
    parser.add_argument(
        'voc_root', type=user_path, help='folder of Annotations, ImageSets, JPEGImages'
    )
    parser.add_argument(
        '--out', type=user_path, required=True, help='folder to create, the data_root of a config'
    )
    parser.add_argument('--sets', nargs='+', help='lists to convert (train, val, test if present)')
    parser.add_argument('--classes', nargs='+', help='classes in id order (all, alphabetically)')
    parser.add_argument('--skip-difficult', action='store_true', help='leave out difficult objects')
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        if not (args.voc_root / folder).is_dir():
            fail(f'no folder {args.voc_root / folder}: is VOC_ROOT right?')
    wrong = [name for name in args.sets or () if re.search(r'[/\\]|^[.]*$', name)]
    if wrong:
        fail(f'--sets takes names of lists without folder and ending, got {wrong}')
    lists = args.voc_root / 'ImageSets' / 'Main'
    names = args.sets or [name for name in USUAL_SETS if (lists / f'{name}.txt').is_file()]
    absent = [str(lists / f'{name}.txt') for name in names if not (lists / f'{name}.txt').is_file()]
    if absent or not names:
        there = ', '.join(sorted(file.stem for file in lists.glob('*.txt')))
        fail(f'no such lists: {absent or USUAL_SETS}; in {lists} are: {there or "none"}')

    image_files = find_images(args.voc_root / 'JPEGImages')
    voc_sets = [read_set(args.voc_root, name, image_files, args.skip_difficult) for name in names]
    found = {obj.name for voc_set in voc_sets for *_, objs in voc_set.images for obj in objs}
    # One list for all sets: an id must mean the same class in each.
    classes = list(dict.fromkeys(args.classes or sorted(found)))
    annotations = args.out / 'annotations'
    annotations.mkdir(parents=True, exist_ok=True)
    for voc_set in voc_sets:
        write_json(annotations / f'{voc_set.name}.json', make_coco(voc_set, classes))
        print(describe_set(voc_set, classes))
    link_images(args.voc_root / 'JPEGImages', args.out / 'JPEGImages')


def link_images(images: Path, link: Path) -> None:
    """Link DIR to the images; if this fails, print the config key to set instead."""
    if link.is_symlink():
        link.unlink()
    if link.exists():
        return
    try:
        link.symlink_to(images.resolve(), target_is_directory=True)
    except OSError as error:
        print(
            f'cannot create the link {link} ({error}): set '
            f'data_prefix.img={str(images.resolve())!r} in the config',
            file=sys.stderr,
        )


def fail(message: str) -> NoReturn:
    print(f'pascal_voc.py: {message}', file=sys.stderr)
    raise SystemExit(2)


def find_images(folder: Path) -> dict[str, str]:
    """Map each image's id (path without extension) to its file name below the folder."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob('*')))
    return {
        path.with_suffix('').as_posix(): path.as_posix()
        for path in paths
        if path.suffix.lower() in SUFFIXES
    }


def read_set(root: Path, name: str, image_files: dict[str, str], skip_difficult: bool) -> VocSet:
    """Read the annotation of every image that the list names."""
    voc_set = VocSet(name)
    list_file = root / 'ImageSets' / 'Main' / f'{name}.txt'
    try:
        lines = list_file.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError as error:
        fail(f'{list_file} is not a UTF-8 text file: {error}')
    for image_id in dict.fromkeys(line.strip() for line in lines if line.strip()):
        xml_file = root / 'Annotations' / f'{image_id}.xml'
        if image_id not in image_files:
            voc_set.report(f'{shorten(image_id)}: no image of this name in {root / "JPEGImages"}')
            continue
        try:
            tree = read_xml(xml_file)
            xml_wh = read_size(tree)
            stored_wh, size_wh = read_image_sizes(root / 'JPEGImages' / image_files[image_id])
        except ImageError as error:
            voc_set.report(f'{image_id}: {error}')
            continue
        except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
            voc_set.report(f'{xml_file}: {error}')
            continue
        if xml_wh == stored_wh:
            size_wh = stored_wh  # the XML may mean the image before or after EXIF is applied
        elif xml_wh not in (None, size_wh):
            voc_set.report(f'{xml_file}: size is {xml_wh}, but the image has {size_wh}')
        objects = []
        for index, node in enumerate(tree.findall('object')):
            try:
                obj = read_object(node)
            except ValueError as error:
                voc_set.report(f'{xml_file}: object {index}: {error}')
                continue
            if not (skip_difficult and obj.difficult):
                objects.append(obj)
        voc_set.images.append((image_files[image_id], size_wh, objects))
    return voc_set


def read_xml(xml_file: Path) -> ElementTree.Element:
    if not xml_file.is_file():
        raise FileNotFoundError('no such file')
    size = xml_file.stat().st_size
    if size > MAX_XML_BYTES:
        raise ValueError(f'has {size} bytes, more than {MAX_XML_BYTES}')
    parser = ElementTree.XMLParser(target=RefuseDoctype())
    return ElementTree.parse(xml_file, parser).getroot()


def read_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Read (width, height); None if missing, 0 or no number."""
    texts = [tree.findtext(f'size/{key}', '').strip() for key in ('width', 'height')]
    if not all(text.isdecimal() and len(text) < 10 and int(text) > 0 for text in texts):
        return None
    return int(texts[0]), int(texts[1])


def read_object(node: ElementTree.Element) -> VocObject:
    """Read one object; a ValueError says what is wrong with it."""
    name = node.findtext('name', '').strip()
    if not name:
        raise ValueError('has no name')
    texts = {key: node.findtext(f'bndbox/{key}') for key in ('xmin', 'ymin', 'xmax', 'ymax')}
    try:
        xmin, ymin, xmax, ymax = (float(text or 'nothing') for text in texts.values())
    except ValueError:
        raise ValueError(f'box is not four numbers: {shorten(texts)}') from None
    # The area too: it is written.
    if not math.isfinite((xmax - xmin) * (ymax - ymin)) or not math.isfinite(xmin + ymin):
        raise ValueError(f'box is not finite: {shorten(texts)}')
    if xmax <= xmin or ymax <= ymin:
        raise ValueError(f'box is degenerate: {shorten(texts)}')
    difficult = node.findtext('difficult', '0').strip() == '1'
    return VocObject(name, [xmin - 1, ymin - 1, xmax - xmin, ymax - ymin], difficult)


def shorten(value: str | dict) -> str:
    """Shorten a text from a file, which may have megabytes, for a message."""
    if isinstance(value, str):
        return value if len(value) <= 100 else f'{value[:100]}...'
    return str({key: text and shorten(text) for key, text in value.items()})


def make_coco(voc_set: VocSet, classes: Sequence[str]) -> dict:
    """Number images, objects of the classes, and classes from 1."""
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (file_name, (width, height), objects) in enumerate(voc_set.images, start=1):
        images.append({'id': image_id, 'file_name': file_name, 'width': width, 'height': height})
        for obj in objects:
            if obj.name in category_ids:
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image_id,
                        'category_id': category_ids[obj.name],
                        'bbox': obj.bbox,
                        'area': obj.bbox[2] * obj.bbox[3],
                        'iscrowd': 0,
                    }
                )
    categories = [{'id': number, 'name': name} for name, number in category_ids.items()]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def describe_set(voc_set: VocSet, classes: Sequence[str]) -> str:
    counts = Counter(obj.name for *_, objects in voc_set.images for obj in objects)
    others = sum(count for name, count in counts.items() if name not in classes)
    histogram = ', '.join(f'{name} {counts[name]}' for name in classes)
    return (
        f'{voc_set.name}: {len(voc_set.images)} images, boxes: {histogram or "none"}; '
        f'{others} of other classes left out; problems: {voc_set.num_problems}'
    )


def write_json(path: Path, content: dict) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, allow_nan=False))


if __name__ == '__main__':
    run(main)
