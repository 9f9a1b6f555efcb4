"""Geometry on plain tensors: anchors, matching, coding, post-processing."""

from .anchor_generator import AnchorGenerator
from .delta_xywh_bbox_coder import DeltaXYWHBBoxCoder
from .max_iou_assigner import AssignResult, MaxIoUAssigner
from .postprocess import class_wise_nms, finish_detections, select_candidates

__all__ = [
    'AnchorGenerator',
    'AssignResult',
    'DeltaXYWHBBoxCoder',
    'MaxIoUAssigner',
    'class_wise_nms',
    'finish_detections',
    'select_candidates',
]
