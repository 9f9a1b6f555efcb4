"""Each published config, and a model of torchvision, exports; the file detects the same."""

import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ghmdet import get_model
from ghmdet.export import __main__ as program
from tests.detectors import randomize

GHM = 'retinanet_ghm_{}_fpn_1x_coco'
V1 = ['model.neck.add_extra_convs=on_output', 'model.neck.relu_before_extra_convs=True']


def tame(state_dict, classes, boxes):
    """Let a random network detect much, with scores far from 1 and boxes near the anchors."""
    state_dict[f'{classes}.weight'] *= 0.1
    state_dict[f'{classes}.bias'].fill_(-3.0)
    state_dict[f'{boxes}.weight'] *= 0.1


def export(config, folder, monkeypatch, capsys, options=()):
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(64, 96), (37, 101), (96, 64)]):
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / f'{number}.png')
    options = ['test_dataloader.dataset.pipeline.1.scale=(128,96)', *options]
    words = [config, folder / 'model.pth', '--out', folder / 'm.onnx', '--check', folder]
    words = ['export.py', *map(str, words), '--cfg-options', *options]
    monkeypatch.setattr(sys, 'argv', words)
    program.main()
    lines = capsys.readouterr().out.splitlines()
    (line,) = (each for each in lines if each.endswith(' of them with a partner in the file'))
    assert int(line.split()[0]) >= 100
    assert (folder / 'm.onnx').exists()


@pytest.mark.long
@pytest.mark.parametrize(
    'config',
    [
        *(GHM.format(name) for name in ('r50', 'r101', 'x101_32x4d', 'x101_64x4d')),
        'retinanet_r50_fpn_1x_coco',
        'retinanet_ghm_r18_fpn_bccd',
    ],
)
def test_config(config, tmp_path, monkeypatch, capsys):
    model = get_model(config)
    randomize(model)
    state_dict = model.state_dict()
    tame(state_dict, 'bbox_head.retina_cls', 'bbox_head.retina_reg')
    torch.save(dict(state_dict=state_dict), tmp_path / 'model.pth')
    export(config, tmp_path, monkeypatch, capsys)


@pytest.mark.long
def test_model_of_torchvision(tmp_path, monkeypatch, capsys):
    build = torchvision.models.detection.retinanet_resnet50_fpn
    model = build(weights=None, weights_backbone=None, num_classes=80)
    randomize(model)
    state_dict = model.state_dict()
    names = 'classification_head.cls_logits', 'regression_head.bbox_reg'
    tame(state_dict, *(f'head.{name}' for name in names))
    torch.save(state_dict, tmp_path / 'model.pth')
    export('retinanet_r50_fpn_1x_coco', tmp_path, monkeypatch, capsys, V1)
