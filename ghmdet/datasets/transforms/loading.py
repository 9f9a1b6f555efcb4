"""The first steps of a pipeline: the image and its boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghmdet.argument_checks import check_integer
from ghmdet.datasets.image_file import (
    COLOR_TYPES,
    MAX_PIXELS,
    ImageError,
    applies_exif,
    read_image,
)
from ghmdet.datasets.transforms.pipeline import Transform, image_name
from ghmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImageFromFile(Transform):
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
class LoadAnnotations(Transform):
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
