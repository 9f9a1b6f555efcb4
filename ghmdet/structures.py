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

from mmengine.structures import BaseDataElement, InstanceData

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
