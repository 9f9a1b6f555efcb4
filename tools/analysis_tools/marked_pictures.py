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
image_io: Any = LazyModule('mmcv')
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
        try:
            image = image_file.read_image(self.img_dir / (image_name or ''))
        except image_file.ImageError as error:
            self.faults.append(str(error))
            return
        small, large = _SIDES
        side = max(image.shape[:2])
        factor = min(max(1, small / side), large / side)
        size_wh = [max(1, round(side * factor)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)[..., ::-1].copy()
        painter = drawing.DetLocalVisualizer(line_width=2, alpha=1)
        panels = []
        for marks in (objects, detections):
            painter.bbox_color = painter.text_color = [mark.color for mark in marks] or [GOOD]
            painter.dataset_meta = {'classes': [mark.text for mark in marks]}
            boxes = np.array([mark.box for mark in marks], float).reshape(-1, 4) * factor
            instances = structures.InstanceData(
                bboxes=torch.from_numpy(boxes), labels=torch.arange(len(marks))
            )
            sample = structures.DetDataSample(gt_instances=instances)
            panels.append(painter.add_datasample('image', image, sample))
        picture = np.concatenate(panels, axis=1)
        image_io.imwrite(picture[..., ::-1], str(out_file))
        self.count += 1
        if self.show:
            painter.show(picture, win_name=out_file.stem, wait_time=self.wait_time)

    def report(self) -> str:
        """Return what was drawn, and why the rest was not."""
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
