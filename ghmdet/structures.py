"""DetDataSample, the sample between the data pipeline and the metric.

Keys of `DetDataSample.metainfo` (sizes are in pixels, mind the order):

| key | value |
|---|---|
| `img_id` | the image's id in the annotation file |
| `img_path` | where the image was read from |
| `ori_shape` | (h, w) of the file |
| `img_shape` | (h, w) after resizing, before padding |
| `pad_shape` | (h, w) of this image padded to the size divisor |
| `batch_input_shape` | (h, w) of the whole batch, the input of the network |
| `scale_factor` | (w, h) factors, img_shape / ori_shape |
| `flip`, `flip_direction` | whether mirrored, and 'horizontal', 'vertical', 'diagonal' or None |
| `is_padding` | True: repeats an image to pad the batch of a process; not used in the loss |
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor

__all__ = ['DetDataSample', 'InstanceData']


class DetDataSample(BaseDataElement):
    """Annotations and detections of one image, with its metainfo.

    Boxes are (n, 4) x1, y1, x2, y2 in pixels: `gt_instances` and `ignored_instances` in the frame
    of the network's input, `pred_instances` in the original frame unless `predict(rescale=False)`.
    """

    gt_instances: InstanceData
    """Objects to learn: `bboxes` float32 (G, 4), `labels` int64 (G,)."""
    ignored_instances: InstanceData
    """Crowd regions, neither object nor background: `bboxes` (I, 4), `labels` (I,)."""
    pred_instances: InstanceData
    """Detections, best first: `bboxes` (n, 4), `scores` (n,) in [0, 1], `labels` (n,)."""


def _reduce_instances(data: InstanceData) -> tuple[Callable, tuple]:
    """Send boxes, labels and scores from a data loader's worker as bytes.

    Each tensor would be sent as a file descriptor, which takes longer than the copy of a few boxes.
    """
    items = dict(data.items())
    sent = {
        name: value.numpy()
        for name, value in items.items()
        if isinstance(value, Tensor) and value.is_cpu and value.dtype in _SENT_AS_BYTES
    }
    return _rebuild_instances, (type(data), data.metainfo, items | sent, list(sent))


def _rebuild_instances(
    kind: type[InstanceData], metainfo: dict[str, Any], items: dict[str, Any], sent: list[str]
) -> InstanceData:
    return kind(metainfo=metainfo, **items | {name: torch.from_numpy(items[name]) for name in sent})


_SENT_AS_BYTES = (torch.float32, torch.int64, torch.bool)
ForkingPickler.register(InstanceData, _reduce_instances)
