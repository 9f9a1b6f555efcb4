"""Checks what was read from an export, and writes it as COCO files."""

from __future__ import annotations

import filecmp
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from export_records import Box, Export, Image, show_progress
from image_finder import image_file

from ghmdet.files import replacing
from ghmdet.messages import list_items

DESCRIPTION = 'by to_coco.py from '


@dataclass
class Account:
    """What became of the boxes that are in the files."""

    left_out: Counter[str] = field(default_factory=Counter)
    """How many boxes are not written, by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """What else there is to count."""

    def describe(self, in_files: int, written: int, what: str = 'boxes') -> str:
        """Return the sum in one line.

        Raises:
            RuntimeError: it does not add up, an error of the program.
        """
        lost = self.left_out.total()
        reasons = ', '.join(f'{count} {reason}' for reason, count in self.left_out.items() if count)
        line = f'{what}: {in_files} in the files = {written} written + {lost} left out'
        line += f' ({reasons})' if reasons else ''
        if in_files != written + lost:
            raise RuntimeError(f'internal error, please report it: the sum is wrong: {line}')
        return line


def drop_repeated(export: Export, account: Account, keep_splits: bool) -> list[Image]:
    """Return the images without those that are listed again, with or without other boxes.

    With `keep_splits` an image may be in several splits, which is counted.
    """
    kept: dict[tuple[Path, str], Image] = {}
    splits_of: dict[Path, set[str]] = {}
    for image in export.images:
        splits_of.setdefault(image.path, set()).add(image.split)
        key = image.path, image.split if keep_splits else ''
        first = kept.setdefault(key, image)
        if first is image:
            continue
        if _content(first) == _content(image):
            account.left_out['of images that are listed twice'] += len(image.boxes)
        else:
            reason = 'of images that are listed twice with other boxes'
            account.left_out[reason] += len(image.boxes)
            problem = f'is listed twice, with {len(first.boxes)} and {len(image.boxes)} boxes that '
            problem += 'differ; the first are used'
            export.report(str(image.path), problem, 'boxes', max(1, len(image.boxes)))
    count = sum(len(splits) > 1 for splits in splits_of.values())
    account.notes['images are in several splits of the export'] += count
    return list(kept.values())


def check_images(
    images: Sequence[Image], export: Export, account: Account, offset: int
) -> list[Image]:
    """Return the images that can be read, with their sizes and the boxes that can be used.

    `offset` is what is subtracted from the corners.
    """
    kept = []
    for image in show_progress(images, 'images'):
        try:
            stored_wh, size_wh = image_file.read_image_sizes(image.path)
        except image_file.ImageError as error:
            export.report(
                str(image.path), str(error).removeprefix(f'image {image.path} '), 'images'
            )
            export.lost['boxes'] += len(image.boxes)
            account.left_out['of images that cannot be read'] += len(image.boxes)
            continue
        if image.size_wh == stored_wh != size_wh:  # the boxes are those of the image before EXIF
            size_wh = stored_wh
            account.notes[
                'images have boxes drawn without their EXIF orientation, and the size as stored: '
                "set color_type='color_ignore_orientation' of LoadImageFromFile"
            ] += 1
        elif image.size_wh not in (None, size_wh):
            problem = f'size is {image.size_wh} in the export, but the image has {size_wh}'
            export.report(str(image.path), problem)
            account.notes['images have another size than the export says; the image counts'] += 1
        boxes = []
        for number, box in enumerate(image.boxes, start=1):
            fault, is_beyond = find_box_fault(box, size_wh, offset)
            account.notes['boxes reach beyond the image, and are kept as they stand'] += is_beyond
            if fault:
                place = box.place or f'{image.path}: box {number}'
                corners = ', '.join(f'{value:g}' for value in box.corners)
                problem = f'{box.name}: box is {fault}: {corners}; {size_wh[0]}x{size_wh[1]} pixels'
                export.report(place, problem, 'boxes')
                account.left_out[fault] += 1
            else:
                boxes.append(box)
        kept.append(Image(image.path, size_wh, boxes, image.split))
    return kept


def find_box_fault(box: Box, size_wh: tuple[int, int], offset: int) -> tuple[str, bool]:
    """Return why a box cannot be used, '' if it can, and whether it reaches beyond the image."""
    x1, y1, x2, y2 = box.corners
    # The area too: it is written.
    if not math.isfinite((x2 - x1) * (y2 - y1)) or not math.isfinite(x1 + y1):
        return 'not finite', False
    if x2 <= x1 or y2 <= y1:
        return 'degenerate', False
    width, height = size_wh
    x1, y1, x2, y2 = (value - offset for value in box.corners)
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return 'outside of the image', False
    return '', x1 < -0.5 or y1 < -0.5 or x2 > width + 0.5 or y2 > height + 0.5


def name_images(images: Sequence[Image]) -> tuple[str, list[str]]:
    """Return the folder that the images have in common, and their paths relative to it."""
    common = os.path.commonpath([image.path.parent for image in images])
    return common, [image.path.relative_to(common).as_posix() for image in images]


def make_coco(
    images: Iterable[tuple[str, tuple[int, int], Sequence[Box]]],
    classes: Sequence[str],
    offset: int,
    crowd: bool = False,
) -> dict:
    """Number images, boxes of the classes, and classes from 1.

    Args:
        images: file name, (width, height) and boxes of each.
        classes: names in the order of the ids.
        offset: subtracted from x and y; 1 if the export counts pixels from 1.
        crowd: write difficult boxes with iscrowd=1, as MMDetection does, in place of ignore=1.
    """
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    entries: list[dict] = []
    annotations: list[dict] = []
    for image_id, (file_name, (width, height), boxes) in enumerate(images, start=1):
        entries.append({'id': image_id, 'file_name': file_name, 'width': width, 'height': height})
        for box in boxes:
            if box.name in category_ids:
                x1, y1, x2, y2 = box.corners
                annotation = {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': category_ids[box.name],
                    'bbox': [x1 - offset, y1 - offset, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': int(box.crowd or (box.ignore and crowd)),
                }
                if box.ignore and not crowd:
                    annotation |= {'ignore': 1, 'difficult': 1}
                annotations.append(annotation)
    categories = [{'id': number, 'name': name} for name, number in category_ids.items()]
    return {'images': entries, 'annotations': annotations, 'categories': categories}


def write_json(path: Path, content: dict) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, allow_nan=False))


def check_output(out: Path, files: Sequence[str], images: Sequence[tuple[Path, str]]) -> None:
    """Refuse to overwrite what this tool did not write, and to mix two conversions.

    Raises:
        FileExistsError: in `out` is another annotation file, or another image of one of the names.
    """
    others = []
    for path in sorted((out / 'annotations').glob('*.json')):
        with path.open('rb') as stream:
            is_ours = DESCRIPTION.encode() in stream.read(200)
        if path.name not in files or not is_ours:
            others.append(path)
    for path, name in images:
        target = out / 'images' / name
        if target.exists() and not (target.samefile(path) or filecmp.cmp(path, target)):
            others.append(target)
    if others:
        raise FileExistsError(
            f'{len(others)} files in --out {out} are of something else and would be overwritten or '
            f'mixed with this: {list_items(others, 3)}. Give another folder, or remove them'
        )


def place_images(out: Path, images: Sequence[tuple[Path, str]], link: bool) -> None:
    """Copy or link the images to out/images."""
    for path, name in show_progress(images, 'links' if link else 'copies'):
        target = out / 'images' / name
        if target.exists() and not target.is_symlink() and (not link or target.samefile(path)):
            continue  # equal, see `check_output`
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, flush=False) as draft:
            if link:
                draft.symlink_to(path.resolve())
            else:
                shutil.copy2(path, draft)


def describe_lost(lost: Mapping[str, int]) -> str:
    """Return the error for images and boxes that are left out, '' if there are none."""
    counts = ' and '.join(f'{count} {what}' for what, count in lost.items() if count)
    text = (
        f'{counts} were left out, as listed above; correct them, or accept this with '
        '--allow-skipped'
    )
    return text if counts else ''


def make_table(parts: dict[str, list[Image]], classes: Sequence[str], shares: bool) -> str:
    """Return images and boxes of each class in each split; `shares` adds per cent of the row."""
    boxes = {name: Counter(b.name for i in part for b in i.boxes) for name, part in parts.items()}
    counts = {'images': [len(part) for part in parts.values()]}
    counts |= {f'boxes of {name}': [c[name] for c in boxes.values()] for name in classes}
    counts['all boxes'] = [c.total() for c in boxes.values()]
    rows = [['', *parts, *(['all'] if len(parts) > 1 else [])]]
    for title, numbers in counts.items():
        total = sum(numbers)
        texts = [f'{n} ({n / total:.0%})' if shares and total else str(n) for n in numbers]
        rows.append([title, *texts, *([str(total)] if len(parts) > 1 else [])])
    return align(rows)


def align(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as lines, with columns aligned, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return '\n'.join('  '.join(line).rstrip() for line in lines)


def _content(image: Image) -> list[tuple]:
    return sorted((box.name, box.corners) for box in image.boxes)
