"""The images of a dataset and their boxes as a few flat tensors; a dict is made for each access."""

from __future__ import annotations

import json
import os.path as osp
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from ghmdet.coco.box_filter import BoxCheck, check_boxes
from ghmdet.coco.records import CocoRecords


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


@dataclass(eq=False)
class ValueColumn:
    """A list of JSON values, stored without a Python object for each.

    Integers are stored as int64 (n,). If any value is no such integer, all are stored as the bytes
    of their JSON text, value i from `ends[i - 1]` to `ends[i]`.
    """

    values: Tensor
    ends: Tensor | None = None

    @classmethod
    def pack(cls, values: Iterable[Any]) -> ValueColumn:
        """Store `values`, which must be JSON values."""
        values = list(values)
        if not values or (
            set(map(type, values)) == {int} and -(2**63) <= min(values) <= max(values) < 2**63
        ):
            return cls(torch.tensor(values, dtype=torch.int64))
        # msgspec is fast, but writes NaN as null.
        encode = msgspec.json.encode if set(map(type, values)) == {str} else _encode
        texts = list(map(encode, values))
        ends = torch.tensor([len(text) for text in texts]).cumsum(0)
        return cls(torch.frombuffer(bytearray().join(texts), dtype=torch.uint8), ends)

    def __len__(self) -> int:
        return len(self.values if self.ends is None else self.ends)

    def __getitem__(self, index: int) -> Any:
        if self.ends is None:
            return self.values.numpy()[index].item()
        ends = self.ends.numpy()
        start = ends[index - 1] if index else 0
        return json.loads(self.values.numpy()[start : ends[index]].tobytes())

    def tolist(self) -> list:
        """Return all values."""
        return self.values.tolist() if self.ends is None else [self[i] for i in range(len(self))]

    def select(self, indices: Tensor) -> ValueColumn:
        """Return the values at `indices` int64 (m,), in that order."""
        if self.ends is None:
            return ValueColumn(self.values[indices])
        ends, rows = _gather_rows(self.ends, indices)
        return ValueColumn(self.values[rows], ends)


@dataclass(eq=False)
class CocoImages(Sequence):
    """A sequence of the dicts that `CocoDataset` describes, without `sample_idx`.

    Each dict is made when it is read. torch sends tensors to other processes in shared memory, so
    that data loader workers share these, however they are started.
    """

    folder: str  # put before each file name
    fields: dict[str, ValueColumn]  # `img_id`, `file_name`, `height` and `width` of N images
    # bool (N,), whether the file has an annotation of the classes for it, its box used or left out
    has_objects: Tensor
    ends: Tensor  # int64 (N,), the boxes of image i are `ends[i - 1]` to `ends[i]` of these:
    bboxes: Tensor  # float64 (n, 4) x1, y1, x2, y2 in pixels
    labels: Tensor  # int64 (n,)
    ignore_flags: Tensor  # uint8 (n,), 1 for crowd regions and boxes marked `ignore`

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        """Make the dict of one image, or select a range."""
        i = range(len(self))[index]
        if isinstance(i, range):
            return self.select(i)
        ends = self.ends.numpy()
        rows = slice(ends[i - 1] if i else 0, ends[i])
        arrays = (self.bboxes, self.labels, self.ignore_flags)
        columns = [array.numpy()[rows].tolist() for array in arrays]
        return {
            'img_id': self.fields['img_id'][i],
            'img_path': osp.join(self.folder, self.fields['file_name'][i]),
            'height': self.fields['height'][i],
            'width': self.fields['width'][i],
            'instances': [
                {'bbox': bbox, 'bbox_label': label, 'ignore_flag': flag}
                for bbox, label, flag in zip(*columns, strict=True)
            ],
        }

    def select(self, indices: Sequence[int] | np.ndarray) -> CocoImages:
        """Return a copy of the images at `indices`, in that order."""
        # Negative indices become positive, and one out of range raises an IndexError.
        selected = torch.arange(len(self))[torch.as_tensor(indices, dtype=torch.int64)]
        ends, rows = _gather_rows(self.ends, selected)
        fields = {name: column.select(selected) for name, column in self.fields.items()}
        boxes = self.bboxes[rows], self.labels[rows], self.ignore_flags[rows]
        return CocoImages(self.folder, fields, self.has_objects[selected], ends, *boxes)


def build_images(
    records: CocoRecords, label_of: Mapping[Any, int], folder: str, test_mode: bool
) -> tuple[CocoImages, BoxCheck]:
    """Sort the used boxes of a file by image.

    `label_of` has the label of each category id that is used; for `test_mode` see `check_boxes`.
    Returns the images in the order of the file, and why boxes were left out.
    """
    images, check = records.images, check_boxes(records, label_of, test_mode)
    sources = {'img_id': 'id', 'file_name': 'file_name', 'height': 'height', 'width': 'width'}
    fields = {key: ValueColumn.pack(map(attrgetter(name), images)) for key, name in sources.items()}
    # As in MMDetection, also if all boxes of an image are left out.
    has_objects = np.zeros(len(images), bool)
    has_objects[check.owner[check.label >= 0]] = True
    kept = check.used
    kept = kept[np.argsort(check.owner[kept], kind='stable')]
    bboxes = records.annotations.bbox[kept]
    bboxes[:, 2:] += bboxes[:, :2]
    ends = np.bincount(check.owner[kept], minlength=len(images)).cumsum()
    ignored = records.annotations.is_crowd[kept] | records.annotations.is_ignored[kept]
    arrays = (has_objects, ends, bboxes, check.label[kept], ignored.astype(np.uint8))
    return CocoImages(folder, fields, *map(torch.from_numpy, arrays)), check


def _gather_rows(ends: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the runs at `indices` after they are joined, and their rows before."""
    counts = torch.diff(ends, prepend=ends.new_zeros(1))[indices]
    new_ends = counts.cumsum(0)
    shifts = (ends[indices] - new_ends).repeat_interleave(counts)
    return new_ends, torch.arange(len(shifts)) + shifts
