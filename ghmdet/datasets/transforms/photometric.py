"""Changes of colour."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ghmdet.argument_checks import check_factor, check_numbers
from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PhotoMetricDistortion(Transform):
    """Change brightness, contrast, saturation and hue, and swap channels, as SSD does.

    Each change has a probability of 0.5, in this order; contrast comes second or second to last,
    equally often. The image becomes float32 and may leave [0, 255], in MMDetection too. Of a
    grey image only brightness and contrast change, where MMDetection fails.

    Args:
        brightness_delta: at most this is added to or subtracted from each pixel.
        contrast_range: lowest and highest factor of each pixel.
        saturation_range: lowest and highest factor of the saturation.
        hue_delta: at most this is added to or subtracted from the hue, in degrees.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: float = 18,
    ) -> None:
        check_factor('PhotoMetricDistortion.brightness_delta', brightness_delta)
        check_numbers('PhotoMetricDistortion.contrast_range', contrast_range)
        check_numbers('PhotoMetricDistortion.saturation_range', saturation_range)
        check_factor('PhotoMetricDistortion.hue_delta', hue_delta)
        self.brightness_delta, self.contrast_range = brightness_delta, contrast_range
        self.saturation_range, self.hue_delta = saturation_range, hue_delta

    def transform(self, results: dict) -> dict:
        """Change `img`, (h, w, 3) in BGR or (h, w)."""
        img = results['img'].astype(np.float32)
        mode, brightens, contrasts, saturates, turns, swaps = (
            np.random.randint(2) for _ in range(6)
        )
        delta, hue = self.brightness_delta, self.hue_delta
        ranges = (-delta, delta), self.contrast_range, self.saturation_range, (-hue, hue)
        delta, factor, saturation, hue = (np.random.uniform(low, high) for low, high in ranges)
        order = np.random.permutation(3)
        if brightens:
            img += delta
        if contrasts and mode == 1:
            img *= factor
        if img.ndim == 3:
            img = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)  # hue in degrees, saturation in [0, 1]
            if saturates:
                img[..., 1] *= saturation
                if saturation > 1:
                    img[..., 1] = img[..., 1].clip(0, 1)
            if turns:
                img[..., 0] += hue
                img[..., 0][img[..., 0] > 360] -= 360
                img[..., 0][img[..., 0] < 0] += 360
            img = cv2.cvtColor(img, cv2.COLOR_HSV2BGR)
        if contrasts and mode == 0:
            img *= factor
        if swaps and img.ndim == 3:
            img = np.ascontiguousarray(img[..., order])
        results['img'] = img
        return results
