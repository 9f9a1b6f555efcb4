"""The first and last steps of a pipeline, and what runs its steps on an image.

mmcv's transforms are used between the former. Its Resize, RandomFlip, RandomChoiceResize,
RandomResize and Pad act on a plain `gt_bboxes` array and never drop a box, so labels and ignore
flags stay aligned with it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch import Tensor

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.image_file import (
    COLOR_TYPES,
    MAX_PIXELS,
    ImageError,
    applies_exif,
    opencv_text,
    read_image,
)
from ghmdet.registry import TRANSFORMS
from ghmdet.structures import DetDataSample, InstanceData

# Where the sides differ by this factor, a side can become 0 pixels when the image is resized.
THIN = 10


class SkippedImageError(ImageError):
    """A step returned None, by which it asks for another image."""


class PipelineError(RuntimeError):
    """A step failed, and not because of the image file; the message names image, step and error."""


class _Transform(BaseTransform):
    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in vars(self).items())
        return f'{type(self).__name__}({settings})'


@TRANSFORMS.register_module()
class LoadImageFromFile(_Transform):
    """Decode the image at `img_path`, as `ghmdet.datasets.image_file` says.

    Adds `img` uint8 (h, w, 3) in BGR, `img_shape` and `ori_shape` (h, w). Where the results have
    `height` and `width`, those of the annotation file, the image must have that size. mmcv's class
    of this name does not check the size, accepts truncated files, and its errors name no file.

    Args:
        to_float32: whether to make the image float32.
        color_type: 'color', or 'color_ignore_orientation' if the boxes were drawn on the image as
            stored, without regard to EXIF; also mmcv's 'grayscale', 'unchanged' and
            'grayscale_ignore_orientation'.
        imdecode_backend: always OpenCV; 'pillow' and 'turbojpeg', which decode a JPEG to the same
            pixels, are accepted and make no difference.
        file_client_args: the old name of `backend_args`.
        ignore_empty: leave out an image that cannot be used instead of raising.
        max_pixels: an image of more pixels is refused before it is decoded.
        backend_args: what `mmengine.fileio.get` needs for storage that is not a local disk.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str | None = 'cv2',
        file_client_args: dict | None = None,
        ignore_empty: bool = False,
        *,
        max_pixels: int = MAX_PIXELS,
        backend_args: dict | None = None,
    ) -> None:
        if color_type not in COLOR_TYPES:
            raise ValueError(
                f'LoadImageFromFile: color_type must be one of {list(COLOR_TYPES)}, '
                f'got {color_type!r}'
            )
        if imdecode_backend not in ('cv2', 'pillow', 'turbojpeg', None):
            raise ValueError(
                "LoadImageFromFile: imdecode_backend must be 'cv2' (or 'pillow' or 'turbojpeg', "
                f'which mean the same here), got {imdecode_backend!r}'
            )
        if file_client_args is not None:
            if backend_args is not None:
                raise ValueError('LoadImageFromFile: set backend_args, not file_client_args too')
            disk = file_client_args.get('backend', 'disk') == 'disk'
            backend_args = None if disk else file_client_args
        check_integer('LoadImageFromFile.max_pixels', max_pixels, 1)
        self.to_float32, self.color_type, self.ignore_empty = to_float32, color_type, ignore_empty
        self.max_pixels, self.backend_args = max_pixels, backend_args

    def transform(self, results: dict) -> dict | None:
        """Add the image to `results`, which have `img_path`; errors as of `read_image`."""
        path = results['img_path']
        sized = 'height' in results and 'width' in results
        try:
            img = self.read(
                path,
                expected_wh=(results['width'], results['height']) if sized else None,
                name=image_name(results) if sized else None,
            )
        except ImageError:
            if self.ignore_empty:
                return None
            raise
        results['img'] = img.astype(np.float32) if self.to_float32 else img
        results['img_shape'] = results['ori_shape'] = img.shape[:2]
        return results

    def read(self, path: str, *, in_color: bool = False, **kwargs: Any) -> np.ndarray:
        """Decode an image with these settings; `kwargs` are `expected_wh` and `name`.

        `in_color`, for drawing, gives uint8 (h, w, 3) in BGR for any `color_type`, which only
        decides then whether EXIF is applied.
        """
        color_type = self.color_type
        if in_color:
            color_type = 'color' if applies_exif(color_type) else 'color_ignore_orientation'
        kwargs |= dict(max_pixels=self.max_pixels, backend_args=self.backend_args)
        return read_image(path, color_type=color_type, **kwargs)


