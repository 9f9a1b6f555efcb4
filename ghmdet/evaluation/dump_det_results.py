"""Detections as a pickle, for evaluation after the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import DumpResults

from ghmdet.registry import METRICS

from .image_results import ImageResults, unique_images


@METRICS.register_module()
class DumpDetResults(ImageResults, DumpResults):
    """Write the detections, one dict per image, to a `.pkl` file (`tools/test.py --out`).

    In the order of the dataset, each image once, for any number of processes. Annotations are left
    out: they are in the annotation file already and may be many times larger.
    """

    default_prefix = 'dump'  # not used, as there are no metrics; mmengine warns without one

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep what `DetDataSample.to_dict()` of each image has, on the CPU."""
        annotations = ('gt_instances', 'ignored_instances')
        samples = ({k: v for k, v in each.items() if k not in annotations} for each in predictions)
        super().process(data_batch, list(samples))

    def compute_metrics(self, results: list[dict]) -> dict:
        """Write the file; there is nothing to measure."""
        return super().compute_metrics(unique_images(results))

    def result_keys(self) -> list[str]:
        """No value is returned, so none can be the best."""
        return []
