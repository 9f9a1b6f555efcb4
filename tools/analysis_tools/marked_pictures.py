"""Pictures of single images: ground truth on the left, detections on the right, both marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ghmdet.config.cli import LazyModule

cv2: Any = LazyModule('cv2')
np: Any = LazyModule('numpy')
torch: Any = LazyModule('torch')
image_file: Any = LazyModule('ghmdet.datasets.image_file')
drawing: Any = LazyModule('ghmdet.visualization.drawing')
structures: Any = LazyModule('ghmdet.structures')

GOOD, WRONG, MEANT, UNCOUNTED = (60, 200, 60), (255, 60, 60), (255, 190, 0), (150, 150, 150)
_SIDES = 480, 1280  # of an image that is not enlarged or reduced, in pixels


class Mark(NamedTuple):
    """A box (4,) x1, y1, x2, y2 in pixels of the image, its text and its colour (r, g, b)."""

    box: Any
    text: str
    color: tuple[int, int, int]
    score: float = 0.0


class Pictures:
    """Draws images and remembers which could not be read.

    Args:
        img_dir: folder of the images, in which the names of the annotation file are; None: draw
            nothing.
        show: also open a window for each, for `wait_time` seconds (0: until the space key).
    """

    def __init__(self, img_dir: str | None, show: bool = False, wait_time: float = 0) -> None:
        self.img_dir, self.show, self.wait_time = img_dir, show, wait_time
        self.faults: list[str] = []
        self.count = 0

    def draw(
        self,
        image_name: str | None,
        objects: Sequence[Mark],
        detections: Sequence[Mark],
        out_file: Path,
    ) -> None:
        """Write one picture; detections of a higher score are drawn on top."""
        if self.img_dir is None:
            return
        try:
            image = image_file.read_image(Path(self.img_dir, image_name or ''))
        except image_file.ImageError as error:
            self.faults.append(str(error))
            return
        small, large = _SIDES
        factor = min(max(1, small / max(image.shape[:2])), large / max(image.shape[:2]))
        size_wh = [max(1, round(side * factor)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
        marks = [*objects, *detections]
        painter = drawing.DetLocalVisualizer(line_width=2, alpha=1)
        painter.bbox_color = painter.text_color = [mark.color for mark in marks] or [GOOD]
        painter.dataset_meta = {'classes': [mark.text for mark in marks]}
        boxes = torch.tensor(np.array([mark.box for mark in marks]).reshape(-1, 4) * factor)
        scores = torch.tensor([mark.score for mark in marks], dtype=torch.float64)
        parts = structures.InstanceData(
            bboxes=boxes, labels=torch.arange(len(marks)), scores=scores
        )
        sample = structures.DetDataSample(
            gt_instances=parts[: len(objects)], pred_instances=parts[len(objects) :]
        )
        options = dict(data_sample=sample, pred_score_thr=float('-inf'), out_file=out_file)
        options |= dict(show=self.show, wait_time=self.wait_time)
        painter.add_datasample(out_file.stem, np.ascontiguousarray(image[..., ::-1]), **options)
        self.count += 1

    def report(self) -> str:
        """Return what was drawn, and why the rest was not."""
        if self.img_dir is None:
            return 'no pictures: the folder of the images is not known, name it with --img-dir'
        text = f'{self.count:,} pictures'
        if self.faults:
            text += (
                f'; {len(self.faults):,} images could not be read and have none, the first: '
                f'{self.faults[0]}. Name the folder of the images with --img-dir'
            )
        return text


def picture_name(*parts: str) -> str:
    """Return the name of a picture; the last part is the name of an image, with its folders."""
    stem = Path(parts[-1].replace('\\', '/')).stem
    return '_'.join([*parts[:-1], re.sub(r'[^\w.+-]', '_', stem)[:80]]) + '.jpg'


def clear_pictures(folder: Path) -> None:
    """Make the folder, and remove the pictures of an earlier run."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob('[0-9][0-9][0-9]*_*.jpg'):
        file.unlink()
