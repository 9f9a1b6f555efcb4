"""Checks a data set to the last entry and image, without stopping at what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ghmdet.checks.decode_images import ImageJob, decode_images
from ghmdet.coco.box_filter import DEFECTS, BoxCheck, check_boxes
from ghmdet.coco.classes import match_classes
from ghmdet.coco.faults import Faults, find_outside_names, find_type_faults
from ghmdet.coco.reader import find_record_faults, load_json, read_coco
from ghmdet.coco.records import CocoRecords, convert_records
from ghmdet.datasets.coco import CocoDataset

_KEPT = 1000  # texts of one kind
_SECTIONS = ('images', 'annotations', 'categories')


class Picture(NamedTuple):
    """An image and the boxes (x, y, w, h in pixels of it) to show in it."""

    path: str
    size_wh: tuple[float, float]
    boxes: list[list[float]]
    caption: str


@dataclass
class Finding:
    """All that was found of one kind: how many, the first in words, and pictures of some."""

    kind: str
    is_error: bool
    count: int = 0
    texts: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class SplitCheck:
    """What the check of one data set found.

    `statistics` are tables: title -> rows of (name, count). `bad_images` are the places of images
    that cannot be used, with the reason.
    """

    name: str
    ann_file: str
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    statistics: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    bad_images: dict[int, str] = field(default_factory=dict)

    def add(
        self, kind: str, texts: Sequence[str], count: int = 0, is_error: bool = True
    ) -> Finding:
        """Take in a finding, which is none if there are no texts."""
        finding = Finding(kind, is_error, count or len(texts), list(texts[:_KEPT]))
        if texts:
            self.findings.append(finding)
        return finding

    @property
    def num_errors(self) -> int:
        """Findings that stop a training, counted one by one."""
        return sum(finding.count for finding in self.findings if finding.is_error)


def check_dataset(
    dataset: CocoDataset,
    name: str,
    *,
    sound: tuple[CocoRecords, Faults] | None = None,
    decode: bool = True,
    workers: int = 1,
    max_pictures: int = 6,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SplitCheck:
    """Check the annotation file of a data set entry by entry, and decode all its images.

    Args:
        dataset: made with `lazy_init=True`, so that it has read nothing yet.
        name: what the report calls it.
        sound: what `read_valid_entries` made of its annotation file, where that was read before.
        decode: False leaves the images alone.
        workers: processes that decode images; 0 is this one.
        max_pictures: how many pictures of each kind of box are asked for.
        progress: called with the number of images done and that of all.
    """
    split = SplitCheck(name, dataset.ann_file)
    try:
        records, faults = sound or read_valid_entries(
            dataset.ann_file, dataset.backend_args, not dataset.test_mode
        )
    except (OSError, ValueError) as error:
        split.add('annotation file', [str(error)])
        return split
    split.add('entry of the annotation file', faults.texts, faults.count)
    labels = _find_labels(dataset, records, split)
    boxes = check_boxes(records, labels)
    if not split.num_errors:
        try:
            dataset.full_init()
            split.notes.append(dataset.summary)
        except (OSError, ValueError) as error:
            split.add('data set', [str(error)])
    folder = dataset.data_prefix['img']
    _report_boxes(split, boxes, records, folder, max_pictures)
    names = Counter(image.file_name for image in records.images)
    repeated = [f'{name!r} is the file of {n} images' for name, n in names.items() if n > 1]
    split.add('file name', repeated, is_error=False)
    if decode and dataset.is_local(folder):
        _check_images(split, dataset, records, workers, progress)
        _show_size_mismatches(split, records, boxes, folder, max_pictures)
    else:
        split.notes.append(f'images were not looked at: {"remote" if decode else "no folder"}')
    split.statistics = count_statistics(records, boxes, labels)
    return split


def read_valid_entries(
    ann_file: str, backend_args: dict | None = None, need_annotations: bool = True
) -> tuple[CocoRecords, Faults]:
    """Read a COCO file without its broken entries, which are returned too.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON or no COCO file.
    """
    try:
        records = read_coco(ann_file, backend_args, need_annotations=need_annotations)
        return records, Faults()
    except ValueError as error:
        reason = error
        data = load_json(ann_file, backend_args)
    faults = Faults(limit=_KEPT)
    for section in _SECTIONS:
        entries = data.get(section) if isinstance(data, dict) else None
        find_type_faults(faults, section, entries if isinstance(entries, list) else ())
    data = _leave_out(data, faults)
    records = convert_records(data, ann_file)
    found = Faults(limit=_KEPT)
    find_record_faults(found, records)
    if not (faults.count or found.count):  # a whole list is missing
        raise reason
    faults.texts += found.texts
    faults.count += found.count
    while found.count:  # without an image, its annotations are broken too
        data = _leave_out(data, found)
        records, found = convert_records(data, ann_file), Faults()
        find_record_faults(found, records)
    return records, faults


def _leave_out(data: Any, faults: Faults) -> Any:
    if not faults.count:
        return data
    return data | {
        section: [entry for index, entry in enumerate(data[section]) if index not in places]
        for section, places in faults.indices.items()
    }


def count_statistics(
    records: CocoRecords, boxes: BoxCheck, labels: Mapping[Any, int]
) -> dict[str, list[tuple[str, int]]]:
    """Count the used boxes by class, image and size (COCO's limits: sides of 32 and 96 pixels)."""
    used = boxes.used
    names = {category.id: category.name for category in records.categories}
    per_class = np.bincount(boxes.label[used], minlength=len(labels)).tolist()
    per_image = np.bincount(boxes.owner[used], minlength=len(records.images))
    sides = np.sqrt(records.annotations.bbox[used, 2:].prod(axis=1))
    sizes = Counter(f'{image.width}x{image.height}' for image in records.images)
    return {
        'boxes by class': [(str(names[id_]), per_class[label]) for id_, label in labels.items()],
        'boxes in an image': _bin(per_image, [0, 1, 2, 6, 11, 21, 51, 101]),
        'boxes by side (square root of the area in pixels)': _bin(
            sides, [0, 8, 16, 32, 64, 96, 128, 256, 512]
        ),
        'images by width x height (most frequent)': sizes.most_common(10),
    }


def _bin(values: np.ndarray, edges: Sequence[int]) -> list[tuple[str, int]]:
    counts = np.histogram(values, [*edges, np.inf])[0].tolist()
    whole = values.dtype.kind == 'i'
    spans = [(low, high - whole) for low, high in pairwise(edges)]
    names = [str(low) if low == high else f'{low} to {high}' for low, high in spans]
    return list(zip([*names, f'{edges[-1]} and more'], counts, strict=True))


def _find_labels(dataset: CocoDataset, records: CocoRecords, split: SplitCheck) -> dict[Any, int]:
    if not records.categories:
        return {}
    try:
        ids = match_classes(dataset.metainfo['classes'], records.categories, dataset.ann_file)
    except ValueError as error:
        split.add('classes', [str(error)])
        ids = [category.id for category in records.categories]
    return {id_: label for label, id_ in enumerate(ids)}


def _report_boxes(
    split: SplitCheck, boxes: BoxCheck, records: CocoRecords, folder: str, max_pictures: int
) -> None:
    kinds = {f'box left out, {reason}': boxes.indices_of(reason) for reason in DEFECTS}
    kinds['box used, reaching more than a pixel beyond the image'] = np.flatnonzero(boxes.beyond)
    for kind, places in kinds.items():
        texts = [boxes.describe(index) for index in places[:_KEPT].tolist()]
        finding = split.add(kind, texts, len(places), is_error=False)
        finding.pictures = [
            _picture(records, folder, boxes.owner[index], [index], text)
            for index, text in zip(places[:max_pictures].tolist(), texts, strict=False)
        ]


def _picture(
    records: CocoRecords, folder: str, owner: int, places: Sequence[int], caption: str
) -> Picture:
    image = records.images[owner]
    shown = [records.annotations.bbox[index].tolist() for index in places]
    path = f'{folder.rstrip("/")}/{image.file_name}' if folder else str(image.file_name)
    return Picture(path, (image.width or 1, image.height or 1), shown, caption)


def _check_images(
    split: SplitCheck,
    dataset: CocoDataset,
    records: CocoRecords,
    workers: int,
    progress: Callable[[int, int], object],
) -> None:
    folder = dataset.data_prefix['img']
    images = records.images
    names = [str(image.file_name) for image in images]
    outside = set() if dataset.allow_outside else set(find_outside_names(names, folder))
    split.add('file name that leads out of the image folder', sorted(map(repr, outside)))
    places = [index for index, name in enumerate(names) if name not in outside]
    pictures = [_picture(records, folder, index, [], '') for index in places]
    loader = dataset.image_loader
    jobs = [ImageJob(p.path, p.size_wh, loader.color_type, loader.max_pixels) for p in pictures]
    faults, turned = {}, 0
    for done, (index, verdict) in enumerate(decode_images(jobs, workers), start=1):
        turned += verdict.turned
        if verdict.fault:
            faults[places[index]] = f'{verdict.fault} (image id {images[places[index]].id!r})'
        progress(done, len(jobs))
    split.add('image file', [faults[place] for place in sorted(faults)])
    split.bad_images = faults
    if turned:
        split.notes.append(
            f'{turned:,} images are turned by a quarter by their EXIF orientation (not if '
            'color_type of LoadImageFromFile ends in ignore_orientation); do their boxes fit?'
        )


def _show_size_mismatches(
    split: SplitCheck, records: CocoRecords, boxes: BoxCheck, folder: str, max_pictures: int
) -> None:
    """Draw the boxes of images that can be decoded but have another size."""
    for finding in split.findings:
        if finding.kind == 'image file':
            misfits = [p for p, text in sorted(split.bad_images.items()) if 'file says' in text]
            finding.pictures = [
                _picture(
                    records,
                    folder,
                    place,
                    boxes.used[boxes.owner[boxes.used] == place][:50].tolist(),
                    split.bad_images[place],
                )
                for place in misfits[:max_pictures]
            ]
