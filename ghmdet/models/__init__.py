"""Networks: the detector and its backbone, neck and head."""

from ghmdet.losses import GHMC, GHMR, CrossEntropyLoss, FocalLoss, L1Loss, SmoothL1Loss

from .data_preprocessor import BatchFixedSizePad, DetDataPreprocessor
from .fpn import FPN
from .resnet import ResNet, ResNeXt
from .retina_head import RetinaHead
from .retinanet import RetinaNet
from .tta import DetTTAModel

__all__ = [
    'FPN',
    'GHMC',
    'GHMR',
    'BatchFixedSizePad',
    'CrossEntropyLoss',
    'DetDataPreprocessor',
    'DetTTAModel',
    'FocalLoss',
    'L1Loss',
    'ResNeXt',
    'ResNet',
    'RetinaHead',
    'RetinaNet',
    'SmoothL1Loss',
]
