"""Checks all entries and images of a dataset, without stopping at the first error."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ghmdet.checks.decode_images import DecodeResult, decode_images
from ghmdet.coco.box_filter import DEFECTS, BoxCheck, check_boxes
from ghmdet.coco.classes import find_classes, match_classes
from ghmdet.coco.faults import Faults, find_outside_names, find_type_faults
from ghmdet.coco.reader import find_record_faults, load_json, read_coco
from ghmdet.coco.records import CocoRecords, convert_records
from ghmdet.datasets.coco import CocoDataset
from ghmdet.datasets.coco_images import CocoImages
from ghmdet.datasets.file_names import find_elsewhere_names
from ghmdet.datasets.transforms import LoadImageFromFile

_KEPT = 1000  # texts per kind of finding
_SIDES = (0, 8, 16, 32, 64, 96, 128, 256, 512)


class Picture(NamedTuple):
    """An image and the boxes (x, y, w, h in pixels of it) to draw in it."""

    path: str
    size_wh: tuple[float, float]
    boxes: list[list[float]]
    caption: str


@dataclass
class Finding:
    """All errors or warnings of one kind: how many, texts of the first, and pictures of some."""

    kind: str
    is_error: bool
    count: int = 0
    texts: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass
class DatasetAudit:
    """The result of `check_dataset`."""

    name: str
    ann_file: str
    max_pictures: int = 6  # per finding
    image_loader: LoadImageFromFile = field(default_factory=LoadImageFromFile)  # of pictures
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Tables: title -> rows of (name, count).
    statistics: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    # Those in use: digest of the content, or real path -> name and path.
    images: dict[str | bytes, tuple[str, str]] = field(default_factory=dict)
    unchecked: int = 0  # images

    def add(
        self, kind: str, texts: Sequence[str], count: int = 0, is_error: bool = True
    ) -> Finding:
        """Return a finding, which is added if there are texts."""
        finding = Finding(kind, is_error, count or len(texts), list(texts[:_KEPT]))
        if texts:
            self.findings.append(finding)
        return finding

    @property
    def num_errors(self) -> int:
        """How many errors there are, which would stop a training."""
        return sum(finding.count for finding in self.findings if finding.is_error)


def check_dataset(
    dataset: CocoDataset,
    name: str,
    *,
    entries: tuple[CocoRecords, Faults] | None = None,
    decode: bool = True,
    pipeline: bool = False,
    workers: int = 1,
    max_pictures: int = 6,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> DatasetAudit:
    """Check each entry of a dataset's annotation file, and decode all its images.

    The dataset is made with `lazy_init=True`, so that it has read nothing yet; `entries` are those
    of `read_valid_entries`, if it was called before. With `pipeline` the pipeline is run on the
    images that the dataset uses, not only its decoder. `max_pictures` is for each kind of box
    error; `progress` is called with the numbers of images that are done and of all.
    """
    audit = DatasetAudit(name, dataset.ann_file, max_pictures, dataset.image_loader)
    arguments = dataset.ann_file, dataset.backend_args, not dataset.test_mode
    try:
        if type(dataset).read_records is not CocoDataset.read_records:  # of other files
            entries = dataset.read_records(), Faults()
        records, faults = entries or read_valid_entries(*arguments)
    except (OSError, ValueError) as error:
        audit.add('annotation file', [str(error)])
        return audit
    audit.add('entry of the annotation file', faults.texts, faults.count)
    labels = _find_labels(dataset, records, audit)
    boxes = check_boxes(records, labels, dataset.test_mode)
    if not audit.num_errors:
        try:
            dataset.full_init()
            audit.notes.append(dataset.summary)
        except (OSError, ValueError) as error:
            audit.add('dataset', [str(error)])
    dataset.fix_records(records)
    if pipeline and audit.num_errors:
        audit.notes.append('the pipeline was not run, only its decoder: correct the errors first')
    folder = dataset.data_prefix['img']
    _report_boxes(audit, boxes, records, folder)
    names = Counter(image.file_name for image in records.images)
    repeated = [f'{name!r} is the file of {n} images' for name, n in names.items() if n > 1]
    audit.add('file name', repeated, is_error=False)
    results: dict[int, DecodeResult] = {}
    if decode and dataset.is_local(folder):
        results = _run_images(audit, dataset, records, pipeline, workers, progress)
        _report_images(audit, results, boxes, records, folder)
    else:
        audit.unchecked = len(records.images)
        audit.notes.append(f'images were not checked: {"remote" if decode else "no folder"}')
    _find_copies(audit, dataset, records, results)
    audit.statistics = count_statistics(records, boxes, labels)
    return audit


def read_valid_entries(
    ann_file: str, backend_args: dict | None = None, need_annotations: bool = True
) -> tuple[CocoRecords, Faults]:
    """Read a COCO file without its broken entries, and return what is wrong with these.

    Raises an OSError or ValueError if it cannot be read, or is no COCO file.
    """
    try:
        return read_coco(ann_file, backend_args, need_annotations=need_annotations), Faults()
    except ValueError as error:
        reason = error
    data = load_json(ann_file, backend_args)
    if not isinstance(data, dict):
        raise reason
    faults, found = Faults(limit=_KEPT), Faults(limit=_KEPT)
    for section in ('images', 'annotations', 'categories'):
        entries = data.get(section)
        find_type_faults(faults, section, entries if isinstance(entries, list) else ())
    faults.add_lines(ann_file)
    data = _remove(data, faults)
    records = convert_records(data, ann_file)
    find_record_faults(found, records)
    faults.texts += found.texts
    faults.count += found.count
    if not faults.count:  # a whole list is missing
        raise reason
    while found.count:  # without an image, its annotations are broken too
        data = _remove(data, found)
        records, found = convert_records(data, ann_file), Faults()
        find_record_faults(found, records)
    return records, faults


def _remove(data: Any, faults: Faults) -> Any:
    return data | {
        section: [entry for index, entry in enumerate(data[section]) if index not in broken]
        for section, broken in faults.indices.items()
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
        'boxes per image': _bin(per_image, [0, 1, 2, 6, 11, 21, 51, 101]),
        'boxes by side (square root of the area in pixels)': _bin(sides, _SIDES),
        'images by width x height (most frequent)': sizes.most_common(10),
    }


def _bin(values: np.ndarray, edges: Sequence[int]) -> list[tuple[str, int]]:
    counts = np.histogram(values, [*edges, np.inf])[0].tolist()
    whole = values.dtype.kind == 'i'
    spans = [(low, high - whole) for low, high in pairwise(edges)]
    names = [str(low) if low == high else f'{low} to {high}' for low, high in spans]
    return list(zip([*names, f'{edges[-1]} and more'], counts, strict=True))


def _find_labels(dataset: CocoDataset, records: CocoRecords, audit: DatasetAudit) -> dict[Any, int]:
    if not records.categories:
        return {}
    found, classes = find_classes(records), dataset.metainfo['classes']
    alike: dict[str, list[str]] = {}
    for name in found.categories:
        alike.setdefault(''.join(name.split()).casefold(), []).append(name)
    texts = [f'{names} differ only in case or spaces' for names in alike.values() if names[1:]]
    audit.add('class name', texts, is_error=False)
    audit.notes += found.notes + [text for name, text in found.roots.items() if name not in classes]
    try:
        annotated = records.annotations.category_ids
        ids = match_classes(classes, records.categories, dataset.ann_file, annotated)
    except ValueError as error:
        audit.add('classes', [str(error)])
        ids = [category.id for category in records.categories]
    return {id_: label for label, id_ in enumerate(ids)}


def _find_copies(
    audit: DatasetAudit,
    dataset: CocoDataset,
    records: CocoRecords,
    results: dict[int, DecodeResult],
) -> None:
    """List the images in use in `audit.images`, and report those equal to an earlier one."""
    data, texts = dataset.data_list, []
    used = set(data.fields['img_id'].tolist()) if isinstance(data, CocoImages) else None
    for index, image in enumerate(records.images):
        if used is not None and image.id not in used:
            continue
        path = _make_picture(records, dataset.data_prefix['img'], index).path
        key = results.get(index, DecodeResult()).digest or osp.realpath(path)
        name = f'image id {image.id!r} ({path})'
        first, first_path = audit.images.setdefault(key, (name, path))
        if path != first_path:  # else it is a repeated file name
            texts.append(f'{name} equals {first}')
    audit.add('image file equal to an earlier one', texts, is_error=False)


def _find_equal_boxes(boxes: BoxCheck) -> np.ndarray:
    """Return the indices of used boxes that equal another one of their class and image: (n, 2)."""
    keys = np.column_stack([boxes.owner, boxes.label, boxes.annotations.bbox])
    order = boxes.used[np.lexsort(keys[boxes.used].T)]
    equal = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return np.stack([order[1:], order[:-1]], axis=1)[equal]


def _report_boxes(audit: DatasetAudit, boxes: BoxCheck, records: CocoRecords, folder: str) -> None:
    pairs, name = _find_equal_boxes(boxes), boxes.annotations.name
    texts = [f'{boxes.describe(i)} equals {name(other)}' for i, other in pairs[:_KEPT].tolist()]
    audit.add('box equal to another one of its class and image', texts, len(pairs), is_error=False)
    kinds = {}
    for reason in DEFECTS:
        use = 'skipped' if reason in boxes.dropped_for else 'used'
        kinds[f'box {use}, {reason}'] = boxes.indices_of(reason)
    kinds['box used, more than a pixel beyond the image'] = np.flatnonzero(boxes.beyond)
    for kind, indices in kinds.items():
        texts = [boxes.describe(index) for index in indices[:_KEPT].tolist()]
        finding = audit.add(kind, texts, len(indices), is_error=False)
        finding.pictures = [
            _make_picture(records, folder, boxes.owner[index], [index], text)
            for index, text in zip(indices[: audit.max_pictures].tolist(), texts, strict=False)
        ]


def _make_picture(
    records: CocoRecords, folder: str, owner: int, indices: Sequence[int] = (), caption: str = ''
) -> Picture:
    """An image, by its index in the file, and some of its boxes."""
    image = records.images[owner]
    path = f'{folder.rstrip("/")}/{image.file_name}' if folder else str(image.file_name)
    shown = [records.annotations.bbox[index].tolist() for index in indices]
    return Picture(path, (image.width or 1, image.height or 1), shown, caption)


def _run_images(
    audit: DatasetAudit,
    dataset: CocoDataset,
    records: CocoRecords,
    pipeline: bool,
    workers: int,
    progress: Callable[[int, int], object],
) -> dict[int, DecodeResult]:
    """Run the pipeline on the images that are used, its decoder on the others; by their index."""
    folder = dataset.data_prefix['img']
    names = [str(image.file_name) for image in records.images]
    outside = set() if dataset.allow_outside else set(find_outside_names(names, folder))
    audit.add('file name that leads out of the image folder', sorted(map(repr, outside)))
    outside |= set(find_elsewhere_names(names, folder))  # which full_init has reported
    infos, used = {}, {}
    for index, name in enumerate(names):
        if name not in outside:
            path, (width, height), *_ = _make_picture(records, folder, index)
            infos[index] = dict(img_path=path, width=width, height=height)
    if pipeline and not audit.num_errors:
        starts = {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
        ids = enumerate(image.id for image in records.images)
        used = {index: starts[id_] for index, id_ in ids if id_ in starts}
    rest = {index: info for index, info in infos.items() if index not in used}
    results: dict[int, DecodeResult] = {}
    for steps, part in ((dataset.pipeline.transforms, used), ([dataset.image_loader], rest)):
        for index, result in decode_images(steps, part, workers):
            results[index] = result
            progress(len(results), len(infos))
    return results


def _report_images(
    audit: DatasetAudit,
    results: Mapping[int, DecodeResult],
    boxes: BoxCheck,
    records: CocoRecords,
    folder: str,
) -> None:
    errors = {
        index: result.error
        if f'(id {records.images[index].id!r})' in result.error
        else f'{result.error} (image id {records.images[index].id!r})'
        for index, result in sorted(results.items())
        if result.error
    }
    finding = audit.add('image file', list(errors.values()))
    mismatched = [index for index, text in errors.items() if 'file says' in text]  # another size
    for index in mismatched[: audit.max_pictures]:
        of_image = boxes.used[boxes.owner[boxes.used] == index][:50].tolist()
        finding.pictures.append(_make_picture(records, folder, index, of_image, errors[index]))
    if rotated := sum(result.rotated for result in results.values()):
        audit.notes.append(
            f'{rotated:,} images are rotated by 90 degrees by their EXIF orientation (not if '
            'color_type of LoadImageFromFile ends in ignore_orientation); do their boxes fit?'
        )
