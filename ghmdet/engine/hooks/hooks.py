"""Hooks for mmengine's Runner."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ghmdet.engine.amp import low_precision
from ghmdet.models.speedup import (
    cast_convolutions,
    compile_network,
    fold_batch_norms,
    freeze_weights,
    unwrap,
)
from ghmdet.registry import HOOKS

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_SPLITS = ('train', 'val', 'test')


@HOOKS.register_module()
class DoorCheckHook(Hook):
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
        datasets = list(plain_datasets(loop.dataloader.dataset))
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


@HOOKS.register_module()
class PeakMemoryHook(Hook):
    """Log `peak_memory` in MB (2**20 bytes), the most memory in use so far, with each log line.

    With CUDA it is what torch has allocated on the device since the start of the run, otherwise the
    resident memory of this process, data loader workers not counted.
    """

    def __init__(self) -> None:
        self.peak_mb = 0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Hand the peak to the log of the training."""
        if self._update() > 0:
            runner.message_hub.update_scalar('train/peak_memory', self.peak_mb)

    def after_test_epoch(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Hand the peak to the report of the test."""
        if self._update() > 0:
            runner.message_hub.update_info('test/peak_memory', self.peak_mb)

    def _update(self) -> int:
        # mmengine's log processor resets torch's own peak at each line.
        self.peak_mb = max(self.peak_mb, _memory_mb())
        return self.peak_mb


@HOOKS.register_module()
class MeanLossesHook(Hook):
    """Let the log show the losses as the mean over all processes, not those of the first one.

    It takes those that some process has in the first iteration; a process may lack one now and
    then.
    """

    priority = 'NORMAL'  # once FiniteStepsHook has left out what is not finite, before the logger

    def before_train(self, runner: Runner) -> None:
        """Forget the names."""
        self._keys: list[str] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace the newest values."""
        if get_world_size() == 1:
            return
        own = {f'train/{name}' for name in outputs or ()}
        self._keys = self._keys or sorted(set().union(*all_gather_object(own)))
        # Values and how much they count, which is nothing if they were left out.
        data = {key: runner.message_hub.get_scalar(key).data for key in own}
        newest = [[float(part[-1]) for part in data.get(key, ([0], [0]))] for key in self._keys]
        sums = torch.tensor(newest, dtype=torch.float64)
        all_reduce(sums)
        for key, (total, count) in zip(self._keys, sums.tolist(), strict=True):
            if key in own and data[key][1][-1]:
                values, counts = data[key]
                values[-1] = total / count * counts[-1]


@HOOKS.register_module()
class FastNetworkHook(Hook):
    """Prepare the network once, when its weights are loaded and a test begins.

    Batch norms are folded into the convolutions, so the model is not to be trained or saved after.

    Args:
        cast: hold the weights of convolutions in low precision; needs `test_cfg.fp16`.
        compile: compile backbone, neck and head.
    """

    def __init__(self, cast: bool = False, compile: bool = False) -> None:
        self.cast = cast
        self.compile = compile

    def before_test(self, runner: Runner) -> None:
        """Fold, cast and compile."""
        model = unwrap(runner.model).eval()
        fold_batch_norms(model)
        if self.cast:
            cast_convolutions(model, low_precision(next(model.parameters()).device.type))
        if self.compile:
            freeze_weights(True)
            compile_network(model)

    def after_test(self, runner: Runner) -> None:
        """Leave the next compilation of the process as torch does it."""
        if self.compile:
            freeze_weights(False)


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


def _memory_mb() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() >> 20
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == 'darwin' else 10)  # bytes on macOS, else KB


def _built_loops(runner: Runner) -> dict[str, Any]:
    """The loops that are more than their config yet."""
    loops = {split: getattr(runner, f'_{split}_loop', None) for split in _SPLITS}
    return {split: loop for split, loop in loops.items() if hasattr(loop, 'dataloader')}


def plain_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets inside of repeating, balancing and concatenating ones."""
    inside = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    for part in inside:
        if part is None:
            yield dataset
        else:
            yield from plain_datasets(part)


def classes_of(split: str, loop: Any) -> tuple[str, ...] | None:
    """Class names of the first dataset of a loop."""
    return next(iter(_all_classes(split, loop).values()))


def _all_classes(split: str, loop: Any) -> dict[str, tuple[str, ...] | None]:
    """Class names of the innermost datasets: a wrapper holds a copy from before its init."""
    found: dict[str, tuple[str, ...] | None] = {}
    for number, dataset in enumerate(plain_datasets(loop.dataloader.dataset)):
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        place = f'{split}_dataloader'
        if isinstance(classes, str):
            raise ValueError(
                f'{place}.dataset.metainfo.classes must be a tuple of names, but is the string '
                f'{classes!r}; for one class write classes=({classes!r},)'
            )
        place += f' (part {number} of its dataset)' if number else ''
        found[place] = None if classes is None else tuple(classes)
    return found


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


def _shorten(names: Sequence[str], limit: int = 5) -> str:
    rest = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {rest} more' if rest > 0 else '')
