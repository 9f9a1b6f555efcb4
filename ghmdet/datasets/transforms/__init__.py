"""The steps of a pipeline, and what runs them.

mmcv's transforms are used between the first and the last. Its Resize, RandomFlip,
RandomChoiceResize, RandomResize and Pad act on a plain `gt_bboxes` array and never drop a box, so
labels and ignore flags stay aligned with it.
"""

from ghmdet.datasets.transforms.formatting import PackDetInputs
from ghmdet.datasets.transforms.loading import LoadAnnotations, LoadImageFromFile
from ghmdet.datasets.transforms.pipeline import PipelineError, SkippedImageError

__all__ = [
    'LoadAnnotations',
    'LoadImageFromFile',
    'PackDetInputs',
    'PipelineError',
    'SkippedImageError',
]
