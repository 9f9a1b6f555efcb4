"""Backbone, neck and head that do not fit together are refused."""

import pytest
import torch

from ghmdet import get_config
from ghmdet.checks.network import check_network
from ghmdet.config.cfg_options import merge_options
from ghmdet.config.errors import ConfigError
from ghmdet.registry import MODELS
from tests.checks.conftest import message_of

STRIDES = 'bbox_head.anchor_generator.strides'


def make(key, value):
    cfg = get_config('retinanet_ghm_r18_fpn_shapes')
    merge_options(cfg, {f'model.{key}': value})
    return cfg, MODELS.build(cfg.model)


@pytest.mark.parametrize(
    ('key', 'value', 'text'),
    [
        (
            *('neck.in_channels', [256, 512, 1024, 2048]),
            'neck.in_channels=[256, 512, 1024, 2048], but model.backbone returns maps of '
            '[64, 128, 256, 512] channels: set model.neck.in_channels=[64, 128, 256, 512], or '
            'change model.backbone',
        ),
        (
            *('bbox_head.in_channels', 256),
            'bbox_head.in_channels=256, but model.neck returns maps of [64, 64, 64] channels: set '
            'model.bbox_head.in_channels=64, or change model.neck',
        ),
        (
            *('neck', None),
            'bbox_head.in_channels=64, but model.backbone returns maps of [64, 128, 256, 512] '
            'channels: add a model.neck, e.g. an FPN',
        ),
        (
            *('neck.num_outs', 5),
            f'{STRIDES}=[8, 16, 32], but model.neck returns 5 maps of strides [8, 16, 32, 64, 64]',
        ),
        (
            *(STRIDES, [4, 8, 16]),
            f'{STRIDES}=[4, 8, 16], but model.neck returns 3 maps of strides [8, 16, 32]: set '
            'these strides, or change model.neck.num_outs and start_level, or '
            'model.backbone.out_indices',
        ),
    ],
)
def test_what_does_not_fit(key, value, text):
    assert message_of(ConfigError, check_network, *make(key, value)).startswith(f'model.{text}')


def test_the_network_and_the_random_numbers_stay_as_they_are():
    cfg, model = make('backbone.norm_eval', False)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    check_network(cfg, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    check_network(cfg, torch.nn.Linear(1, 1))  # another detector is skipped
