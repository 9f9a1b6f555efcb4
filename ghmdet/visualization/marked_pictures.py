"""Pictures of single images: ground truth on the left, detections on the right, both marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import torch

from ghmdet.datasets.image_file import ImageError, read_image
from ghmdet.structures import DetDataSample, InstanceData
from ghmdet.visualization.drawing import DetLocalVisualizer

# Of the palette of Okabe and Ito, which colour-blind people can tell apart.
GOOD, WRONG, MEANT, UNCOUNTED = (0, 158, 115), (213, 94, 0), (230, 159, 0), (150, 150, 150)
_SIDES = 480, 1280  # of an image that is not enlarged or reduced, in pixels


class Mark(NamedTuple):
    """A box (4,) x1, y1, x2, y2 in pixels of the image, its text and its colour (r, g, b)."""

    box: Any
    text: str
    color: tuple[int, int, int]


class Pictures:
    """Draws images and remembers which could not be read.

    Args:
        img_dir: folder to which the names of images are relative; None: the current one.
        show: also open a window for each, for `wait_time` seconds (0: until the space key).
    """

    def __init__(self, img_dir: Path | None, show: bool = False, wait_time: float = 0) -> None:
        self.img_dir, self.show, self.wait_time = img_dir or Path(), show, wait_time
        self.faults: list[str] = []
        self.count = 0

    def draw(
        self,
        image_name: str | None,
        objects: Sequence[Mark],
        detections: Sequence[Mark],
        out_file: Path,
    ) -> None:
        """Write one picture; the last marks are on top."""
        panels = self.make_panels(image_name, objects, detections)
        if panels is None:
            return
        picture = np.concatenate(panels, axis=1)
        mmcv.imwrite(picture[..., ::-1], str(out_file))
        self.count += 1
        if self.show:
            painter = DetLocalVisualizer()
            painter.show(picture, win_name=out_file.stem, wait_time=self.wait_time)

    def make_panels(
        self,
        image_name: str | None,
        objects: Sequence[Mark],
        detections: Sequence[Mark],
        sides: tuple[int, int] = _SIDES,
    ) -> list[np.ndarray] | None:
        """Return both panels, (h, w, 3) RGB uint8, or None if the image cannot be read.

        The longer side is enlarged or reduced to be within `sides`, in pixels.
        """
        try:
            image = read_image(self.img_dir / (image_name or ''))
        except ImageError as error:
            self.faults.append(str(error))
            return None
        small, large = sides
        side = max(image.shape[:2])
        factor = min(max(1, small / side), large / side)
        size_wh = [max(1, round(side * factor)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)[..., ::-1].copy()
        painter = DetLocalVisualizer(line_width=2, alpha=1)
        panels = []
        for marks in (objects, detections):
            painter.bbox_color = painter.text_color = [mark.color for mark in marks] or [GOOD]
            painter.dataset_meta = {'classes': [mark.text for mark in marks]}
            boxes = np.array([mark.box for mark in marks], float).reshape(-1, 4) * factor
            instances = InstanceData(
                bboxes=torch.from_numpy(boxes), labels=torch.arange(len(marks))
            )
            sample = DetDataSample(gt_instances=instances)
            panels.append(painter.add_datasample('image', image, sample))
        return panels

    def report(self) -> str:
        """Return what was drawn, and why the rest was not."""
        text = f'{self.count:,} pictures'
        if self.faults:
            text += (
                f'; {len(self.faults):,} images could not be read and have none, the first: '
                f'{self.faults[0]}. Name the folder of the images with --img-dir'
            )
        return text


def mark_image(matches: Any, index: int) -> tuple[list[Mark], list[Mark]]:
    """Return the marks of objects and detections of image `index` of the `Matches`."""
    found, objects, classes = matches.detections, matches.objects, matches.classes
    left: list[Mark] = []
    right: list[Mark] = []
    for i in np.flatnonzero(objects.image == index).tolist():
        text = classes[objects.label[i]]
        if objects.ignored[i]:
            mark = f'not counted: {text}', UNCOUNTED
        elif objects.detection[i] >= 0:
            mark = text, GOOD
        else:
            mark = f'missed {text}', WRONG
        left.append(Mark(objects.bbox[i], *mark))
    of_image = np.flatnonzero(found.image == index)
    for i in of_image[np.argsort(found.score[of_image], kind='stable')].tolist():
        text = f'{classes[found.label[i]]} {found.score[i]:.2f}'
        if found.ignored[i]:
            mark = f'not counted: {text}', UNCOUNTED
        else:
            mark = (text, GOOD) if found.is_true[i] else (f'false {text}', WRONG)
        right.append(Mark(found.bbox[i], *mark))
    return left, right


def picture_name(*parts: str) -> str:
    """Return the name of a picture; the last part is the name of an image, with its folders."""
    stem = Path(parts[-1].replace('\\', '/')).stem
    return '_'.join([*parts[:-1], re.sub(r'[^\w.+-]', '_', stem)[:80]]) + '.jpg'


def clear_pictures(folder: Path) -> None:
    """Make the folder, and remove the pictures of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob('[0-9][0-9][0-9]*_*.jpg'):
        file.unlink()
