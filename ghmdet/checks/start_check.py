"""Stops a run before its first step if model, datasets, files and metrics do not match."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import chain, product
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ghmdet.checkpoint.files import checkpoint_hooks
from ghmdet.checkpoint.weights import compare_classes
from ghmdet.checks.pipelines import try_pipeline
from ghmdet.config.errors import ConfigError
from ghmdet.config.parts import parameters_of
from ghmdet.datasets.wrappers import all_classes, base_datasets
from ghmdet.messages import did_you_mean, list_items, nearest
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS


@HOOKS.register_module()
class StartCheckHook(Hook):
    """Stop a run before its first step if model, datasets, files and metrics do not match.

    Checks the loops that mmengine has built (train and val for training, else one), in this order:

    - each dataset has as many classes as the head, and all have the same classes in one order;
    - the images exist, for datasets with a method `check_image_files(limit)`;
    - each metric reads the annotation file of its dataset, unless it has `check_ann_file=False`;
    - there are boxes to learn from, for datasets with a method `count_objects()`;
    - datasets that are evaluated together have different ids of images, where these are needed;
    - each pipeline works on the first image (see `try_pipeline`);
    - `CheckpointHook` has no unknown argument, and its `save_best` is a value of the metrics, if
      these can list their values (`result_keys()`).

    Warns of classes without a box in training, and of a validation or test without any.

    Args:
        image_limit: how many image files to look for in each dataset.
    """

    priority = 'VERY_HIGH'

    def __init__(self, image_limit: int = 2000) -> None:
        self.image_limit = image_limit

    def before_run(self, runner: Runner) -> None:
        """Check what is built; mmengine calls this before it initialises or loads weights.

        A ValueError or ConfigError has the key of the config.
        """
        loops: dict[str, Any] = {
            split: loop
            for split in ('train', 'val', 'test')
            if hasattr(loop := getattr(runner, f'_{split}_loop', None), 'dataloader')  # is built
        }
        found = chain.from_iterable(all_classes(*item).items() for item in loops.items())
        _check_classes(runner.model, {key: names for key, names in found if names is not None})
        for split, loop in loops.items():
            self._check_files(split, loop)
        for split, loop in loops.items():
            datasets, metrics = list(base_datasets(loop.dataloader.dataset)), _metrics_of(loop)
            _check_boxes(split, datasets, metrics)
            truth = any(getattr(metric, 'reads_samples', False) for metric in metrics)
            several = split != 'train' and len(datasets) > 1
            need = ('img_path',) if several and _share_ids(split, datasets, metrics) else ()
            for dataset in datasets:
                try_pipeline(f'{split}_dataloader.dataset.pipeline', dataset, split, truth, need)
        for hook in checkpoint_hooks(runner):
            _check_arguments(hook, runner)
            if 'train' in loops and 'val' in loops:
                _check_save_best(hook, loops['val'].evaluator.metrics)

    def _check_files(self, split: str, loop: Any) -> None:
        datasets = list(base_datasets(loop.dataloader.dataset))
        for dataset in datasets:
            if hasattr(dataset, 'check_image_files'):
                dataset.check_image_files(limit=self.image_limit)
        read = {os.path.realpath(d.ann_file) for d in datasets if getattr(d, 'ann_file', None)}
        loader, metrics = loop.dataloader, _metrics_of(loop)
        drop_last = getattr(loader, 'drop_last', False)
        if metrics and drop_last and len(loader.sampler) % loader.batch_size:
            raise ValueError(
                f'{split}_dataloader.drop_last=True leaves the last {split} images out, so that '
                'the metrics would be of a part: remove it'
            )
        for metric in metrics:
            ann_file = getattr(metric, 'ann_file', None)
            checked = getattr(metric, 'check_ann_file', True)
            if ann_file and checked and read - {os.path.realpath(ann_file)}:
                raise ValueError(
                    f'{split}_evaluator ({type(metric).__name__}) has ann_file={ann_file}, but '
                    f'{split}_dataloader reads {", ".join(sorted(read))}: detections would be '
                    f'compared with another annotation file. Remove {split}_evaluator.ann_file '
                    'or give both the same file; if the difference is intended, set '
                    f'{split}_evaluator.check_ann_file=False.'
                )


def _metrics_of(loop: Any) -> Sequence[Any]:
    return getattr(getattr(loop, 'evaluator', None), 'metrics', ())


def _check_boxes(split: str, datasets: Sequence[Any], metrics: Sequence[Any]) -> None:
    """Refuse to train without boxes; warn of classes without, and of nothing to measure."""
    is_measured = not all(getattr(metric, 'format_only', True) for metric in metrics)
    if split != 'train' and not is_measured:
        return
    if not all(hasattr(dataset, 'count_objects') for dataset in datasets):
        return
    counts = sum(dataset.count_objects() for dataset in datasets)
    if counts.all():
        return
    names = [name for name, n in zip(datasets[0].metainfo['classes'], counts, strict=True) if not n]
    filtered = 'filter_cfg or indices leave out the images with boxes'
    texts = (f'{d.ann_file}: {d.summary}; {d.advice or filtered}' for d in datasets)
    described = list_items(texts, 3, '. ')
    if split == 'train' and not counts.any():
        raise ValueError(f'train_dataloader has no box to learn from: {described}')
    if split == 'train':
        text = (
            f'no box of {len(names)} of the {len(counts)} classes, which are not learnt: '
            f'{list_items(names)}. Correct the annotations or metainfo.classes'
        )
    elif counts.any():
        return
    else:
        text = (
            f'no object to find: {described}. Metrics will be n/a (nan), and no checkpoint the '
            'best. Use a file with objects; to train without validation, set val_dataloader, '
            'val_cfg and val_evaluator to None'
        )
    print_log(f'{split}_dataloader has {text}', logger='current', level=logging.WARNING)


def _share_ids(split: str, datasets: Sequence[Any], metrics: Sequence[Any]) -> bool:
    """Whether images of several datasets have the same id; raise where a metric needs the id."""
    paths: dict[Any, Any] = {}
    parts = [dataset for dataset in datasets if hasattr(dataset, 'get_data_info')]
    for info in (part.get_data_info(i) for part in parts for i in range(len(part))):
        id_, path = info.get('img_id'), info.get('img_path')
        if id_ is None or paths.setdefault(id_, path) == path:
            continue
        for key, metric in product(('ann_file', 'outfile'), metrics):
            if getattr(metric, key, None):
                name = f'{split}_evaluator.{key.replace("outfile", "outfile_prefix")}'
                raise ValueError(
                    f'{paths[id_]} and {path} of {split}_dataloader both have the id {id_!r}, by '
                    f'which the file of {name} tells images apart. Give them different ids, '
                    f'remove {name}, or evaluate one dataset at a time'
                )
        return True
    return False


def _check_classes(model: Any, classes: Mapping[str, tuple[str, ...]]) -> None:
    """Compare the classes of all datasets, by key of the config, with the head's and each other."""
    wanted = getattr(getattr(unwrap(model), 'bbox_head', None), 'num_classes', None)
    for key, names in classes.items():
        if wanted not in (None, len(names)):
            raise ValueError(
                f'{key} has a dataset of {len(names)} classes ({list_items(names)}), '
                f'but model.bbox_head.num_classes is {wanted}. Set '
                f'model.bbox_head.num_classes={len(names)}, or name the classes to use in '
                f'{key.partition(" ")[0]}.dataset.metainfo=dict(classes=(...)).'
            )
        first, expected = next(iter(classes.items()))
        labels = f'{first} ({list_items(expected)})', f'{key} ({list_items(names)})'
        if difference := compare_classes(expected, names, labels, exact=True):
            raise ValueError(
                f'{first} and {key} must have the same classes in the same order, since a label is '
                f'an index into this list, but {difference}. Give every dataset the same '
                'metainfo=dict(classes=(...)).'
            )


def _check_arguments(hook: CheckpointHook, runner: Runner) -> None:
    """Refuse what CheckpointHook would pass to `save_checkpoint` at the end of the first epoch."""
    known = parameters_of(runner.save_checkpoint)
    for name in hook.args.keys() - known:
        near = nearest(name, known | parameters_of(CheckpointHook))
        raise ConfigError(
            f'default_hooks.checkpoint (CheckpointHook): unexpected keyword argument {name!r}'
            f'{did_you_mean(near)}'
        )


def _check_save_best(hook: CheckpointHook, metrics: Sequence[Any]) -> None:
    """Look for the value before the first epoch, after which mmengine would."""
    if not hook.save_best or not all(hasattr(metric, 'result_keys') for metric in metrics):
        return
    known = [key for metric in metrics for key in metric.result_keys()]
    classwise = any(getattr(metric, 'classwise', False) for metric in metrics)
    for key in map(str, hook.key_indicators):
        of_a_class = classwise and key.endswith('_precision')
        if key not in (*known, 'auto') and not of_a_class and not key.startswith('val/'):
            raise ValueError(
                f'default_hooks.checkpoint.save_best={key!r}: val_evaluator has no such value, '
                f'but {", ".join(known) or "none"}'
            )
