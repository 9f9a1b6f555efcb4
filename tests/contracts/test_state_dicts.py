"""Names, order, shapes and types of weights are MMDetection's, so its checkpoints fit."""

import pytest
from mmengine.config import Config

import ghmdet
from ghmdet.registry import MODELS
from tests import golden

MODELS_OF = dict(
    r50='retinanet_ghm_r50_fpn_1x_coco',
    r101='retinanet_ghm_r101_fpn_1x_coco',
    x101_32x4d='retinanet_ghm_x101_32x4d_fpn_1x_coco',
    x101_64x4d='retinanet_ghm_x101_64x4d_fpn_1x_coco',
)


@pytest.mark.parametrize('name', MODELS_OF)
def test_state_dict_is_golden(name):
    figures = golden.state_dicts()[name]
    model = MODELS.build(Config.fromfile(ghmdet.config_path(MODELS_OF[name])).model)
    found = [
        (key, [list(value.shape), str(value.dtype).removeprefix('torch.')])
        for key, value in model.state_dict().items()
    ]
    assert found == list(figures['tensors'].items())
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    assert sum(size for size, _ in sizes) == figures['params']
    assert sum(size for size, trained in sizes if trained) == figures['trainable']
