"""Convert an export of any common kind to COCO format.

python tools/dataset_converters/to_coco.py SOURCE --out DIR [--from FORMAT] [--split 0.8,0.2]

SOURCE is the folder of an export, or its file. DIR gets annotations/train.json, val.json and
test.json, or all.json if neither the export nor --split splits the images, and images/. Set
data_root=DIR, ann_file='annotations/train.json' and data_prefix.img='images/' in the config.

Coordinates are taken as they stand; --one-based subtracts 1 from the corners, for files that count
pixels from 1, as those of Pascal VOC do. Rotated boxes and polygons become the boxes around them.
Boxes that are degenerate, not finite or outside of their image, and images that are missing or
broken, are listed on stderr, left out and counted; the exit code is then 1, unless --allow-skipped
is given. Boxes that reach beyond the image are kept. The images of a group (--group-by) and copies
of an image that Roboflow made stay in one split.

Only DIR is written to. It may hold the result of an earlier run, which is replaced.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import splits
from formats import READERS

from ghmdet.config.cli import LazyModule, add_debug_argument, run, user_path
from ghmdet.files import explain_look_alike
from ghmdet.messages import list_items

coco_classes = LazyModule('ghmdet.coco.classes')
coco_output = LazyModule('coco_output')
image_names = LazyModule('image_finder')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Convert an export to COCO format.')
    parser.add_argument('source', type=user_path, help='folder or file of the export')
    parser.add_argument('--from', dest='format', choices=[*READERS, 'auto'], default='auto')
    parser.add_argument('--out', type=user_path, required=True, help='data_root of the config')
    parser.add_argument('--images', type=user_path, help='folder of the images (beside SOURCE)')
    parser.add_argument(
        '--classes',
        nargs='+',
        help='names in id order (cat dog, or cat,dog), or a file, one per line',
    )
    parser.add_argument('--split', type=_read_shares, help='shares of train,val or train,val,test')
    splits.add_arguments(parser)
    parser.add_argument(
        '--merge', nargs='+', action='extend', default=[], metavar='OLD=NEW', help='rename classes'
    )
    copying = parser.add_mutually_exclusive_group()
    copying.add_argument('--copy', action='store_true', help='copy the images (default)')
    copying.add_argument('--link', action='store_true', help='link to the images')
    parser.add_argument('--one-based', action='store_true', help='subtract 1 from the corners')
    parser.add_argument(
        '--difficult', choices=['ignore', 'crowd'], default='ignore', help='how they are written'
    )
    parser.add_argument(
        '--allow-skipped', action='store_true', help='exit with 0 though images or boxes are lost'
    )
    add_debug_argument(parser)
    args = parser.parse_args(argv)
    if (args.stratify or args.group_by is not None) and not args.split:
        parser.error('--stratify and --group-by need --split')
    for rule in args.merge:
        if not all(rule.partition('=')):
            parser.error(f'--merge takes OLD=NEW, got {rule!r}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    check_places(args)
    name = recognise(args.source) if args.format == 'auto' else args.format
    export = READERS[name].read(args.source, args.images)
    if args.one_based and export.relative:
        raise ValueError(
            f'--one-based: the coordinates of {export.source} are relative; leave it out'
        )
    account = coco_output.Account(export.skipped + export.reasons)
    broken = export.lost['boxes'] - export.reasons.total()
    account.left_out['broken or without an image'] += broken
    account.describe(export.num_boxes, sum(len(image.boxes) for image in export.images))
    merge_names(export, args.merge)
    images = coco_output.drop_repeated(export, account, keep_splits=not args.split)
    images = coco_output.check_images(images, export, account, int(args.one_based))
    if not images:
        raise ValueError(f'{args.source}: no image is left, as listed above')
    folder, names = coco_output.name_images(images)
    print(f'{len(images)} images of {folder}')
    # Numbers and splits must not depend on the order in a file.
    names, images = zip(*sorted(zip(names, images, strict=True), key=lambda p: p[0]), strict=True)
    classes = choose_classes(args.classes, export, images, needed=name != 'images')
    for image in images:
        kept = [box for box in image.boxes if box.name in classes]
        account.left_out['of other classes'] += len(image.boxes) - len(kept)
        image.boxes = kept
    account.describe(export.num_boxes, sum(len(image.boxes) for image in images))
    assign_splits(args, images, names)
    write(args, export.source, images, names, classes)
    print_report(args, export, images, classes, account)
    lost = coco_output.describe_lost(export.lost)
    if lost and not args.allow_skipped:
        raise ValueError(f'{lost}. The annotation files are written all the same')


def check_places(args: argparse.Namespace) -> None:
    """Raise if SOURCE is not there, or if DIR would be read as a part of it."""
    source, out = args.source.resolve(), args.out.resolve()
    if not source.exists():
        raise FileNotFoundError(f'no file or folder {args.source}{explain_look_alike(args.source)}')
    if args.images and not args.images.is_dir():
        near = explain_look_alike(args.images)
        raise NotADirectoryError(f'--images: no folder {args.images}{near}')
    if (source.is_dir() and out.is_relative_to(source)) or (
        source.is_relative_to(out / 'annotations')
    ):
        raise ValueError(
            f'--out {args.out} must not be inside of SOURCE, nor SOURCE in its annotations/: what '
            f'is written would be read by the next run. For example --out {source}_coco'
        )
    inside = [path for path in (source, args.images) if path and path.resolve().is_relative_to(out)]
    image_names.not_searched[:] = [] if inside else [Path(os.path.abspath(args.out))]


def recognise(source: Path) -> str:
    """Return the format of a source, and print why.

    Raises:
        ValueError: it has none of the formats, or several.
    """
    if source.suffix.lower() in ('.zip', '.tar', '.gz', '.7z', '.rar'):
        raise ValueError(f'{source} is an archive: unpack it, and give the folder')
    reasons = {name: reader.recognise(source) for name, reader in READERS.items()}
    found = {name: reason for name, reason in reasons.items() if reason}
    if len(found) == 1:
        ((name, reason),) = found.items()
        print(f'format: {READERS[name].NAME} (--from {name}): {reason}')
        return name
    if not found:
        looked = list_items((reader.NAME for reader in READERS.values()), 20)
        raise ValueError(f'{source}: none of the formats is there: {looked}. Say which by --from')
    listed = '; '.join(f'--from {name}: {reason}' for name, reason in found.items())
    raise ValueError(f'{source}: several formats are there; choose one of {listed}')


def merge_names(export: Any, rules: Sequence[str]) -> None:
    """Rename classes; an old name that no box has is a ValueError."""
    new_of = {old: new for old, _, new in (rule.partition('=') for rule in rules)}
    boxes = [box for image in export.images for box in image.boxes]
    known = sorted({box.name for box in boxes})
    if unknown := [old for old in new_of if old not in known]:
        hints = list_items(coco_classes.suggest_name(old, known) for old in unknown)
        raise ValueError(
            f'--merge: no box has the class {hints}; there are {list_items(known, 50)}'
        )
    for box in boxes:
        box.name = new_of.get(box.name, box.name)
    export.classes = list(dict.fromkeys(new_of.get(name, name) for name in export.classes))


def choose_classes(
    given: Sequence[str] | None, export: Any, images: Sequence[Any], needed: bool
) -> list[str]:
    """Return the classes in the order of their ids.

    Raises:
        ValueError: a class is given twice; no box is left though boxes are needed.
    """
    found = sorted({box.name for image in images for box in image.boxes})
    if given:
        is_file = len(given) == 1 and Path(given[0]).expanduser().is_file()
        if len(given) == 1 and not is_file and given[0] not in found:
            given = [name.strip() for name in given[0].split(',')]
        classes = list(coco_classes.read_class_names(given[0] if is_file else given, '--classes'))
        for name in (name for name in classes if needed and name not in found):
            print(f'no box has the class {coco_classes.suggest_name(name, found)}')
    else:
        classes = list(dict.fromkeys([*export.classes, *found]))
    if needed and not set(classes) & set(found):
        only = f'of the classes {list_items(classes)}, only of {list_items(found, 20)}'
        raise ValueError(f'no box is left{f" {only}" if found else ""}: nothing is written')
    return classes


def assign_splits(args: argparse.Namespace, images: Sequence[Any], names: Sequence[str]) -> None:
    """Set the split of each image: of the export, of --split, or 'all'."""
    of_export = Counter(image.split for image in images)
    if not args.split:
        if of_export[''] and len(of_export) > 1:
            stray = [name for name, image in zip(names, images, strict=True) if not image.split]
            raise ValueError(
                f'{len(stray)} images are in none of the splits of the export: {list_items(stray)}.'
                ' Move them, or split all anew with --split'
            )
        for image in images:
            image.split = image.split or 'all'
        return
    if set(of_export) - {''}:
        counts = ', '.join(f'{split or "none"} {count}' for split, count in of_export.items())
        print(f'splits of the export are joined and split anew: {counts}')
    groups = splits.name_groups(names, args.group_by)
    copies = len(names) - len({splits.find_original(name) for name in names})
    if copies:
        print(f'{copies} images are copies that Roboflow made, and are where their original is')
    labels = [[box.name for box in image.boxes] for image in images]
    numbers = splits.split_groups(groups, labels, args.split, args.seed, args.stratify)
    print(f'{len(images)} images in {len(set(groups))} groups are split with seed {args.seed}')
    for image, number in zip(images, numbers, strict=True):
        image.split = splits.SPLIT_NAMES[number]


def write(
    args: argparse.Namespace,
    source: str,
    images: Sequence[Any],
    names: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Write the images, then the annotation files."""
    chosen = {image.split for image in images}
    files = {name: f'{name}.json' for name in (*splits.SPLIT_NAMES, 'all') if name in chosen}
    placed = list(dict(zip((i.path for i in images), names, strict=True)).items())
    coco_output.check_output(args.out, list(files.values()), placed)
    coco_output.place_images(args.out, placed, args.link)
    (args.out / 'annotations').mkdir(parents=True, exist_ok=True)
    for split, file in files.items():
        of_split = [
            (name, image.size_wh, image.boxes)
            for name, image in zip(names, images, strict=True)
            if image.split == split
        ]
        crowd = args.difficult == 'crowd'
        content = coco_output.make_coco(of_split, classes, int(args.one_based), crowd)
        info = {'description': f'{coco_output.DESCRIPTION}{source}'}
        coco_output.write_json(args.out / 'annotations' / file, {'info': info} | content)


