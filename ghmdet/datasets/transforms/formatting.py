"""The last step of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from ghmdet.datasets.transforms.pipeline import Transform
from ghmdet.registry import TRANSFORMS
from ghmdet.structures import DetDataSample, InstanceData


@TRANSFORMS.register_module()
class PackDetInputs(Transform):
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
