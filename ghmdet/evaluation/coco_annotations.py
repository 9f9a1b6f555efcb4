"""The ground truth of a COCO annotation file, numbered as COCOeval needs it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Sequence

import numpy as np
from mmengine import fileio

from ghmdet.datasets.coco_records import CocoRecords, convert_records, read_records

_REQUIRED = {
    'images': {'id'},
    'categories': {'id', 'name'},
    'annotations': {'image_id', 'category_id', 'bbox'},
}


class CocoAnnotations:
    """Images, categories and boxes of one COCO file.

    COCOeval reads annotation id 0 as "unmatched", keeps one of two annotations that share an id,
    and knows integer image ids only. So it never sees the ids of the file, but numbers given here.

    Args:
        ann_file: path or URL of the JSON; image ids of any JSON type, category ids in any order.
        backend_args: how to read it, see `mmengine.fileio.get`.
        annotated: False where no annotation is needed; then they may be absent and are not read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `ann_file` is None, is not JSON, or lacks a key; the message says which.

    Example:
        >>> import tempfile
        >>> content = dict(images=[dict(id='b'), dict(id='a')], categories=[dict(id=9, name='cat')])
        >>> with tempfile.NamedTemporaryFile('w', suffix='.json') as file:
        ...     json.dump(content, file)
        ...     file.flush()
        ...     truth = CocoAnnotations(file.name, annotated=False)
        >>> truth.image_index, truth.find_category('cat')
        ({'a': 0, 'b': 1}, 9)
    """

    def __init__(
        self, ann_file: str | None, backend_args: dict | None = None, annotated: bool = True
    ) -> None:
        self.ann_file = ann_file
        records = _read(ann_file, backend_args, annotated)
        # In the order COCOeval would sort them, which decides between equal scores.
        ids = sorted({image.id for image in records.images}, key=lambda id_: (str(type(id_)), id_))
        self.image_index: dict[Hashable, int] = {id_: index for index, id_ in enumerate(ids)}
        self._categories = [(category.name, category.id) for category in records.categories]
        self._annotations = records.annotations

    def find_category(self, name: str) -> Hashable:
        """Return the category id of a class.

        Raises:
            ValueError: no category, or more than one, has that name.
        """
        ids = [id_ for category, id_ in self._categories if category == name]
        if len(ids) == 1:
            return ids[0]
        names = [category for category, _ in self._categories]
        nearest = difflib.get_close_matches(name, names, cutoff=0.4) or names[:10]
        problem = (
            f'is the name of the categories {ids}; names must be unique'
            if ids
            else f'is not among the categories; nearest: {", ".join(nearest)}; '
            'set `classes` of the metainfo to names in the file'
        )
        raise ValueError(f'CocoMetric: in ann_file {self.ann_file!r} the class {name!r} {problem}')

    def ground_truth(self, category_ids: Sequence[Hashable]) -> list[dict]:
        """Return new annotations of these categories, with what COCOeval reads and no more.

        Args:
            category_ids: the file's id of each label.

        Returns:
            Dicts with `id` from 1, `image_id` by `image_index`, `category_id` = label, `bbox` x, y,
            w, h in pixels, `area`, `iscrowd`; those of images not in the file are left out.
        """
        annotations = self._annotations
        images = annotations.find_images(self.image_index)
        labels = annotations.find_categories({id_: i for i, id_ in enumerate(category_ids)})
        areas = np.where(
            np.isnan(annotations.area), annotations.bbox[:, 2:].prod(axis=1), annotations.area
        )
        kept = np.flatnonzero((images >= 0) & (labels >= 0))
        columns = (kept + 1, images[kept], labels[kept], annotations.bbox[kept], areas[kept])
        crowds = annotations.is_crowd[kept].astype(int)
        return [
            {
                'id': id_,
                'image_id': image,
                'category_id': label,
                'bbox': bbox,
                'area': area,
                'iscrowd': crowd,
            }
            for id_, image, label, bbox, area, crowd in zip(
                *(column.tolist() for column in columns), crowds.tolist(), strict=True
            )
        ]


def _read(ann_file: str | None, backend_args: dict | None, annotated: bool) -> CocoRecords:
    """Read the file; one that is broken or unusual is looked at item by item."""
    if ann_file is None:
        raise ValueError(
            'CocoMetric: ann_file is needed; set val_evaluator.ann_file (test_evaluator.ann_file) '
            "to the dataset's annotation file"
        )
    try:
        records = read_records(ann_file, backend_args)
        if records is not None and (records.annotated or not annotated):
            return records
        content = json.loads(fileio.get(ann_file, backend_args=backend_args))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'CocoMetric: ann_file {ann_file!r} does not exist; correct val_evaluator.ann_file '
            '(test_evaluator.ann_file), which is not joined with data_root'
        ) from error
    except ValueError as error:
        raise ValueError(f'CocoMetric: ann_file {ann_file!r} is not JSON: {error}') from error
    sections = {
        key: _read_list(ann_file, content, key) if annotated or key != 'annotations' else []
        for key in _REQUIRED
    }
    for i, annotation in enumerate(sections['annotations']):
        bbox = annotation['bbox']
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise ValueError(
                f'CocoMetric: annotations[{i}] of {ann_file!r} must have a bbox '
                f'[x, y, w, h], got {bbox!r}'
            )
    # Names and sizes of the images are the data set's affair.
    sections['images'] = [{'id': image['id']} for image in sections['images']]
    return convert_records(sections, f'CocoMetric: ann_file {ann_file!r}')


def _read_list(ann_file: str, content: object, key: str) -> list[dict]:
    """Return the list `key` of the file, whose items have the keys they need."""
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise ValueError(
            f'CocoMetric: ann_file {ann_file!r} must be a JSON object with a list {key!r}'
        )
    for i, item in enumerate(items):
        absent = _REQUIRED[key] - (item.keys() if isinstance(item, dict) else set())
        if absent:
            raise ValueError(f'CocoMetric: {key}[{i}] of {ann_file!r} lacks {sorted(absent)}')
    return items
