"""Turns the convolutions of an ONNX file into those of 8-bit integers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ghmdet.export.onnx import write_metadata
from ghmdet.inference import Detector, SourceImage


def quantize(
    file: str, detector: Detector, sources: Sequence[SourceImage], metadata: Mapping[str, Any]
) -> None:
    """Replace an ONNX file by one with 8-bit weights and activations.

    The range of the activations is that which they have in the images of `sources`, which
    `detector` prepares. `metadata` is that of the file.
    """
    prepared, reader = f'{file}.prepared', _Reader(_make_inputs(detector, sources, metadata))
    try:
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            file,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv'],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        if os.path.exists(prepared):
            os.unlink(prepared)
    model = onnx.load(file)
    write_metadata(model, {**metadata, 'int8': True})
    onnx.save(model, file)


class _Reader(CalibrationDataReader):
    def __init__(self, inputs: Iterator[dict[str, np.ndarray]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)


def _make_inputs(
    detector: Detector, sources: Sequence[SourceImage], metadata: Mapping[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    for source in sources:
        data = detector.prepare(source)
        image, factors = data['inputs'], data['data_samples'].get('scale_factor', (1, 1))
        height, width = image.shape[1:]
        images = np.zeros((1, 3, *(metadata['static'] or (height, width))), np.float32)
        images[0, :, :height, :width] = image
        sizes, scale_factors = np.array([[height, width]]), np.array([factors], np.float32)
        yield dict(images=images, sizes=sizes, scale_factors=scale_factors)
