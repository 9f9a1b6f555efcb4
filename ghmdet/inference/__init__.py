"""Detections in images of any source with a trained model."""

from ghmdet.inference.detections import Detections
from ghmdet.inference.detector import Detector
from ghmdet.inference.sources import SourceImage, image_name, iterate

__all__ = ['Detections', 'Detector', 'SourceImage', 'image_name', 'iterate']
