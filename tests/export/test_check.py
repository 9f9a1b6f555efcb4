"""Files that differ from the original are found, whatever differs."""

import json

import pytest
import torch

from ghmdet import Detector
from ghmdet.datasets.image_file import ImageError
from ghmdet.export import check
from ghmdet.inference import iterate
from ghmdet.inference.model import init_detector

ROOM = dict(classes=('circle', 'square', 'triangle'))


@pytest.fixture
def model(exported):
    return init_detector(str(exported / 'config.py'), exported / 'model.pth')


@pytest.fixture
def compare(exported, model):
    """Compare the exported file with a detector of another model; three images."""

    def run(change, exact=True):
        other = init_detector(str(exported / 'config.py'), exported / 'model.pth')
        change(other)
        images = check.Images([*iterate(exported / 'data/val')][:3], 'val')
        return check.compare(Detector(exported / 'model.pt2'), Detector(other), images, exact)

    return run
