"""Detections of one image, and what is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from io import StringIO
from typing import Any

import numpy as np
import torch

from ghmdet.argument_checks import check_range
from ghmdet.datasets.image_file import read_image
from ghmdet.inference.sources import check_channel_order, image_name, to_bgr
from ghmdet.messages import did_you_mean, list_items, nearest
from ghmdet.structures import DetDataSample, InstanceData
from ghmdet.visualization.drawing import DetLocalVisualizer


@dataclass(eq=False, repr=False)
class Detections:
    """The objects detected in one image, best first.

    Iteration yields (box, score, label, class name) of each object, and an integer index gives one
    such tuple; a mask, slice or array of indices gives the `Detections` of these objects.
    """

    boxes: np.ndarray  # float32 (n, 4) x1, y1, x2, y2 in pixels of the original image
    scores: np.ndarray  # float32 (n,) in [0, 1]
    labels: np.ndarray  # int64 (n,), indices in `classes`
    classes: tuple[str, ...]  # names of all classes of the model
    shape: tuple[int, int]  # (h, w) of the original image, EXIF applied if the pipeline does
    name: str  # of the image, see `SourceImage`
    path: str | None = None  # file or URL of the image or video; None for an array
    frame: int | None = None  # index of the frame in its video, from 0
    read: Callable[[str], np.ndarray] = read_image  # of files, as the model's pipeline reads them

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    @property
    def pred_instances(self) -> InstanceData:
        """Tensors `bboxes`, `scores` and `labels`, as in a sample of the model."""
        arrays = dict(bboxes=self.boxes, scores=self.scores, labels=self.labels)
        return InstanceData(**{name: torch.tensor(each.copy()) for name, each in arrays.items()})

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[np.ndarray, float, int, str]]:
        return zip(self.boxes, self.scores.tolist(), self.labels.tolist(), self.names, strict=True)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            return next(iter(self[[index]]))
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.int64)  # of []
        boxes, scores, labels = self.boxes[index], self.scores[index], self.labels[index]
        return replace(self, boxes=boxes, scores=scores, labels=labels)

    def __repr__(self) -> str:
        counts = [f'{count} {name}' for name, count in Counter(self.names).most_common()]
        height, width = self.shape
        return f'Detections({image_name(self)} {width}x{height}: {list_items(counts) or "none"})'

    def above(self, threshold: float | Mapping[str, float]) -> Detections:
        """Return the objects whose score is at least the threshold, which is in [0, 1].

        A dict has one per class name, and a class that it lacks is kept.

        Raises:
            ValueError: a threshold outside [0, 1], or a name that is no class.
        """
        if not isinstance(threshold, Mapping):
            threshold = dict.fromkeys(self.classes, threshold)
        for name, limit in threshold.items():
            if name not in self.classes:
                near = did_you_mean(nearest(str(name), self.classes))
                raise ValueError(f'there is no class {name!r}{near or f" among {self.classes}"}')
            check_range(f'the threshold of {name!r}', limit, 0, 1)
        limits = np.array([threshold.get(name, 0) for name in self.classes])
        # In float64, since float32 would round the threshold.
        return self[self.scores.astype(np.float64) >= limits[self.labels]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, which can be written as JSON."""
        about = {key: getattr(self, key) for key in ('name', 'path', 'frame', 'names')}
        arrays = {key: getattr(self, key).tolist() for key in ('boxes', 'scores', 'labels')}
        return {**about, 'shape': list(self.shape), **arrays}

    def to_coco(
        self, image_id: Hashable, category_ids: Sequence[Hashable] | None = None
    ) -> list[dict[str, Any]]:
        """Return COCO results: dicts with image_id, category_id, bbox x, y, w, h, and score.

        `category_ids` has one per class; by default they are 1, 2, ... in the order of `classes`.
        """
        ids = range(1, len(self.classes) + 1) if category_ids is None else category_ids
        if len(ids) != len(self.classes):
            raise ValueError(
                f'category_ids must have one id for each of the {len(self.classes)} classes, got '
                f'{len(ids)}'
            )
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        return [
            dict(image_id=image_id, category_id=ids[label], bbox=box, score=score)
            for label, box, score in rows
        ]

    def to_yolo(self, with_scores: bool = True) -> str:
        """Return one line per object: label, centre x and y, width, height, and score.

        Coordinates are relative to the image's size; 9 decimals keep 1e-4 pixels in any image.
        """
        x1, y1, x2, y2 = (self.boxes.astype(np.float64) / np.tile(self.shape[::-1], 2)).T
        columns = [self.labels, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, self.scores]
        count, text = 5 + with_scores, StringIO()
        np.savetxt(text, np.column_stack(columns[:count]), ['%d', *['%.9f'] * 4, '%.9g'][:count])
        return text.getvalue()

    def plot(self, image: Any = None, channel_order: str = 'bgr') -> np.ndarray:
        """Return the image uint8 (h, w, 3) with boxes, class names and scores drawn.

        `image` is uint8 (h, w, 3), not changed; None reads `path`. `channel_order`, 'bgr' or 'rgb',
        is that of it and of the result.

        Raises:
            ValueError: the image is missing or has another size.
            ImageError: the file cannot be read.
        """
        check_channel_order(channel_order)
        if image is not None:
            image = to_bgr(image, channel_order)
        elif self.path is None or self.frame is not None:
            raise ValueError(f'{image_name(self)} has no file of its own: use plot(image)')
        else:
            image = self.read(self.path)
        if image.shape[:2] != self.shape:
            raise ValueError(
                f'{image_name(self)} was {self.shape} (h, w) when it was detected in, but the '
                f'image to draw into is {image.shape[:2]}'
            )
        rgb = np.ascontiguousarray(image[..., ::-1])
        sample = DetDataSample()
        sample.pred_instances = self.pred_instances
        drawn = _visualizer(self.classes).add_datasample('', rgb, sample, pred_score_thr=-1)
        return drawn if channel_order == 'rgb' else np.ascontiguousarray(drawn[..., ::-1])


@lru_cache(4)
def _visualizer(classes: tuple[str, ...]) -> DetLocalVisualizer:
    visualizer = DetLocalVisualizer('detections')
    visualizer.dataset_meta = dict(classes=classes)
    return visualizer