@TRANSFORMS.register_module()
class LoadAnnotations(_Transform):
    """Turn the `instances` of an image into arrays.

    Adds `gt_bboxes` float32 (n, 4) x1, y1, x2, y2 in pixels, `gt_bboxes_labels` int64 (n,) and
    `gt_ignore_flags` bool (n,), True for crowd regions; mmcv's class of this name lacks the flags.

    Args:
        with_bbox: whether to add boxes and flags.
        with_label: whether to add labels.
        with_mask: only False; ghmdet has no masks.
        with_seg: only False.
        box_type: 'hbox' or None; boxes are plain arrays either way.
    """

    def __init__(
        self,
        with_bbox: bool = True,
        with_label: bool = True,
        with_mask: bool = False,
        with_seg: bool = False,
        box_type: str | None = 'hbox',
    ) -> None:
        for key, value in (('with_mask', with_mask), ('with_seg', with_seg)):
            if value:
                raise ValueError(
                    f'LoadAnnotations: {key} must be False, got {value!r}; ghmdet detects boxes '
                    'only, remove the key from the pipeline in the config'
                )
        if box_type not in ('hbox', None):
            raise ValueError(f"LoadAnnotations: box_type must be 'hbox' or None, got {box_type!r}")
        self.with_bbox, self.with_label = with_bbox, with_label

    def transform(self, results: dict) -> dict:
        """Add the arrays, from dicts with `bbox`, `bbox_label`, `ignore_flag` in `instances`."""
        instances = results.get('instances', [])
        if self.with_bbox:
            bboxes = [instance['bbox'] for instance in instances]
            flags = [instance['ignore_flag'] for instance in instances]
            results['gt_bboxes'] = np.array(bboxes, dtype=np.float32).reshape(-1, 4)
            results['gt_ignore_flags'] = np.array(flags, dtype=bool)
        if self.with_label:
            labels = [instance['bbox_label'] for instance in instances]
            results['gt_bboxes_labels'] = np.array(labels, dtype=np.int64)
        return results


@TRANSFORMS.register_module()
class PackDetInputs(_Transform):
    """Turn the results of the pipeline into `inputs` and `data_samples`.

    `inputs` is the image as a tensor (3, h, w), uint8 unless an earlier step changed the type; a
    grey image (h, w) becomes (1, h, w). Its memory is the image's own, channels last: not `inputs`
    but `inputs.permute(1, 2, 0)` is contiguous. `data_samples` is a `DetDataSample` whose
    `gt_instances` and `ignored_instances` have `bboxes` float32 (n, 4) in pixels of `inputs` and
    `labels` int64 (n,), separated by `gt_ignore_flags`. Without annotations both are empty.

    Args:
        meta_keys: which keys of the results become metainfo; missing ones are skipped.
    """

    def __init__(
        self,
        meta_keys: Sequence[str] = (
            *('img_id', 'img_path', 'ori_shape', 'img_shape'),
            *('scale_factor', 'flip', 'flip_direction'),
        ),
    ) -> None:
        self.meta_keys = meta_keys

    def transform(self, results: dict) -> dict:
        """Pack `img`, `gt_bboxes`, `gt_bboxes_labels`, `gt_ignore_flags`, those that there are."""
        packed = {'inputs': _pack_image(results['img'])} if 'img' in results else {}
        metainfo = {key: results[key] for key in self.meta_keys if key in results}
        sample = DetDataSample(metainfo=metainfo)
        sample.gt_instances, sample.ignored_instances = _pack_instances(results)
        return {**packed, 'data_samples': sample}


def _pack_image(img: np.ndarray) -> Tensor:
    if img.strides[1] < 0:  # a mirrored view from RandomFlip, which cv2 copies much faster
        img = cv2.flip(np.ascontiguousarray(img[:, ::-1]), 1)
    if img.ndim == 2:
        img = img[..., None]
    # After a crop this copies the crop only, not the whole image.
    return torch.from_numpy(np.ascontiguousarray(img)).permute(2, 0, 1)


def _pack_instances(results: dict) -> tuple[InstanceData, InstanceData]:
    """Separate the objects from the regions to ignore."""
    gt, ignored = InstanceData(), InstanceData()
    found: dict[str, np.ndarray] = {}
    if 'gt_bboxes' in results:  # float64 after mmcv's Resize
        found['bboxes'] = np.asarray(results['gt_bboxes'], dtype=np.float32)
    if 'gt_bboxes_labels' in results:
        found['labels'] = np.asarray(results['gt_bboxes_labels'], dtype=np.int64)
    if not found:
        return gt, ignored
    num_gts = len(next(iter(found.values())))
    flags = np.asarray(results.get('gt_ignore_flags', np.zeros(num_gts)), dtype=bool)
    lengths = {name: len(value) for name, value in found.items()} | {'ignore flags': len(flags)}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f'PackDetInputs: boxes, labels and flags must have the same number, got {lengths}; a '
            'transform in the pipeline dropped some without the others (image '
            f'{results.get("img_path", results.get("img_id"))})'
        )
    for name, value in found.items():
        setattr(gt, name, torch.from_numpy(value[~flags]))
        setattr(ignored, name, torch.from_numpy(value[flags]))
    return gt, ignored


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
