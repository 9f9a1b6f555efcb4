"""Writes the traced detector as ONNX."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op

from ghmdet.export.graph import name_dimensions
from ghmdet.inference.exported import INPUTS, OUTPUTS


def save_onnx(
    program: torch.export.ExportedProgram,
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
) -> None:
    """Write a traced detector as one file of opset 20."""
    ops: Any = torch.ops.ghmdet
    table: dict = {ops.top_k.default: _top_k, ops.keep_by_nms.default: _keep_by_nms}
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_shapes=name_dimensions(metadata['static']),
        custom_translation_table=table,
        opset_version=20,
        verbose=False,
    )
    model = exported.model_proto
    write_metadata(model, metadata)
    onnx.save(model, os.fspath(path))


def write_metadata(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Set the metadata of a model: each value is a JSON text."""
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    onnx.helper.set_model_props(model, texts)


def _top_k(scores: Any, k: int, threshold: float) -> Any:
    """Translate `ghmdet::top_k`; ONNX too takes equal values in order."""
    values, inds = op.TopK(scores, _at_most(k, scores), axis=1)
    is_kept = op.Greater(values, op.Constant(value_float=threshold))
    return op.Where(is_kept, values, op.Constant(value_float=0.0)), inds


def _keep_by_nms(bboxes: Any, scores: Any, iou_thr: float, most: int) -> Any:
    """Translate `ghmdet::keep_by_nms`."""
    selected = op.NonMaxSuppression(  # rows of image, class, box
        bboxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        _at_most(most, scores),
        op.Constant(value_floats=[iou_thr]),
        op.Constant(value_floats=[0.0]),
    )
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_int=1), op.Shape(selected, start=0, end=1))
    zeros = op.Expand(op.Constant(value_int=0), op.Shape(scores))
    return op.Cast(op.ScatterND(zeros, places, ones), to=onnx.TensorProto.BOOL)


def _at_most(k: int, rows: Any) -> Any:
    """Return min(k, length of the rows) as a tensor (1,); k that is not positive is no limit."""
    length = op.Shape(rows, start=1, end=2)
    return op.Min(length, op.Constant(value_ints=[k])) if k > 0 else length
