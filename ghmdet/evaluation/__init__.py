"""Metrics that mmengine's Evaluator builds from the METRICS registry."""

from .coco_metric import CocoMetric
from .dump_det_results import DumpDetResults
from .voc_metric import VOCMetric

__all__ = ['CocoMetric', 'DumpDetResults', 'VOCMetric']
