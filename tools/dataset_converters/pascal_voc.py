"""Convert a Pascal VOC dataset to COCO format: DIR/annotations/<set>.json, DIR/JPEGImages.

python tools/dataset_converters/pascal_voc.py VOC_ROOT --out DIR [--sets train val] [--classes a b]

VOC_ROOT contains Annotations/*.xml, ImageSets/Main/<set>.txt and JPEGImages. DIR gets a link to
JPEGImages; no image is copied. Set data_root=DIR and data_prefix.img='JPEGImages/' in the config.
VOC counts pixels from 1, so 1 is subtracted from all four coordinates; width is xmax - xmin, as in
MMDetection. Images without objects are kept. Difficult objects are kept with ignore=1: neither
learnt, nor counted as missed. If an XML gives another size than its image has, this is reported,
and the image's size is used.

A line of a list names an image by its id, its file name or its path, in any case; a second column
(1, 0 and -1 in VOC's lists of one class, or the XML) is not used: all images of a list are kept.
Of several images of one id that counts which the XML names.

Images without XML, broken files and broken boxes are listed on stderr, left out and counted; the
exit code is then 1, unless `--allow-skipped` is given, and always if a set has no box at all.
Nothing is written outside of DIR.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from xml.etree import ElementTree

from export_records import Box
from formats.voc import choose_by_name, list_names, list_spellings

from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.files import find_look_alike, read_lines
from ghmdet.messages import list_items

if TYPE_CHECKING:
    from image_finder import ImageFinder

coco_output = LazyModule('coco_output')
coco_classes = LazyModule('ghmdet.coco.classes')
image_file = LazyModule('ghmdet.datasets.image_file')
image_names = LazyModule('image_finder')
voc_xml = LazyModule('ghmdet.datasets.voc_xml')
USUAL_SETS = ('train', 'val', 'test')


@dataclass
class VocSet:
    """The images of one ImageSets list, (file name, (width, height), boxes) each."""

    name: str
    images: list[tuple[str, tuple[int, int], list[Box]]] = field(default_factory=list)
    num_problems: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """How many images and boxes are left out."""

    def report(self, problem: str, lost: str = '') -> None:
        """Count and print a problem; `lost` says whether an image or a box is left out."""
        self.num_problems += 1
        if lost:
            self.lost[lost] += 1
        print(f'{self.name}: {problem}', file=sys.stderr)


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
    parser.add_argument(
        '--allow-skipped', action='store_true', help='exit with 0 though images or boxes are broken'
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    xmls, images = (find_folder(args.voc_root, name) for name in ('Annotations', 'JPEGImages'))
    lists = find_lists(find_folder(args.voc_root, 'ImageSets/Main'), args.sets)
    finder = image_names.ImageFinder([images])
    voc_sets = []
    for name, file in lists.items():
        voc_sets.append(read_set(VocSet(name), file, xmls, images, finder))
        if args.skip_difficult:
            for *_, objects in voc_sets[-1].images:
                objects[:] = [obj for obj in objects if not obj.ignore]
    found = {obj.name for voc_set in voc_sets for *_, objs in voc_set.images for obj in objs}
    # One list for all sets: an id must mean the same class in each.
    classes = list(dict.fromkeys(args.classes or sorted(found)))
    for name in (name for name in classes if name not in found):
        print(
            f'no object has the class {coco_classes.suggest_name(name, list(found))}',
            file=sys.stderr,
        )
    annotations = args.out / 'annotations'
    annotations.mkdir(parents=True, exist_ok=True)
    for voc_set in voc_sets:
        content = coco_output.make_coco(voc_set.images, classes, offset=1)
        coco_output.write_json(annotations / f'{voc_set.name}.json', content)
        print(describe_set(voc_set, classes))
    link_images(images, args.out / 'JPEGImages')
    check_result(voc_sets, classes, args.allow_skipped)


def find_folder(root: Path, name: str) -> Path:
    """Find a folder of the dataset, in any case."""
    folder = Path(find_look_alike(root / name) or root / name)
    if not folder.is_dir():
        below = sorted(str(path.parent) for path in root.glob('*/Annotations'))
        hint = f' It may be {" or ".join(below)}' if below else ''
        fail(f'no folder {folder}: is VOC_ROOT right?{hint}')
    return folder


def find_lists(folder: Path, names: Sequence[str] | None) -> dict[str, Path]:
    """Find the files of the named lists, or of the usual ones that are there."""
    wrong = [name for name in names or () if re.search(r'[/\\]|^[.]*$', name)]
    if wrong:
        fail(f'--sets takes names of lists without folder and ending, got {wrong}')
    paths = {name: folder / f'{name}.txt' for name in names or USUAL_SETS}
    files = {name: Path(find_look_alike(path) or path) for name, path in paths.items()}
    absent = [str(file) for file in files.values() if not file.is_file()]
    if len(absent) == len(files) or (names and absent):
        there = ', '.join(sorted(file.stem for file in folder.glob('*.txt')))
        fail(
            f'no such lists: {absent if names else USUAL_SETS}; in {folder} are: {there or "none"}'
        )
    return {name: file for name, file in files.items() if file.is_file()}


def check_result(voc_sets: Sequence[VocSet], classes: Sequence[str], allow_skipped: bool) -> None:
    """Raise a ValueError if a set is empty, or if something was left out that may not be."""
    errors = []
    for voc_set in voc_sets:
        names = Counter(obj.name for *_, objects in voc_set.images for obj in objects)
        if not voc_set.images:
            errors.append(f'{voc_set.name} has no image')
        elif not names:
            errors.append(f'{voc_set.name} has no box')
        elif not any(name in names for name in classes):
            errors.append(
                f'{voc_set.name} has no box of the classes {list_items(classes)}, only of '
                f'{list_items(sorted(names), 20)}'
            )
    lost = sum((voc_set.lost for voc_set in voc_sets), Counter[str]())
    if lost and not allow_skipped:
        errors.append(coco_output.describe_lost(lost))
    if errors:
        raise ValueError(f'{"; ".join(errors)}. The annotation files are written all the same')


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


def read_set(
    voc_set: VocSet, list_file: Path, xmls: Path, images: Path, finder: ImageFinder
) -> VocSet:
    """Read the annotation of every image that the list names."""
    seen = set()
    for line in dict.fromkeys(read_lines(list_file)):
        found = map(finder.find_below, list_spellings(line))
        fit: list[Path] = next(filter(None, found), [])
        if not fit:
            voc_set.report(f'{line[:100]}: no image of this name in {images}', 'images')
        elif fit[0] not in seen:
            seen.add(fit[0])
            read_annotation(voc_set, xmls, images, fit)
    return voc_set


def read_annotation(voc_set: VocSet, xmls: Path, images: Path, fit: list[Path]) -> None:
    """Add an image and its objects to the set; of several of one name that which the XML names."""
    image_id = fit[0].relative_to(os.path.abspath(images)).with_suffix('').as_posix()
    xml_file = xmls / f'{image_id}.xml'
    xml_file = Path(find_look_alike(xml_file) or xml_file)
    try:
        tree = voc_xml.read_xml(xml_file)
        xml_wh = voc_xml.read_size(tree)
        path = choose_by_name(fit, list_names(tree)) or fit[0]
        file_name = path.relative_to(os.path.abspath(images)).as_posix()
        stored_wh, size_wh = image_file.read_image_sizes(images / file_name)
    except image_file.ImageError as error:
        voc_set.report(f'{image_id}: {error}', 'images')
        return
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        voc_set.report(f'{xml_file}: {str(error).removeprefix(f"{xml_file}: ")}', 'images')
        return
    if xml_wh == stored_wh:
        size_wh = stored_wh  # the XML may mean the image before or after EXIF is applied
    elif xml_wh not in (None, size_wh):
        voc_set.report(f'{xml_file}: size is {xml_wh}, but the image has {size_wh}')
    objects = []
    for index, node in enumerate(tree.findall('object')):
        try:
            read = voc_xml.read_object(node)
            objects.append(Box(read.name, read.corners, ignore=read.difficult))
        except ValueError as error:
            voc_set.report(f'{xml_file}: object {index}: {error}', 'boxes')
    voc_set.images.append((file_name, size_wh, objects))


def describe_set(voc_set: VocSet, classes: Sequence[str]) -> str:
    objects = [obj for *_, objects in voc_set.images for obj in objects]
    counts = Counter(obj.name for obj in objects)
    others = sum(count for name, count in counts.items() if name not in classes)
    difficult = sum(obj.ignore and obj.name in classes for obj in objects)
    histogram = ', '.join(f'{name} {counts[name]}' for name in classes)
    return (
        f'{voc_set.name}: {len(voc_set.images)} images, boxes: {histogram or "none"}'
        f'{f" ({difficult} of them difficult: ignore=1)" if difficult else ""}; '
        f'{others} of other classes left out; problems: {voc_set.num_problems}'
    )


if __name__ == '__main__':
    run(main)
