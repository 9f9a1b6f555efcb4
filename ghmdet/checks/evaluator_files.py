"""The annotation file of each evaluator: that of its dataset, where the config names none."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict
from mmengine.fileio import join_path
from mmengine.utils import is_abs

from ghmdet.checks.classes import is_ours
from ghmdet.config.data_root import find_datasets
from ghmdet.registry import DATASETS, METRICS


def complete_evaluators(cfg: Config) -> None:
    """Give every `CocoMetric` without `ann_file` the file of its dataloader's `CocoDataset`.

    Subclasses, other datasets, and several datasets in one loader are left alone: the metric then
    takes the ground truth from the samples.

    Args:
        cfg: `val_evaluator` and `test_evaluator` are changed in place.
    """
    if cfg.get('default_scope') == 'mmdet':  # adopt() has left it because MMDetection is installed
        return
    for split in ('val', 'test'):
        datasets = [part for key, part in find_datasets(cfg) if key.startswith(f'{split}_')]
        if len(datasets) != 1 or not is_ours(datasets[0], DATASETS, 'CocoDataset'):
            continue
        for metric in list_metrics(cfg, split):
            if is_ours(metric, METRICS, 'CocoMetric') and not metric.get('ann_file'):
                path, root = datasets[0].get('ann_file', ''), datasets[0].get('data_root')
                metric.ann_file = join_path(root, path) if root and not is_abs(path) else path
                metric.setdefault('backend_args', datasets[0].get('backend_args'))


def list_metrics(cfg: Config, split: str) -> list[ConfigDict]:
    """Return the configs of the metrics of a split, of which there may be one or a list."""
    evaluator = cfg.get(f'{split}_evaluator')
    several = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    return [metric for metric in several if isinstance(metric, dict)]
