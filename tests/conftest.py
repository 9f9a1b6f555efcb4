"""What all tests need."""

import os

os.environ['OMP_NUM_THREADS'] = '1'  # read when torch is imported; bits depend on it

import pytest
import torch
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

torch.set_num_threads(1)  # where a plugin was quicker


@pytest.fixture(autouse=True)
def instances_of_its_own():
    """mmengine names them by the second, so that the next test would write to this one's folder."""
    yield
    for kind in (MMLogger, MessageHub, Visualizer):
        kind._instance_dict.clear()
