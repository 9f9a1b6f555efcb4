"""Pictures of ground truth and detections."""

from ghmdet.visualization.drawing import DetLocalVisualizer, DetVisualizationHook

__all__ = ['DetLocalVisualizer', 'DetVisualizationHook']
