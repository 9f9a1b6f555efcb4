"""Whether model, datasets, files and metrics fit together, checked before the first step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ghmdet.datasets.wrappers import _all_classes, _shorten, base_datasets
from ghmdet.models.wrappers import unwrap
from ghmdet.registry import HOOKS

_SPLITS = ('train', 'val', 'test')


@HOOKS.register_module()
class StartCheckHook(Hook):
    """Stop a run before its first step where model, datasets and metrics do not fit together.

    Looks at the loops that mmengine has built (train and val for training, one for the others):
    whether each dataset has as many classes as the head, whether all have the same classes in the
    same order, whether each metric reads the annotation file of its dataset (unless it has
    `check_ann_file=False`), whether `save_best` names a value of the metrics, as far as these can
    tell (`result_keys()`), and, for datasets with a method `check_image_files(limit)`, whether the
    images are there. Says nothing when all is well.

    Args:
        image_limit: how many image files to look for in each dataset.
    """

    priority = 'VERY_HIGH'

    def __init__(self, image_limit: int = 2000) -> None:
        self.image_limit = image_limit

    def before_run(self, runner: Runner) -> None:
        """Check what is built; mmengine calls this before it initialises or loads weights.

        Raises:
            ValueError: class lists and `model.bbox_head.num_classes` disagree, or a metric reads
                another annotation file than its dataset.
        """
        loops = _built_loops(runner)
        known = {
            place: names
            for split, loop in loops.items()
            for place, names in _all_classes(split, loop).items()
            if names is not None
        }
        _check_head(runner.model, known)
        _check_agreement(known)
        for split, loop in loops.items():
            self._check_files(split, loop)
        if 'train' in loops and 'val' in loops:
            _check_save_best(runner, loops['val'].evaluator.metrics)

    def _check_files(self, split: str, loop: Any) -> None:
        datasets = list(base_datasets(loop.dataloader.dataset))
        for dataset in datasets:
            if hasattr(dataset, 'check_image_files'):
                dataset.check_image_files(limit=self.image_limit)
        read = {os.path.realpath(d.ann_file) for d in datasets if getattr(d, 'ann_file', None)}
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
            ann_file = getattr(metric, 'ann_file', None)
            meant = not getattr(metric, 'check_ann_file', True)
            if ann_file and read and os.path.realpath(ann_file) not in read and not meant:
                raise ValueError(
                    f'{split}_evaluator ({type(metric).__name__}) has ann_file={ann_file}, but '
                    f'{split}_dataloader reads {", ".join(sorted(read))}: detections would be '
                    f'compared with another annotation file. Remove {split}_evaluator.ann_file '
                    'or give both the same file; if you mean it, set '
                    f'{split}_evaluator.check_ann_file=False.'
                )


def _check_save_best(runner: Runner, metrics: Sequence[Any]) -> None:
    """Look for the value before the first epoch, after which mmengine would."""
    if not all(hasattr(metric, 'result_keys') for metric in metrics):
        return
    known = [key for metric in metrics for key in metric.result_keys()]
    classwise = any(getattr(metric, 'classwise', False) for metric in metrics)
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook) or not hook.save_best:
            continue
        for key in hook.key_indicators:
            of_a_class = classwise and str(key).endswith('_precision')
            if key not in (*known, 'auto') and not of_a_class and not str(key).startswith('val/'):
                raise ValueError(
                    f'default_hooks.checkpoint.save_best={key!r}: val_evaluator gives no such '
                    f'value, but {", ".join(known)}'
                )


def _built_loops(runner: Runner) -> dict[str, Any]:
    """The loops that are more than their config yet."""
    loops = {split: getattr(runner, f'_{split}_loop', None) for split in _SPLITS}
    return {split: loop for split, loop in loops.items() if hasattr(loop, 'dataloader')}


def _check_head(model: Any, classes: dict[str, tuple[str, ...]]) -> None:
    wanted = getattr(getattr(unwrap(model), 'bbox_head', None), 'num_classes', None)
    if wanted is None:
        return
    for place, names in classes.items():
        if len(names) != wanted:
            raise ValueError(
                f'{place} has a dataset of {len(names)} classes ({_shorten(names)}), '
                f'but model.bbox_head.num_classes is {wanted}. Set '
                f'model.bbox_head.num_classes={len(names)}, or name the classes to use in '
                f'{place.partition(" ")[0]}.dataset.metainfo=dict(classes=(...)).'
            )


def _check_agreement(classes: dict[str, tuple[str, ...]]) -> None:
    for other, names in classes.items():
        first, expected = next(iter(classes.items()))
        if names == expected:
            continue
        place = next(i for i in range(len(names) + 1) if names[i : i + 1] != expected[i : i + 1])
        raise ValueError(
            f'{first} and {other} differ in their classes: number {place} is '
            f'{_at(expected, place)} in the first ({_shorten(expected)}), {_at(names, place)} in '
            f'the second ({_shorten(names)}). A class is known by its place in the list, so give '
            'every dataset the same metainfo=dict(classes=(...)).'
        )


def _at(names: Sequence[str], place: int) -> str:
    return repr(names[place]) if place < len(names) else 'missing'
