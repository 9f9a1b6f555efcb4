"""Datasets, transforms and samplers: from an annotation file to `inputs` and `data_samples`."""

from ghmdet.coco.reader import read_coco
from ghmdet.datasets.coco import CocoDataset
from ghmdet.datasets.image_folder import ImageFolder
from ghmdet.datasets.samplers import AspectRatioBatchSampler, GlobalBatchSampler
from ghmdet.datasets.shapes import SHAPES_CLASSES, draw_shapes
from ghmdet.datasets.transforms import LoadAnnotations, LoadImageFromFile, PackDetInputs
from ghmdet.datasets.voc import VOCDataset

__all__ = [
    'SHAPES_CLASSES',
    'AspectRatioBatchSampler',
    'CocoDataset',
    'GlobalBatchSampler',
    'ImageFolder',
    'LoadAnnotations',
    'LoadImageFromFile',
    'PackDetInputs',
    'VOCDataset',
    'draw_shapes',
    'read_coco',
]
