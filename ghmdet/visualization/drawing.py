"""Draws boxes into images with cv2; only `show=True` opens a window."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.visualization import Visualizer

from ghmdet.registry import VISUALIZERS
from ghmdet.structures import DetDataSample, InstanceData

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MARGIN = 2  # pixels around a text


@VISUALIZERS.register_module()
class DetLocalVisualizer(Visualizer):
    """Draw ground truth and detections; colours are (r, g, b) in [0, 255].

    Class names are `classes` of the attribute `dataset_meta`, which the loops set. The base class
    provides the storage backends; its matplotlib drawing would take 100 times as long.

    Args:
        name, image, vis_backends, save_dir: as for mmengine's Visualizer.
        bbox_color: one colour or a list with one per class; None: `palette` of `dataset_meta`, or
            else colours of different hues.
        text_color: of class name and score, one colour or a list with one per class.
        mask_color: accepted for MMDetection's configs; there are no masks to draw.
        line_width: of the boxes, in pixels; OpenCV 5 draws wider lines than OpenCV 4.
        alpha: opacity of the boxes, in [0, 1].
    """

    # mmengine's property is None on all ranks but the first, yet every rank writes its images.
    dataset_meta: dict | None = None

    def __init__(
        self,
        name: str = 'visualizer',
        image: np.ndarray | None = None,
        vis_backends: Sequence[dict] | None = None,
        save_dir: str | None = None,
        bbox_color: Sequence | None = None,
        text_color: Sequence = (200, 200, 200),
        mask_color: Sequence | None = None,
        line_width: float = 3,
        alpha: float = 0.8,
    ) -> None:
        super().__init__(name, image, vis_backends, save_dir)
        if not 0 <= alpha <= 1:
            raise ValueError(f'DetLocalVisualizer: alpha must be within [0, 1], got {alpha!r}')
        self.bbox_color = None if bbox_color is None else _color_table(bbox_color, 'bbox_color')
        self.text_color = _color_table(text_color, 'text_color')
        self.line_width = max(1, round(line_width))
        self.alpha = alpha

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> DetLocalVisualizer:
        """Return the instance of that name in this process, or a new one if `save_dir` is given.

        mmengine would return the one of an earlier run, which writes to that run's folder.
        """
        if kwargs.get('save_dir') is not None:
            cls._instance_dict.pop(name, None)
        return super().get_instance(name, **kwargs)

    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        draw_gt: bool = True,
        draw_pred: bool = True,
        show: bool = False,
        wait_time: float = 0,
        out_file: str | Path | None = None,
        pred_score_thr: float = 0.3,
        step: int = 0,
    ) -> np.ndarray:
        """Draw into a copy of an image, (h, w, 3) RGB uint8, and write, store or show it.

        `gt_instances` and `ignored_instances` (grey) are drawn on the left, `pred_instances` with a
        score above `pred_score_thr` on the right; boxes are in pixels of the image. `show` opens a
        window named `name` for `wait_time` seconds; 0: until the space key is pressed. Without
        `show` and `out_file` the drawing is stored in the backends, as `name` and `step`.

        Returns:
            The drawing, RGB uint8: (h, 2w, 3) with both panels, else (h, w, 3).
        """
        sample, panels = data_sample or DetDataSample(), []
        if draw_gt and 'bboxes' in sample.get('gt_instances', ()):
            panel = image
            if 'bboxes' in sample.get('ignored_instances', ()):
                ignored = _pixel_boxes(sample.ignored_instances.bboxes, image)
                panel = self._draw_boxes(image, ignored, [(128, 128, 128)] * len(ignored))
            panels.append(self._draw(panel, sample.gt_instances))
        if draw_pred and 'pred_instances' in sample:
            panels.append(self._draw(image, sample.pred_instances, pred_score_thr))
        drawn = np.concatenate(panels, axis=1) if panels else image.copy()

        if show:
            self.show(drawn, win_name=name, wait_time=wait_time)
        if out_file is not None:
            mmcv.imwrite(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), str(out_file))
        elif not show:
            self.add_image(name, drawn, step)
        return drawn

    def _draw(
        self, image: np.ndarray, instances: InstanceData, score_thr: float | None = None
    ) -> np.ndarray:
        """Return a copy of the image with boxes and captions, the highest score on top."""
        if score_thr is not None:
            instances = instances[instances.scores > score_thr]
            instances = instances[instances.scores.argsort(stable=True)]
        boxes, labels = _pixel_boxes(instances.bboxes, image), instances.labels.tolist()
        names, colors = (self.dataset_meta or {}).get('classes', ()), self._class_colors()
        scores = [''] * len(labels)
        if score_thr is not None:
            scores = [f' {score:.2f}' for score in instances.scores.tolist()]
        drawn = self._draw_boxes(image, boxes, [colors[label % len(colors)] for label in labels])
        for box, label, score in zip(boxes, labels, scores, strict=True):
            name = names[label] if label < len(names) else f'class {label}'
            if caption := f'{name}{score}':
                color = self.text_color[label % len(self.text_color)]
                self._draw_caption(drawn, caption, box[:2], color)
        return drawn

    def _draw_boxes(
        self, image: np.ndarray, boxes: list[list[int]], colors: list[tuple[int, ...]]
    ) -> np.ndarray:
        """Return a copy of the image with the outlines blended in."""
        drawn = np.array(image, order='C')
        for box, color in zip(boxes, colors, strict=True):
            cv2.rectangle(drawn, box[:2], box[2:], color, self.line_width)
        return cv2.addWeighted(drawn, self.alpha, image, 1 - self.alpha, 0)

    def _draw_caption(
        self, drawn: np.ndarray, caption: str, corner: Sequence[int], color: Sequence[int]
    ) -> None:
        """Write into the image on black: above the box, or inside it if there is no room."""
        scale = max(0.4, (drawn.shape[0] * drawn.shape[1]) ** 0.5 / 1600)
        (width, height), below = cv2.getTextSize(caption, _FONT, scale, 1)
        height += below + 2 * _MARGIN
        left = max(0, min(corner[0], drawn.shape[1] - width))
        above = corner[1] - self.line_width // 2 - height
        top = above if above >= 0 else corner[1] + self.line_width
        cv2.rectangle(drawn, (left, top), (left + width, top + height), (0, 0, 0), cv2.FILLED)
        baseline = top + height - below - _MARGIN
        cv2.putText(drawn, caption, (left, baseline), _FONT, scale, color, 1, cv2.LINE_AA)

    def _class_colors(self) -> list[tuple[int, ...]]:
        """Return a colour per class; if there are more classes, colours repeat."""
        if self.bbox_color is not None:
            return self.bbox_color
        meta = self.dataset_meta or {}
        if meta.get('palette'):
            return _color_table(meta['palette'], 'palette of dataset_meta')
        # Steps of the golden ratio keep the hues of any number of classes apart.
        hues = np.arange(len(meta.get('classes', ())) or 80) * 0.618034 % 1
        colors = [colorsys.hsv_to_rgb(hue, 0.8, 1.0) for hue in hues.tolist()]
        return [tuple(color) for color in np.rint(np.multiply(colors, 255)).astype(int).tolist()]


def _color_table(colors: Sequence, key: str) -> list[tuple[int, ...]]:
    """Return a list of (r, g, b) for one such colour or a list of them."""
    table = np.atleast_2d(np.array(colors))
    if table.dtype.kind not in 'iu' or table.ndim != 2 or table.shape[1] != 3:
        raise ValueError(
            f'DetLocalVisualizer: {key} must be (r, g, b) or a list of them, got {colors!r}'
        )
    return [tuple(color) for color in table.tolist()]


def _pixel_boxes(bboxes: torch.Tensor, image: np.ndarray) -> list[list[int]]:
    """Return the boxes (n, 4) rounded to pixels and clipped to the image."""
    height, width = image.shape[:2]
    boxes = np.nan_to_num(bboxes.float().cpu().numpy())
    return np.clip(boxes.round(), 0, [width - 1, height - 1] * 2).astype(int).tolist()
