"""Operations and parameters, against published figures and counts by hand."""

import json

import pytest
from torch import nn

from ghmdet.registry import MODELS

CONFIG = """
model = dict(
    type='RetinaNet',
    backbone=dict(type='OneConvolution', looks={looks}),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=4, stacked_convs=0,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
            strides=[4]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_cls=dict(type='GHMC', use_sigmoid=True)))
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=[{resize}]))
"""


class OneConvolution(nn.Module):
    """3 to 8 channels, 3 x 3, stride 4; may look at a value, which the meta device cannot."""

    def __init__(self, looks):
        super().__init__()
        self.looks, self.conv = looks, nn.Conv2d(3, 8, 3, 4, 1, bias=False)

    def forward(self, x):
        return (self.conv(x / 2 if self.looks and x.max().item() > 1 else x),)


@pytest.fixture
def get_flops(run_tool, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS._module_dict, 'OneConvolution', OneConvolution)

    def run(*args, looks=False, resize=''):
        (tmp_path / 'a.py').write_text(CONFIG.format(looks=looks, resize=resize))
        return run_tool('analysis_tools/get_flops.py', 'a.py', *args)

    return run


def test_resnet_50(run_tool, tmp_path):
    """250.5 GMAC at 800 x 1344, and the published 37.97 M parameters of RetinaNet R-50."""
    args = 'retinanet_r50_fpn_1x_coco', '--out', tmp_path / 'new' / 'a.json'
    code, out, _ = run_tool('analysis_tools/get_flops.py', *args)
    assert code == 0
    assert 'input: 1 image of 800 x 1344 (height x width), padded from 800 x 1333' in out
    content = json.loads((tmp_path / 'new' / 'a.json').read_text())
    assert (content['shape'], content['parameters']) == ([800, 1344], 37_968_692)
    assert content['gflop'] == 2 * content['gmac'] == pytest.approx(501.0, abs=0.05)
    shares = {name: round(part['gflop']) for name, part in content['parts'].items()}
    assert shares == {'backbone': 175, 'neck': 36, 'bbox_head': 289}


@pytest.mark.parametrize('shape', [('64',), ('64', '64')])
def test_a_backbone_of_a_user(get_flops, tmp_path, shape):
    """16 x 16 positions; 3 * 9 * 8 multiplications each, and 8 * 9 * (2 + 4) of the head."""
    code, _, err = get_flops('--shape', *shape, '--out', 'a.json')
    assert code == 0, err
    parts = json.loads((tmp_path / 'a.json').read_text())['parts']
    assert parts['backbone'] == dict(gflop=256 * 432 / 1e9, gmac=256 * 216 / 1e9, parameters=216)
    assert parts['bbox_head']['gmac'] == 256 * 432 / 1e9


@pytest.mark.parametrize(
    ('resize', 'shape'),
    [
        ("dict(type='Resize', scale=(50, 30), keep_ratio=True)", '30 x 50'),
        ("dict(type='Resize', scale=(30, 50), keep_ratio=False)", '50 x 30'),
    ],
)
def test_the_shape_is_that_of_the_test_pipeline(get_flops, resize, shape):
    assert f'1 image of {shape} (height x width)\n' in get_flops(resize=resize)[1]


@pytest.mark.follows(
    'has no Resize with a scale', 'does not run on an image of', 'has no values; try'
)
def test_what_stops_the_count_says_what_to_do(get_flops):
    code, _, err = get_flops()
    assert (code, 'test_dataloader has no Resize with a scale' in err) == (1, True)
    code, _, err = get_flops('--shape', 64, looks=True)
    assert code == 1
    assert 'the model does not run on an image of 64 x 64: ' in err
    assert 'The meta device has no values; try --device cpu' in err
    assert get_flops('--shape', 64, '--device', 'cpu', looks=True)[0] == 0


@pytest.mark.parametrize('shape', [('0',), ('1', '2', '3'), ('1000000',)])
def test_wrong_shapes_are_errors(get_flops, shape):
    code, _, err = get_flops('--shape', *shape)
    assert (code, '--shape takes 1 or 2 numbers in 1 to 100,000' in err) == (2, True)
