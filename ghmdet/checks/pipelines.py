"""A pipeline is tried out on one image before the run, which would meet its faults much later."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ghmdet.config.cli import describe
from ghmdet.config.errors import ConfigError
from ghmdet.config.parts import parameters_of
from ghmdet.datasets.wrappers import base_datasets
from ghmdet.messages import nearest
from ghmdet.registry import HOOKS

_SPLITS = ('train', 'val', 'test')
_MADE_BY = {'img': 'LoadImageFromFile', 'gt_bboxes': 'LoadAnnotations'}
_NEEDS_IMAGE = 'mmcv.transforms.processing'  # where without an image most do nothing, silently
_MOVES_BOXES = ('scale_factor', 'flip')  # what a step leaves that moved the image under its boxes


@HOOKS.register_module()
class FirstSampleHook(Hook):
    """Stop a run before its first step where a pipeline fails or gives what cannot be used.

    Each step of the pipelines of the data sets that are built acts on the first image, one after
    the other. The random numbers of the run stay as they are. Says nothing when all is well.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Try out the pipelines.

        Raises:
            ConfigError: a step fails, or the steps are not those that this loop needs.
        """
        for split in _SPLITS:
            loop: Any = getattr(runner, f'_{split}_loop', None)
            if hasattr(loop, 'dataloader'):
                for dataset in base_datasets(loop.dataloader.dataset):
                    _try_pipeline(f'{split}_dataloader.dataset.pipeline', dataset, split)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                _check_arguments(hook, runner)


def _try_pipeline(place: str, dataset: Any, split: str) -> None:
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    if steps is None or not hasattr(dataset, 'get_data_info') or not len(dataset):
        return
    results: Any = dataset.get_data_info(0)
    image = results.get('img_path', 'the first image')
    with _same_random_numbers():
        for number, step in enumerate(steps):
            name = f'{place}.{number} ({type(step).__name__})'
            had_boxes, moved = _state_of(results)
            if isinstance(results, Mapping) and 'data_samples' in results:
                raise ConfigError(
                    f'{name} comes after PackDetInputs, which must be the last step of a pipeline'
                )
            if type(step).__module__ == _NEEDS_IMAGE and 'img' not in results:
                raise ConfigError(f'{name} needs an image: LoadImageFromFile is missing before it')
            try:
                results = step(results)
            except Exception as error:
                if number == 0 and getattr(dataset, 'on_error', 'raise') == 'skip':
                    return
                raise ConfigError(_describe_failure(name, step, image, error)) from error
            if results is None:  # the step leaves this image out
                return
            if split == 'train' and moved and not had_boxes and _state_of(results)[0]:
                raise ConfigError(
                    f'{name} comes after a step that resizes or flips the image, and its boxes '
                    'would stay where they were: in a training pipeline it must come before'
                )
    _check_packed(place, [type(step).__name__ for step in steps], results, split)


def _state_of(results: Any) -> tuple[bool, bool]:
    """Whether there are boxes, and whether the image was moved."""
    if not isinstance(results, Mapping):
        return False, False
    return 'gt_bboxes' in results, any(results.get(key) for key in _MOVES_BOXES)


def _describe_failure(name: str, step: Any, image: str, error: Exception) -> str:
    if isinstance(error, KeyError) and error.args and error.args[0] in _MADE_BY:
        return (
            f'{name} needs {error.args[0]!r}, which {_MADE_BY[error.args[0]]} makes: that step is '
            'missing before it'
        )
    settings = ' '.join(repr(step).split())
    return f'{name} fails at {image}: {describe(error)} (the step is {settings})'


def _check_packed(place: str, names: list[str], packed: Any, split: str) -> None:
    """Look at what the last step gives."""
    keys = set(packed) if isinstance(packed, Mapping) else set()
    if 'data_samples' not in keys:
        shown = ', '.join(names) or 'empty'
        raise ConfigError(
            f'{place} must end with PackDetInputs, which packs the image and its boxes; it is '
            f'{shown}'
        )
    if 'inputs' not in keys:
        raise ConfigError(f'{place} gives no image: LoadImageFromFile is missing')
    sample = packed['data_samples']
    if isinstance(sample, list):  # several views of an image
        sample = sample[0]
    if split == 'train':
        has = sample.gt_instances if 'gt_instances' in sample else ()
        missing = [field for field in ('bboxes', 'labels') if field not in has]
        if missing:
            raise ConfigError(
                f'{place} gives no {" and no ".join(missing)} to learn from: LoadAnnotations (with '
                'with_bbox=True and with_label=True) is missing'
            )
        return
    wanted = ['img_id', 'ori_shape', 'img_shape']
    if sample.get('ori_shape') != sample.get('img_shape'):
        wanted.append('scale_factor')
    absent = [key for key in wanted if key not in sample]
    if absent:
        raise ConfigError(
            f'{place}: {", ".join(absent)} of the image is missing in what PackDetInputs gives, '
            'but is needed to bring detections back to the original image: a step before must make '
            'it, and meta_keys of PackDetInputs, where given, must name it'
        )


def _check_arguments(hook: CheckpointHook, runner: Runner) -> None:
    """Refuse what CheckpointHook would hand on at the end of the first epoch."""
    known = parameters_of(runner.save_checkpoint)
    for name in hook.args.keys() - known:
        near = nearest(name, known | parameters_of(CheckpointHook))
        advice = f'; nearest: {" or ".join(near)}' if near else ''
        raise ConfigError(
            f'default_hooks.checkpoint (CheckpointHook): unexpected keyword argument {name!r}'
            f'{advice}'
        )


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave the generators of random numbers as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
