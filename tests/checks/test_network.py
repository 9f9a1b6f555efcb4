"""Backbone, neck and head that do not fit together are refused."""

import pytest
import torch

from ghmdet import get_config
from ghmdet.checks.network import check_network
from ghmdet.config.cfg_options import merge_options
from ghmdet.config.errors import ConfigError
from ghmdet.registry import MODELS


def make(options):
    cfg = get_config('retinanet_ghm_r18_fpn_shapes')
    merge_options(cfg, dict(options))
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (
            {'model.neck.in_channels': [256, 512, 1024, 2048]},
            'model.neck.in_channels=[256, 512, 1024, 2048], but model.backbone returns maps of '
            '[64, 128, 256, 512] channels: set model.neck.in_channels=[64, 128, 256, 512], or '
            'change model.backbone',
        ),
        (
            {'model.bbox_head.in_channels': 256},
            'model.bbox_head.in_channels=256, but model.neck returns maps of [64, 64, 64] '
            'channels: set model.bbox_head.in_channels=64, or change model.neck',
        ),
        (
            {'model.neck': None},
            'model.bbox_head.in_channels=64, but model.backbone returns maps of [64, 128, 256, '
            '512] channels: add a model.neck, e.g. an FPN',
        ),
        (
            {'model.neck.num_outs': 5},
            'model.bbox_head.anchor_generator.strides=[8, 16, 32], but model.neck returns 5 maps '
            'of strides [8, 16, 32, 64, 64]',
        ),
        (
            {'model.bbox_head.anchor_generator.strides': [4, 8, 16]},
            'model.bbox_head.anchor_generator.strides=[4, 8, 16], but model.neck returns 3 maps of '
            'strides [8, 16, 32]: set these strides, or change model.neck.num_outs and '
            'start_level, or model.backbone.out_indices',
        ),
    ],
)
def test_what_does_not_fit(options, text):
    with pytest.raises(ConfigError) as caught:
        check_network(*make(options))
    assert str(caught.value).startswith(text)


def test_the_network_and_the_random_numbers_stay_as_they_are():
    cfg, model = make({'model.backbone.norm_eval': False})
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check_network(cfg, model)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_other_detectors_are_skipped():
    check_network(get_config('retinanet_ghm_r18_fpn_shapes'), torch.nn.Linear(1, 1))
