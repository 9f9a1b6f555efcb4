"""The steps of a pipeline, and what runs them.

mmcv's transforms are used between the first and the last too. Its Resize, RandomFlip,
RandomChoiceResize, RandomResize and Pad act on a plain `gt_bboxes` array and never drop a box, so
labels and ignore flags stay aligned with it. The steps here that drop boxes drop these too.
"""

from ghmdet.datasets.transforms.annotations import FilterAnnotations
from ghmdet.datasets.transforms.crop import MinIoURandomCrop, RandomCrop
from ghmdet.datasets.transforms.formatting import PackDetInputs
from ghmdet.datasets.transforms.geometric import Expand, RandomAffine
from ghmdet.datasets.transforms.loading import LoadAnnotations, LoadImageFromFile
from ghmdet.datasets.transforms.photometric import PhotoMetricDistortion
from ghmdet.datasets.transforms.pipeline import PipelineError, SkippedImageError
from ghmdet.datasets.transforms.torchvision_transform import TorchvisionTransform

__all__ = [
    'Expand',
    'FilterAnnotations',
    'LoadAnnotations',
    'LoadImageFromFile',
    'MinIoURandomCrop',
    'PackDetInputs',
    'PhotoMetricDistortion',
    'PipelineError',
    'RandomAffine',
    'RandomCrop',
    'SkippedImageError',
    'TorchvisionTransform',
]
