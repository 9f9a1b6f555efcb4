"""Pictures of ground truth and detections."""

from ghmdet.visualization.drawing import DetLocalVisualizer
from ghmdet.visualization.hook import DetVisualizationHook

__all__ = ['DetLocalVisualizer', 'DetVisualizationHook']
