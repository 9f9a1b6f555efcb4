"""What runs the steps of a pipeline on an image, and the base class of our steps."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
from mmcv.transforms import BaseTransform

from ghmdet.datasets.image_file import ImageError, opencv_text

# Where the sides differ by this factor, a side can become 0 pixels when the image is resized.
THIN = 10


class SkippedImageError(ImageError):
    """A step returned None, by which it asks for another image."""


class PipelineError(RuntimeError):
    """A step failed, and not because of the image file; the message names image, step and error."""


class Transform(BaseTransform):
    """A step of a pipeline that shows its settings."""

    moves_boxes = False
    """Whether boxes are elsewhere after it, and nothing in the results says where."""

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({settings})'


def image_name(info: Mapping) -> str:
    """Name an image in messages, by what the pipeline starts from."""
    name = f'image {info.get("img_path", "without img_path")}'
    return f'{name} (id {info["img_id"]!r})' if 'img_id' in info else name


def run_steps(steps: Sequence[Callable], info: dict, name: str = '') -> Any:
    """Run all steps of a pipeline on one image; its `name` in messages is by default path and id.

    Raises:
        ImageError: the image cannot be used, see `run_step`.
        PipelineError: a step raised any other error.
    """
    results, name = info, name or image_name(info)
    for number, step in enumerate(steps):
        place = f'step {number} ({type(step).__name__}) of the pipeline'
        try:
            results = run_step(step, results, name, place)
        except ImageError:
            raise
        except Exception as error:
            callers = [
                frame.f_locals.get('self') for frame, _ in traceback.walk_tb(error.__traceback__)
            ]
            inner = [type(each).__name__ for each in callers if isinstance(each, BaseTransform)]
            within = f' in {inner[-1]}' if inner and inner[-1] != type(step).__name__ else ''
            text = f'{type(error).__name__}: {" ".join(str(error).split())}'
            if isinstance(error, cv2.error):
                text = f'OpenCV: {opencv_text(error)}'
            raise PipelineError(f'{name}: {place} fails{within} with {text}') from error
    return results


def run_step(step: Callable, results: Any, name: str, place: str) -> Any:
    """Run one step of a pipeline; image and step are named so in messages.

    Raises:
        ImageError: the image cannot be read, or it is so thin that nothing is left of it.
        SkippedImageError: the step returned None.
    """
    height, width = results.get('ori_shape', (1, 1)) if isinstance(results, Mapping) else (1, 1)
    try:
        results = step(results)
    except cv2.error as error:
        if max(height, width) < THIN * min(height, width):
            raise
        raise ImageError(
            f'{name} is {width}x{height} (width x height), of which {place} leaves no pixel: it is '
            "too thin. Remove it, or set on_error='skip' of the training dataset "
            f'(OpenCV: {opencv_text(error)})'
        ) from error
    if results is None:
        raise SkippedImageError(
            f'{name} is skipped: {place} returns None, which only training allows'
        )
    if isinstance(results, Mapping) and getattr(results.get('img'), 'size', 1) == 0:
        raise ImageError(
            f'{name} is {width}x{height} (width x height), of which {place} leaves no pixel'
        )
    return results
