"""The ground truth of a COCO annotation file, numbered as COCOeval needs it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Hashable, Sequence

from mmengine.fileio import get

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
        content = _read_json(ann_file, backend_args)
        images = self._read_list(content, 'images')
        categories = self._read_list(content, 'categories')
        annotations = self._read_list(content, 'annotations') if annotated else []
        # In the order COCOeval would sort them, which decides between equal scores.
        ids = sorted({image['id'] for image in images}, key=lambda id_: (str(type(id_)), id_))
        self.image_index: dict[Hashable, int] = {id_: index for index, id_ in enumerate(ids)}
        self._categories = [(category['name'], category['id']) for category in categories]
        # Without masks: those are most of the file, and would stay in memory for all of training.
        self._boxes = [self._read_box(i, box) for i, box in enumerate(annotations)]

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
        labels = {id_: label for label, id_ in enumerate(category_ids)}
        return [
            {**box, 'id': i, 'category_id': labels[box['category_id']]}
            for i, box in enumerate(self._boxes, 1)
            if box['category_id'] in labels and box['image_id'] is not None
        ]

    def _read_box(self, i: int, annotation: dict) -> dict:
        """Return the `i`-th annotation with image index; area and iscrowd filled in if missing."""
        bbox = annotation['bbox']
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise ValueError(
                f'CocoMetric: annotations[{i}] of {self.ann_file!r} must have a bbox '
                f'[x, y, w, h], got {bbox!r}'
            )
        return {
            'image_id': self.image_index.get(annotation['image_id']),
            'category_id': annotation['category_id'],
            'bbox': bbox,
            'area': annotation.get('area', bbox[2] * bbox[3]),
            'iscrowd': int(annotation.get('iscrowd', 0)),
        }

    def _read_list(self, content: object, key: str) -> list[dict]:
        """Return the list `key` of the file, whose items have the keys they need."""
        items = content.get(key) if isinstance(content, dict) else None
        if not isinstance(items, list):
            raise ValueError(
                f'CocoMetric: ann_file {self.ann_file!r} must be a JSON object with a list {key!r}'
            )
        for i, item in enumerate(items):
            if not _REQUIRED[key] <= item.keys():
                raise ValueError(
                    f'CocoMetric: {key}[{i}] of {self.ann_file!r} lacks '
                    f'{sorted(_REQUIRED[key] - item.keys())}'
                )
        return items


def _read_json(ann_file: str | None, backend_args: dict | None) -> object:
    """Return the content of the annotation file."""
    if ann_file is None:
        raise ValueError(
            'CocoMetric: ann_file is needed; set val_evaluator.ann_file (test_evaluator.ann_file) '
            "to the dataset's annotation file"
        )
    try:
        return json.loads(get(ann_file, backend_args=backend_args))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'CocoMetric: ann_file {ann_file!r} does not exist; correct val_evaluator.ann_file '
            '(test_evaluator.ann_file), which is not joined with data_root'
        ) from error
    except ValueError as error:
        raise ValueError(f'CocoMetric: ann_file {ann_file!r} is not JSON: {error}') from error