def print_report(
    args: argparse.Namespace,
    export: Any,
    images: Sequence[Any],
    classes: Sequence[str],
    account: Any,
) -> None:
    """Print the table of the splits and the account of the boxes."""
    parts: dict[str, list[Any]] = {}
    for split in (*splits.SPLIT_NAMES, 'all'):
        if of_split := [image for image in images if image.split == split]:
            parts[split] = of_split
    boxes = [box for image in images for box in image.boxes]
    print(coco_output.make_table(parts, classes, bool(args.split)))
    print(account.describe(export.num_boxes, len(boxes)))
    made = ', '.join(f'{count} {kind}' for kind, count in export.converted.items() if count)
    if made:
        print(f'made boxes of other shapes: {made}')
    mark = 'iscrowd=1' if args.difficult == 'crowd' else 'ignore=1'
    notes = {
        f'boxes are difficult ({mark})': sum(box.ignore for box in boxes),
        'boxes are crowds (iscrowd=1)': sum(box.crowd for box in boxes),
        'images have no box': sum(not image.boxes for image in images),
        **account.notes,
    }
    for note, count in notes.items():
        if count:
            print(f'{count} {note}')
    shift = '1 is subtracted from the corners' if args.one_based else 'as they stand in the files'
    print(f'coordinates: {"relative to the image size" if export.relative else shift}')
    files = ', '.join(f'annotations/{split}.json' for split in parts)
    print(f"written: data_root='{args.out}', ann_file {files}, data_prefix.img='images/'")


def _read_shares(text: str) -> list[float]:
    try:
        return splits.read_shares(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == '__main__':
    run(main)
