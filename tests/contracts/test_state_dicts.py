"""Names, order, shapes and types of weights are MMDetection's, so its checkpoints fit."""

import pytest
import torch
from mmengine.config import Config

import ghmdet
from ghmdet.registry import MODELS
from tests import golden


@pytest.mark.parametrize('name', ['r50', 'r101', 'x101_32x4d', 'x101_64x4d'])
def test_state_dict_is_golden(name):
    figures = golden.state_dicts()[name]
    config = ghmdet.config_path(f'retinanet_ghm_{name}_fpn_1x_coco')
    with torch.device('meta'):
        model = MODELS.build(Config.fromfile(config).model)
    found = [
        (key, [list(value.shape), str(value.dtype).removeprefix('torch.')])
        for key, value in model.state_dict().items()
    ]
    assert found == list(figures['tensors'].items())
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(size for size, _ in sizes) == figures['params']
    assert sum(size for size, trained in sizes if trained) == figures['trainable']
