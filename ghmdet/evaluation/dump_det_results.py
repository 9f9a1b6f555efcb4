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

    Example:
        >>> metric = DumpDetResults(out_file_path='detections.pkl')
        >>> metric.process({}, [dict(img_id=7, gt_instances={}, pred_instances={})])
        >>> metric.results
        [{'img_id': 7, 'pred_instances': {}}]
    """

    default_prefix = 'dump'  # not used, as there are no metrics; mmengine warns without one

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep the detections and metainfo of one batch, on the CPU.

        Args:
            data_batch: not used.
            predictions: `DetDataSample.to_dict()` of each image; left unchanged.
        """
        annotations = ('gt_instances', 'ignored_instances')
        super().process(
            data_batch,
            [
                {key: value for key, value in sample.items() if key not in annotations}
                for sample in predictions
            ],
        )

    def compute_metrics(self, results: list[dict]) -> dict:
        """Write the file; there is nothing to measure."""
        return super().compute_metrics(unique_images(results))
