"""Writes the boxes of COCO files as YOLO labels and as a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import yaml
from coco_edit import CocoFile, list_images
from coco_output import Account, find_box_fault, place_images
from export_records import Image, find_split, show_progress
from image_finder import image_file, read_size
from splits import SPLIT_NAMES

from ghmdet.coco.classes import find_classes
from ghmdet.datasets.file_names import find_elsewhere_names
from ghmdet.files import explain_look_alike, fold_name, replacing, write_table
from ghmdet.messages import list_items

_CSV_HEADER = ['filename', 'width', 'height', 'class', 'xmin', 'ymin', 'xmax', 'ymax']
_MOVED = 1e-3  # pixels; less is rounding


def write_yolo(files: Sequence[CocoFile], out: Path, images_folder: Path | None) -> None:
    """Write labels, lists of images and data.yaml; link the images of a folder to out/images.

    Boxes are clipped to their image. An image without a box gets an empty file.

    Raises:
        FileExistsError: there are labels in `out` already.
        FileNotFoundError: an image is not in `images_folder`.
        ValueError: a file name leads out of it, or two images would share a label file.
    """
    splits: dict[str, list[Image]] = {}
    classes: dict[str, int] = {}
    for file in files:
        of_file = list_images(file.records)
        splits.setdefault(find_split(Path(file.path.stem)) or 'train', []).extend(of_file)
        for name in find_classes(file.records).classes:
            classes.setdefault(name, len(classes))
    images = [image for of_split in splits.values() for image in of_split]
    _check_names([image.path.as_posix() for image in images])
    labels = [_label_path(image) for image in images]
    _check_labels(images, labels)
    lists = {split: f'{split}.txt' for split in SPLIT_NAMES if split in splits}
    _check_free(out, [*labels, *lists.values(), 'data.yaml'])
    placed = [] if images_folder is None else _find_files(images, images_folder, out)
    _compare_sizes(images, [path for path, _ in placed])
    place_images(out, placed, link=True)
    account, num_boxes = Account(), sum(len(image.boxes) for image in images)
    select_boxes(images, account)
    for image, label in show_progress(list(zip(images, labels, strict=True)), 'label files'):
        (out / label).parent.mkdir(parents=True, exist_ok=True)
        lines = _make_lines(image, classes, account)
        with replacing(out / label, flush=False) as draft:
            draft.write_text(''.join(lines))
    for split, name in lists.items():
        text = ''.join(f'./images/{_below_images(image)}\n' for image in splits[split])
        with replacing(out / name) as draft:
            draft.write_text(text, encoding='utf-8')
    names = dict(enumerate(classes))
    with replacing(out / 'data.yaml') as draft:  # last: without it the folder is not complete
        content = yaml.safe_dump({**lists, 'names': names}, sort_keys=False, allow_unicode=True)
        draft.write_text(content, encoding='utf-8')
    written = sum(len(image.boxes) for image in images)
    print(account.describe(num_boxes, written))
    for note, count in account.notes.items():
        print(f'{count} {note}')
    parts = ', '.join(f'{split} {len(splits[split])} images' for split in lists)
    print(f'written: {out / "data.yaml"} ({parts}; {len(classes)} classes)')
    missing = sum(not (out / 'images' / _below_images(image)).exists() for image in images)
    if missing:
        print(f'{missing} images are not yet in {out / "images"}: copy the image folder there')
    for split in ('train', 'val'):
        if split not in lists:
            print(f'data.yaml has no {split}, which YOLO programs need: give {split}.json as well')


def write_csv(file: CocoFile, out: Path) -> None:
    """Write a row for each box, in pixels as they stand; images without a box have none.

    Raises:
        FileExistsError: the table is there already.
    """
    if out.exists():
        raise FileExistsError(f'--out {out} exists; give another name, or remove it')
    images, account = list_images(file.records), Account()
    num_boxes = sum(len(image.boxes) for image in images)
    select_boxes(images, account)
    rows = [
        [image.path.as_posix(), *map(_format, image.size_wh or ()), box.name]
        + [_format(value) for value in box.corners]
        for image in images
        for box in image.boxes
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_table(out, [_CSV_HEADER, *rows])
    written = sum(bool(image.boxes) for image in images)
    without = Account(Counter({'without a box to write': len(images) - written}))
    print(without.describe(len(images), written, 'images'))
    print(account.describe(num_boxes, len(rows)))
    print(f'written: {out}')


def select_boxes(images: Iterable[Image], account: Account) -> None:
    """Leave out crowds, ignored boxes and those that cannot be used, and count them."""
    faults = []
    for image in images:
        kept = []
        for box in image.boxes:
            fault, _ = find_box_fault(box, image.size_wh or (0, 0), 0)
            reason = 'with iscrowd' if box.crowd else 'with ignore' if box.ignore else fault
            if reason and reason == fault:
                reason = 'outside of the image' if fault.startswith('outside') else fault
                faults.append(f'{box.place} ({image.path}) is {fault}')
            if reason:
                account.left_out[reason] += 1
            else:
                kept.append(box)
        image.boxes = kept
    if faults:
        print(f'{len(faults)} boxes cannot be used: {list_items(faults)}')


def _make_lines(image: Image, classes: dict[str, int], account: Account) -> list[str]:
    """Return class, center and size of each box relative to the image, as lines of YOLO."""
    lines = []
    width, height = image.size_wh or (0, 0)
    for box in image.boxes:
        sides = (width, height, width, height)
        clipped = [min(max(v, 0), s) for v, s in zip(box.corners, sides, strict=True)]
        moved = [abs(a - b) > _MOVED for a, b in zip(clipped, box.corners, strict=True)]
        if any(moved):
            account.notes['boxes reached beyond their image and are clipped'] += 1
        x1, y1, x2, y2 = (v / s for v, s in zip(clipped, sides, strict=True))
        numbers = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        lines.append(' '.join([str(classes[box.name]), *(f'{n:.8f}' for n in numbers)]) + '\n')
    return lines


def _below_images(image: Image) -> str:
    return image.path.as_posix().removeprefix('images/')


def _label_path(image: Image) -> str:
    """Return where YOLO programs look for the labels: the last `images` becomes `labels`."""
    path = '/labels/'.join(f'/images/{_below_images(image)}'.rsplit('/images/', 1))
    return PurePosixPath(path.removeprefix('/')).with_suffix('.txt').as_posix()


def _check_names(names: Sequence[str]) -> None:
    paths = {name: PurePosixPath(name) for name in names}
    outside = [name for name, path in paths.items() if path.is_absolute() or '..' in path.parts]
    if outside := outside or find_elsewhere_names(names, 'images'):
        raise ValueError(
            f'{len(outside)} file names lead out of the image folder: {list_items(outside, 3)}. '
            'Write file names relative to this folder into the COCO file'
        )


def _check_labels(images: Sequence[Image], labels: Sequence[str]) -> None:
    first: dict[str, Image] = {}
    shared = []
    for image, label in zip(images, labels, strict=True):
        if (other := first.setdefault(fold_name(label), image)) is not image:
            shared.append(f'{other.path} and {image.path}')
    if shared:
        raise ValueError(
            f'{len(shared)} images would have the label file of another: {list_items(shared, 3)}. '
            'YOLO finds labels by the name without ending. An image must be in one FILE only; '
            'rename images that differ only in ending or case'
        )


def _check_free(out: Path, names: Iterable[str]) -> None:
    there = [name for name in names if (out / name).exists()]
    there += sorted(path.name for path in (out / 'labels').glob('*'))
    if there:
        raise FileExistsError(
            f'--out {out} has files that would be overwritten or mixed with these: '
            f'{list_items(dict.fromkeys(there), 3)}. Give another folder, or remove them'
        )


def _find_files(images: Sequence[Image], folder: Path, out: Path) -> list[tuple[Path, str]]:
    """Return the files of the images, and their names below out/images."""
    placed = [(folder / image.path, _below_images(image)) for image in images]
    if missing := [path for path, _ in placed if not path.is_file()]:
        near = explain_look_alike(missing[0])
        raise FileNotFoundError(
            f'--images: {len(missing)} of {len(placed)} images are missing: '
            f'{list_items(missing, 3)}{near}. It must be the folder that the file names start from'
        )
    taken = [out / 'images' / name for path, name in placed]
    taken = [t for t, (p, _) in zip(taken, placed, strict=True) if t.exists() and not t.samefile(p)]
    if taken:
        raise FileExistsError(
            f'{len(taken)} other images are in --out: {list_items(taken, 3)}. Give another folder'
        )
    return placed


def _compare_sizes(images: Sequence[Image], paths: Sequence[Path]) -> None:
    """Print the images whose size is not that of the COCO file; `paths` may be empty."""
    differ = []
    for image, path in show_progress(list(zip(images, paths, strict=False)), 'images'):
        try:
            size = read_size(path)
        except image_file.ImageError as error:
            differ.append(str(error))
            continue
        if size != image.size_wh:
            differ.append(
                f'{path} is {size[0]}x{size[1]}, not {"x".join(map(str, image.size_wh or ()))}'
            )
    if differ:
        print(
            f'{len(differ)} images are not of the size in the COCO file, to which the labels are '
            f'relative: {list_items(differ, 3)}'
        )


def _format(value: float) -> str:
    """Return up to 6 decimals."""
    return f'{value:.6f}'.rstrip('0').rstrip('.') if math.isfinite(value) else str(value)
