"""The ground truth of a COCO annotation file, numbered as COCOeval needs it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ghmdet.coco.box_filter import ONLY_TESTED, REASONS, check_boxes
from ghmdet.coco.classes import find_classes, match_classes
from ghmdet.coco.records import (
    AnnotationColumns,
    CategoryRecord,
    CocoRecords,
    ImageRecord,
    read_records,
)
from ghmdet.files import explain_look_alike

# The largest area that COCOeval counts as large.
MAX_AREA = 1e10


class CocoAnnotations:
    """Images, categories and boxes of one COCO file, or of the samples of a dataset.

    COCOeval takes annotation id 0 for "unmatched", drops one of two annotations with the same id,
    and needs integer image ids. So it gets numbers from here instead of the ids of the file.
    `source` says where the records come from, for messages.
    """

    def __init__(self, records: CocoRecords, source: str) -> None:
        self.source = source
        self.images = {image.id: image for image in records.images}
        self.has_categories = records.categorised
        self.categories = {category.id: category.name for category in records.categories}
        self._records = records

    @classmethod
    def from_file(
        cls, ann_file: str, backend_args: dict | None = None, annotated: bool = True
    ) -> CocoAnnotations:
        """Read a COCO file, in which annotations and categories may be absent unless `annotated`.

        Raises FileNotFoundError, and ValueError for what is not such a file.
        """
        try:
            records = read_records(ann_file, backend_args)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f'CocoMetric: ann_file {ann_file!r} does not exist{explain_look_alike(ann_file)}; '
                'correct val_evaluator.ann_file (test_evaluator.ann_file), which is not joined '
                'with data_root, or leave it out to use the file of the dataset'
            ) from error
        except ValueError as error:
            raise ValueError(f'CocoMetric: ann_file {error}') from error
        if annotated and not (records.annotated and records.categorised):
            absent = 'categories' if records.annotated else 'annotations'
            raise ValueError(
                f'CocoMetric: ann_file {ann_file!r} has no list {absent!r}, so there is nothing to '
                'compare detections with. To write detections only: tools/test.py --format-only, '
                'or format_only=True of the evaluator'
            )
        return cls(records, f'ann_file {ann_file!r}')

    @classmethod
    def from_samples(
        cls, samples: Mapping[Hashable, Mapping], classes: Sequence[str]
    ) -> CocoAnnotations:
        """Use the ground truth of samples, by the id of the image dicts with `truth`.

        That has `bboxes` (n, 4) x1, y1, x2, y2 in pixels of the original image, `labels` (n,),
        `crowds` bool (n,), `size_hw`. `classes` are names in the order of the labels.
        """
        truths, image_ids = [each['truth'] for each in samples.values()], list[Any](samples)
        none = {'bboxes': np.empty((0, 4)), 'labels': np.empty(0, int), 'crowds': np.empty(0, bool)}
        bboxes, labels, crowds = (
            np.concatenate([truth[key] for truth in (none, *truths)]) for key in none
        )
        bboxes[:, 2:] -= bboxes[:, :2]
        image = np.repeat(np.arange(len(truths)), [len(truth['labels']) for truth in truths])
        ids, areas = list[Any](category_numbers(classes)), np.full(len(labels), np.nan)
        annotations = AnnotationColumns(
            image_ids, ids, image, labels, bboxes, areas, crowds, np.zeros_like(crowds)
        )
        sizes_hw = (truth['size_hw'] for truth in truths)
        images = [ImageRecord(id_, None, *hw) for id_, hw in zip(image_ids, sizes_hw, strict=True)]
        categories = list(map(CategoryRecord, ids, classes))
        return cls(CocoRecords(images, categories, annotations, True), 'the samples')

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the file, see `FileClasses`."""
        return find_classes(self._records).classes

    def find_categories(self, classes: Sequence[str]) -> list[Hashable]:
        """Return the category id of each class: `category_numbers`, or as `match_classes`."""
        if not self.has_categories:
            return list(category_numbers(classes))
        categories, annotated = self._records.categories, self._records.annotations.category_ids
        return list(match_classes(classes, categories, f'CocoMetric: {self.source}', annotated))

    def ground_truth(
        self, category_ids: Sequence[Hashable], image_ids: Sequence[Hashable], count_all: bool
    ) -> tuple[list[dict], int, str]:
        """Return the annotations of these images, with the keys that COCOeval needs.

        `category_ids` are by label. Without `count_all` boxes that no detection can match are left
        out, see `check_boxes`, and COCOeval ignores those marked `ignore`.

        Returns:
            Dicts with `id` from 1, `image_id`, the index in `image_ids`, `category_id` = label,
            `bbox` x, y, w, h in pixels, `area`, `iscrowd`; the number of objects to find; and what
            does not count, for the log.
        """
        annotations = self._records.annotations
        label_of = {id_: i for i, id_ in enumerate(category_ids)}
        check = check_boxes(self._records, label_of, test_mode=True)
        image = annotations.find_images({id_: i for i, id_ in enumerate(image_ids)})
        dropped = REASONS[:1] if count_all else check.dropped_for
        kept = np.flatnonzero((image >= 0) & (check.reason >= len(dropped)))
        crowd, ignored = annotations.is_crowd[kept], annotations.is_ignored[kept]
        ignored = ignored & ~crowd & (not count_all)
        bbox, area = annotations.bbox[kept], annotations.area[kept]
        area = np.where(np.isnan(area), bbox[:, 2:].prod(axis=1), area)
        if not count_all:  # COCOeval ignores a box whose area is in no range
            area = np.where(ignored, -1, area.clip(0, MAX_AREA))
        keys = 'id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'
        columns = kept + 1, image[kept], check.label[kept], bbox, area, crowd.astype(int)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        flags = {'marked ignore': int(ignored.sum()), 'crowd regions': int(crowd.sum())}
        left_out = _count_reasons(check.reason[image >= 0], dropped)
        still = _count_reasons(check.reason[kept[~crowd & ~ignored]], ONLY_TESTED)
        others = len(self.images) - len(image_ids)
        counts = {
            'boxes not counted': left_out | flags,
            'images not measured': {'of the file that the dataset does not have': others},
            'counted, though training leaves them out': {} if count_all else still,
        }
        listed = {
            title: ', '.join(f'{n:,} {name}' for name, n in of_title.items() if n)
            for title, of_title in counts.items()
        }
        text = '; '.join(f'{title}: {names}' for title, names in listed.items() if names)
        entries = [dict(zip(keys, row, strict=True)) for row in rows]
        return entries, len(kept) - sum(flags.values()), text


