"""Tries a pipeline on an image of its dataset, so that its faults are found before a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from ghmdet.config.cli import describe
from ghmdet.config.errors import ConfigError
from ghmdet.datasets.coco_images import CocoImages
from ghmdet.datasets.image_file import ImageError, opencv_text
from ghmdet.datasets.random_state import preserve_random_state
from ghmdet.datasets.transforms.pipeline import THIN, SkippedImageError, image_name, run_step

_TRIES = 16  # images
_MADE_BY = {'img': 'LoadImageFromFile', 'gt_bboxes': 'LoadAnnotations'}
_NEEDS_IMAGE = 'mmcv.transforms.processing'  # most transforms here silently do nothing without one


def try_pipeline(
    key: str, dataset: Any, split: str, truth: bool = False, need: tuple[str, ...] = ()
) -> None:
    """Apply each transform of a dataset's pipeline to one image, and check the result.

    This is the first image, or one that may be too thin to be resized. An image that the pipeline
    skips is replaced by the next one, up to 16 times. The state of the random number generators is
    kept. A dataset without a pipeline or `get_data_info` is skipped.

    The split decides what the result must contain: also the ground truth if a metric takes it from
    there (`truth`), and further metainfo of val or test (`need`). `key` is that of the pipeline. A
    ConfigError if a transform fails, comes too late or too early, or is missing.
    """
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
    if steps is None or not hasattr(dataset, 'get_data_info') or not len(dataset):
        return
    truth = truth and not any('instances' in getattr(step, 'meta_keys', ()) for step in steps)
    with preserve_random_state():
        order = [*_find_thinnest(dataset), *range(min(len(dataset), _TRIES))]
        for index in order:
            try:
                results = _try_steps(key, steps, dataset.get_data_info(index), split, truth)
                break
            except ImageError as error:
                skips = getattr(dataset, 'on_error', 'raise') == 'skip'
                if isinstance(error, SkippedImageError):
                    skips = split == 'train' and index != order[-1]
                if not skips:
                    raise ConfigError(f'{key}: {error}') from error
        else:
            return
    names = [type(step).__name__ for step in steps]
    _check_packed(key, names, results, split, truth or split == 'train', need)


def _find_thinnest(dataset: Any) -> list[int]:
    """Return the index of the thinnest image, if it is so thin that resizing it may fail."""
    images = getattr(dataset, 'data_list', None)
    if not isinstance(images, CocoImages):
        return []
    sides = np.array([images.fields[side].tolist() for side in ('width', 'height')])
    ratios = sides.max(axis=0) / sides.min(axis=0)
    return [int(ratios.argmax())] if ratios.max() >= THIN else []


def _try_steps(key: str, steps: Sequence[Callable], results: Any, split: str, truth: bool) -> Any:
    image, hidden = image_name(results), False
    for number, step in enumerate(steps):
        name = f'{key}.{number} ({type(step).__name__})'
        had_boxes, moved = _state_of(results)
        moved |= hidden
        hidden |= getattr(step, 'moves_boxes', False)
        if hidden and split != 'train':
            raise ConfigError(
                f'{name} is for training: it moves boxes so that detections cannot be scaled back '
                'to the image; remove it from this pipeline'
            )
        if isinstance(results, Mapping) and 'data_samples' in results:
            raise ConfigError(
                f'{name} comes after PackDetInputs, which must be the last step of a pipeline'
            )
        if type(step).__module__ == _NEEDS_IMAGE and 'img' not in results:
            raise ConfigError(f'{name} needs an image: LoadImageFromFile is missing before it')
        try:
            results = run_step(step, results, image, name)
        except ImageError:
            raise
        except Exception as error:
            raise ConfigError(_describe_failure(name, step, image, error)) from error
        if split == 'train' and moved and not had_boxes and _state_of(results)[0]:
            raise ConfigError(
                f'{name} must come before the steps that resize, flip or crop the image in a '
                'training pipeline, since they would not move its boxes'
            )
        if truth and had_boxes and not moved and _are_moved(results):
            raise ConfigError(
                f'{name} must come before LoadAnnotations, since {split}_evaluator has no ann_file '
                'and needs the boxes as they are in the original image'
            )
    return results


def _state_of(results: Any) -> tuple[bool, bool]:
    """Whether there are boxes, and whether the image was resized or flipped (crops not seen)."""
    if not isinstance(results, Mapping):
        return False, False
    return 'gt_bboxes' in results, bool(results.get('scale_factor') or results.get('flip'))


def _are_moved(results: Any) -> bool:
    """Whether boxes are elsewhere than in the original image; resizing by a factor of 1 is none."""
    changed = _state_of(results)[1]
    return changed and (results.get('scale_factor', (1, 1)) != (1, 1) or bool(results.get('flip')))


def _describe_failure(name: str, step: Any, image: str, error: Exception) -> str:
    if isinstance(error, KeyError) and error.args and (key := error.args[0]) in _MADE_BY:
        return f'{name} needs {key!r} from {_MADE_BY[key]}: that step is missing before it'
    settings, path = ' '.join(repr(step).split()), image.removeprefix('image ')
    text = opencv_text(error) if isinstance(error, cv2.error) else describe(error)
    return f'{name} fails at {path}: {text} (the step is {settings})'


def _check_packed(
    key: str, names: list[str], packed: Any, split: str, truth: bool, need: tuple[str, ...]
) -> None:
    keys = set(packed) if isinstance(packed, Mapping) else set()
    if 'data_samples' not in keys:
        shown = ', '.join(names) or 'empty'
        raise ConfigError(
            f'{key} must end with PackDetInputs, which packs the image and its boxes; got {shown}'
        )
    if 'inputs' not in keys:
        raise ConfigError(f'{key} returns no image: LoadImageFromFile is missing')
    sample = packed['data_samples']
    if isinstance(sample, list):  # several views of an image
        sample = sample[0]
    if truth:
        has = sample.gt_instances if 'gt_instances' in sample else ()
        missing = [field for field in ('bboxes', 'labels') if field not in has]
        if missing:
            why = 'train on' if split == 'train' else 'measure with (the evaluator has no ann_file)'
            raise ConfigError(
                f'{key} returns no {" and no ".join(missing)} to {why}: LoadAnnotations (with '
                'with_bbox=True and with_label=True) is missing'
            )
    if split == 'train':
        return
    wanted = ['img_id', 'ori_shape', 'img_shape', *need]
    if sample.get('ori_shape') != sample.get('img_shape'):
        wanted.append('scale_factor')
    absent = [key for key in wanted if key not in sample]
    if absent:
        raise ConfigError(
            f'{key}: {", ".join(absent)} of the image is missing in the result of PackDetInputs, '
            'but is needed to scale detections to the original image and to tell images apart: an '
            'earlier step must set it, and meta_keys of PackDetInputs, if given, must contain it'
        )
