"""Detections in images of any source with a trained model."""

from ghmdet.inference.det_inferencer import DetInferencer
from ghmdet.inference.detections import Detections
from ghmdet.inference.detector import Detector
from ghmdet.inference.sources import SourceImage, image_name, iterate
from ghmdet.inference.torchvision_model import TorchvisionModel, as_torchvision

__all__ = ['DetInferencer', 'Detections', 'Detector', 'SourceImage', 'TorchvisionModel']
__all__ += ['as_torchvision', 'image_name', 'iterate']