def _count_reasons(reason: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    return {name: int((reason == REASONS.index(name)).sum()) for name in names}


def category_numbers(classes: Sequence[str]) -> range:
    """Return category ids for classes without a file of categories: from 1, in their order."""
    return range(1, len(classes) + 1)


def truth_of_sample(sample: Mapping, metric: str) -> dict[str, Any]:
    """Return the ground truth that a sample must have, see `CocoAnnotations.from_samples`."""
    columns: Sequence[Any]
    if 'instances' in sample:
        keys = ('bbox', 'bbox_label', 'ignore_flag')
        columns = [[each[key] for each in sample['instances']] for key in keys]
    elif 'bboxes' in sample.get('gt_instances', ()):
        parts = [sample[key] for key in ('gt_instances', 'ignored_instances') if key in sample]
        boxes = torch.cat([torch.as_tensor(part['bboxes']).reshape(-1, 4).cpu() for part in parts])
        labels = torch.cat([torch.as_tensor(part['labels']).cpu() for part in parts])
        columns = boxes, labels, torch.arange(len(labels)) >= len(parts[0]['labels'])
    else:
        raise ValueError(
            f'{metric}: no ground truth for image {sample["img_id"]!r}: without ann_file the '
            'samples must contain it. Set ann_file of a CocoMetric to a COCO file, or put '
            'LoadAnnotations after Resize into the pipeline of the dataset'
        )
    return {
        'bboxes': np.asarray(columns[0], np.float64).reshape(-1, 4),
        'labels': np.asarray(columns[1], np.int64),
        'crowds': np.asarray(columns[2], bool),
        'size_hw': (sample.get('ori_shape') or (None, None))[:2],
    }
