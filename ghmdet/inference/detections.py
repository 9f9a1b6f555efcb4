"""Detections of one image, and what is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from ghmdet.argument_checks import check_range
from ghmdet.datasets.image_file import read_image
from ghmdet.inference.sources import check_channel_order, image_name, to_bgr
from ghmdet.messages import did_you_mean, list_items, nearest
from ghmdet.structures import DetDataSample, InstanceData
from ghmdet.visualization.drawing import DetLocalVisualizer


class Detection(NamedTuple):
    """One detected object."""

    box: np.ndarray
    """float32 (4,) x1, y1, x2, y2 in pixels of the original image."""
    score: float
    """In [0, 1]."""
    label: int
    """Index of the class."""
    name: str
    """Name of the class."""


@dataclass(eq=False, repr=False)
class Detections:
    """The objects detected in one image, best first.

    `len`, iteration and an integer index are by object and give a `Detection`; a mask, slice or
    array of indices gives the `Detections` of these objects.
    """

    boxes: np.ndarray
    """float32 (n, 4) x1, y1, x2, y2 in pixels of the original image."""
    scores: np.ndarray
    """float32 (n,) in [0, 1]."""
    labels: np.ndarray
    """int64 (n,), indices in `classes`."""
    classes: tuple[str, ...]
    """Names of all classes of the model."""
    shape: tuple[int, int]
    """(h, w) of the original image, EXIF applied if the model's pipeline does."""
    name: str
    """Of the image: its path relative to the sources; unique in a run."""
    path: str | None = None
    """File or URL of the image or video; None for an array."""
    frame: int | None = None
    """Index of the frame in its video, from 0."""
    read: Callable[[str], np.ndarray] = field(default=read_image)
    """Reads the image for `plot` as the model's pipeline does."""

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    @property
    def pred_instances(self) -> InstanceData:
        """Tensors `bboxes`, `scores` and `labels`, as in a sample of the model."""
        return InstanceData(
            bboxes=torch.tensor(self.boxes),
            scores=torch.tensor(self.scores),
            labels=torch.tensor(self.labels),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        values = (self.boxes, self.scores.tolist(), self.labels.tolist(), self.names)
        return map(Detection, *values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            label = int(self.labels[index])
            return Detection(self.boxes[index], float(self.scores[index]), label, self.names[index])
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.int64)
        kept = dict(boxes=self.boxes[index], labels=self.labels[index])
        return replace(self, scores=self.scores[index], **kept)

    def __repr__(self) -> str:
        counts = [f'{count} {name}' for name, count in Counter(self.names).most_common()]
        height, width = self.shape
        return f'Detections({image_name(self)} {width}x{height}: {list_items(counts) or "none"})'

    def above(self, threshold: float | Mapping[str, float]) -> Detections:
        """Return the objects whose score is at least the threshold.

        Args:
            threshold: in [0, 1]; a dict has one per class name, and a class that it lacks is kept.

        Raises:
            ValueError: a threshold outside [0, 1], or a name that is no class.
        """
        limits = np.zeros(len(self.classes))
        if isinstance(threshold, Mapping):
            for name, value in threshold.items():
                if name not in self.classes:
                    near = did_you_mean(nearest(str(name), self.classes))
                    listed = list_items(self.classes, 12)
                    raise ValueError(f'there is no class {name!r}{near or f", only {listed}"}')
                check_range(f'the threshold of {name!r}', value, 0, 1)
                limits[self.classes.index(name)] = value
        else:
            check_range('the threshold', threshold, 0, 1)
            limits[:] = threshold
        # In float64, since float32 would round the threshold.
        return self[self.scores.astype(np.float64) >= limits[self.labels]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, which can be written as JSON."""
        kept = {name: getattr(self, name) for name in ('name', 'path', 'frame', 'names')}
        arrays = {name: getattr(self, name).tolist() for name in ('boxes', 'scores', 'labels')}
        return {**kept, 'shape': list(self.shape), **arrays}

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
        height, width = self.shape
        x1, y1, x2, y2 = self.boxes.astype(np.float64).T / ([[width], [height]] * 2)
        values = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        lines = []
        for label, row, score in zip(self.labels, values.tolist(), self.scores, strict=True):
            end = f' {score:.9g}' if with_scores else ''
            lines.append(f'{label} {" ".join(f"{value:.9f}" for value in row)}{end}\n')
        return ''.join(lines)

    def plot(self, image: Any = None, channel_order: str = 'bgr') -> np.ndarray:
        """Return the image uint8 (h, w, 3) with boxes, class names and scores drawn.

        Args:
            image: uint8 (h, w, 3), not changed; None reads `path`.
            channel_order: 'bgr' or 'rgb', of `image` and of the result.

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
