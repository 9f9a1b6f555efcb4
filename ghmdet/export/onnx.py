"""Translates the detector to ONNX."""

from __future__ import annotations

from typing import Any

import torch
from onnxscript import INT64
from onnxscript import opset20 as op
from torch import nn

from ghmdet.export.graph import INPUTS, OUTPUTS


def top_k(scores: Any, k: int, threshold: float) -> Any:
    n = op.Shape(scores, start=1, end=2)
    size = op.Min(n, op.Constant(value_ints=[k])) if k > 0 else n
    values, inds = op.TopK(scores, size, axis=1)
    thr = op.Constant(value_float=threshold)
    zero = op.Constant(value_float=0.0)
    return op.Where(op.Greater(values, thr), values, zero), inds


def keep_by_nms(bboxes: Any, scores: Any, iou_thr: float, most: int) -> Any:
    n = op.Shape(scores, start=1, end=2)
    k = op.Min(n, op.Constant(value_ints=[most])) if most > 0 else n
    sel = op.NonMaxSuppression(
        bboxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        k,
        op.Constant(value_floats=[iou_thr]),
        op.Constant(value_floats=[0.0]),
    )
    where = op.Gather(sel, op.Constant(value_ints=[0, 2]), axis=1)
    nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(scores))
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(sel, start=0, end=1))
    return op.Cast(op.ScatterND(nothing, where, ones), to=9)
