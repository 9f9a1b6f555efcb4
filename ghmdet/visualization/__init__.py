"""Draws ground truth and detections into images."""

from ghmdet.visualization.drawing import DetLocalVisualizer
from ghmdet.visualization.hook import DetVisualizationHook
from ghmdet.visualization.trackers import TrackerVisBackend

__all__ = ['DetLocalVisualizer', 'DetVisualizationHook', 'TrackerVisBackend']
