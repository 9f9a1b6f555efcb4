"""Turns the convolutions of an ONNX file into those of 8-bit integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ghmdet.export.onnx import write_metadata
from ghmdet.inference import Detector, SourceImage


def quantize(
    file: str,
    target: str,
    detector: Detector,
    sources: Sequence[SourceImage],
    metadata: Mapping[str, Any],
) -> None:
    """Write a file with 8-bit convolutions.

    The range of an activation is the mean of its ranges in the images of `sources`, which the
    detector prepares; that of the logits begins at the score threshold. `metadata` are the file's.
    """
    quant_pre_process(file, target, skip_symbolic_shape=True)
    nodes = onnx.load(target).graph.node
    head = 'model.bbox_head.retina_cls.weight'
    logits = [each.output[0] for each in nodes if head in each.input]
    low, high = find_logit_range(metadata['score_thr'])
    limits = dict(rmin=np.float32(low - (high - low) / 255), rmax=np.float32(high))
    quantize_static(
        target,
        target,
        _Reader(detector, sources, metadata['static']),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=['Conv', 'Relu', 'MaxPool'],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options=dict(
            CalibMovingAverage=True, TensorQuantOverrides={name: [limits] for name in logits}
        ),
    )
    model = onnx.load(target)
    write_metadata(model, {**metadata, 'int8': True})
    onnx.save(model, target)


def find_logit_range(score_thr: float) -> tuple[float, float]:
    """Return the logits of the score threshold and of a score near 1."""
    low = min(max(score_thr, 1e-4), 0.999)
    low = math.log(low / (1 - low))
    return low, max(low + 8, 5.0)


class _Reader(CalibrationDataReader):
    def __init__(self, detector: Detector, sources: Sequence[SourceImage], static: Any) -> None:
        self.data, self.static = map(detector.prepare, sources), static

    def get_next(self) -> dict[str, np.ndarray] | None:
        if (data := next(self.data, None)) is None:
            return None
        image, factors = data['inputs'], data['data_samples'].get('scale_factor', (1, 1))
        height, width = image.shape[1:]
        images = np.zeros((1, 3, *(self.static or (height, width))), np.float32)
        images[0, :, :height, :width] = image
        sizes, scale_factors = np.array([[height, width]]), np.array([factors], np.float32)
        return dict(images=images, sizes=sizes, scale_factors=scale_factors)
