"""A test that writes COCO results, also of images without annotations."""

from __future__ import annotations

import os

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track

from ghmdet.checks.classes import is_ours, list_metrics
from ghmdet.checks.decode_images import decode_images
from ghmdet.datasets.image_folder import list_images
from ghmdet.messages import list_items
from ghmdet.registry import DATASETS, METRICS, TRANSFORMS


def write_coco_results(cfg: Config, path: str | os.PathLike[str]) -> None:
    """Let the CocoMetric of a test write COCO results too, to a file `.json`."""
    if not (metrics := _coco_metrics(cfg)):
        raise ValueError(
            f'--out {path} is written by CocoMetric, but test_evaluator has none; add '
            '--format-only, or give a name that ends in .pkl'
        )
    metrics[0].outfile_prefix = os.fspath(path)


def report_thresholds(cfg: Config, curves_dir: str | None) -> None:
    """Let the CocoMetric of a test log the best score thresholds, and write the curves if given."""
    metrics = [part for part in _coco_metrics(cfg) if not part.get('format_only')]
    for part in metrics:
        part.best_thresholds, part.curves_dir = True, curves_dir
    if curves_dir is not None and not metrics:
        raise ValueError(
            f'--curves {curves_dir} is written by a CocoMetric that measures, but test_evaluator '
            'has none; leave out --curves, or what makes it only write detections'
        )


def skip_evaluation(cfg: Config, path: str | os.PathLike[str]) -> None:
    """Let the test write COCO results to a file `.json` without computing metrics.

    The `ann_file` of a CocoMetric is kept only if the dataset has none from which to take the ids.
    """
    dataset, kept = innermost(cfg.test_dataloader.dataset), {}
    if not is_ours(dataset, DATASETS, 'CocoDataset'):
        for metric in _coco_metrics(cfg)[:1]:
            kept = {key: metric[key] for key in ('ann_file', 'backend_args') if key in metric}
    cfg.test_evaluator = dict(
        type='CocoMetric', format_only=True, outfile_prefix=os.fspath(path), **kept
    )


def use_image_folder(cfg: Config, folder: str | os.PathLike[str], path: str) -> None:
    """Detect on the images below a folder instead of the test dataset's; results go to `path`."""
    dataset = innermost(cfg.test_dataloader.dataset)
    kept = dict(metainfo=dataset.get('metainfo'), pipeline=dataset.pipeline, test_mode=True)
    prefix = dict(img=os.fspath(folder))
    cfg.test_dataloader.dataset = dict(type='ImageFolder', data_prefix=prefix, **kept)
    cfg.test_evaluator = dict()
    skip_evaluation(cfg, path)


def leave_out_unusable(cfg: Config, workers: int = os.cpu_count() or 1) -> dict[str, str]:
    """Leave the images out that the test pipeline cannot use; after `use_image_folder`.

    Returns what is wrong with each of these images, by its path in the folder; none left is a
    ValueError. `workers` processes run the pipeline.
    """
    dataset = cfg.test_dataloader.dataset
    folder = dataset.data_prefix.img
    init_default_scope(cfg.get('default_scope', 'ghmdet'))  # of steps inside of others
    steps = [TRANSFORMS.build(step) for step in dataset.pipeline]
    names = list_images(folder)
    infos = {name: dict(img_id=name, img_path=f'{folder}/{name}', instances=[]) for name in names}
    results = decode_images(steps, infos, workers)
    shown = track(results, 'checking images', len(infos), console=Console(stderr=True))
    # The test raises errors of steps.
    found = {name: each.error for name, each in shown if each.error and not each.of_step}
    errors = dict(sorted(found.items()))
    if len(errors) == len(infos):
        raise ValueError(f'{folder}: no image can be used: {list_items(errors.values(), 5, "; ")}')
    if errors:
        dataset.left_out = list(errors)
    return errors


def _coco_metrics(cfg: Config) -> list[ConfigDict]:
    return [part for part in list_metrics(cfg, 'test') if is_ours(part, METRICS, 'CocoMetric')]


def innermost(dataset: ConfigDict) -> ConfigDict:
    """Return the dataset inside of those that wrap it."""
    while 'dataset' in dataset:
        dataset = dataset.dataset
    return dataset
