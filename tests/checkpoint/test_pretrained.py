"""Initial weights from a file, by `init_cfg`."""

from __future__ import annotations

import io
import re

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from ghmdet.engine import CheckpointError, get_model
from ghmdet.registry import MODELS
from tests.checkpoint.test_weights import assert_same
from tests.detectors import detector, detector_cfg, randomize


@pytest.fixture
def log(monkeypatch):
    """The text of the log, in ghmdet's scope."""
    names = dict(DefaultScope._instance_dict), dict(MMLogger._instance_dict)
    DefaultScope.get_instance('pretrained test', scope_name='ghmdet')
    logger = MMLogger.get_instance('pretrained test')
    stream = io.StringIO()
    monkeypatch.setattr(logger.handlers[0], 'stream', stream)
    yield stream
    for kind, before in zip((DefaultScope, MMLogger), names, strict=True):
        kind._instance_dict.clear()
        kind._instance_dict.update(before)


def init(path, **options):
    cfg = dict(type='Pretrained', checkpoint=str(path), **options)
    backbone = MODELS.build(dict(type='ResNet', depth=18, init_cfg=cfg))
    backbone.init_weights()
    return backbone


def test_pretrained_backbone(log, tmp_path):
    theirs = torchvision.models.resnet18()
    randomize(theirs, 8)
    torch.save(theirs.state_dict(), tmp_path / 'r18.pth')
    backbone = init(tmp_path / 'r18.pth')
    assert_same(backbone, theirs.state_dict())
    text = log.getvalue()
    assert f'{tmp_path}/r18.pth: 120 tensors loaded; not used: fc.{{weight, bias}}' in text
    assert f'Pretrained: load from {tmp_path}/r18.pth' in text  # said of each parameter
    assert 'WARNING' not in text
    assert 'do not match' not in text


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone', None])
def test_pretrained_from_a_detector(log, tmp_path, prefix):
    source = detector(seed=1).state_dict()
    torch.save(dict(state_dict={f'module.{k}': v for k, v in source.items()}), tmp_path / 'd.pth')
    backbone = init(tmp_path / 'd.pth', prefix=prefix)
    assert_same(backbone, {k.removeprefix('backbone.'): v for k, v in source.items()})


def test_pretrained_that_fits_in_part_or_not(log, tmp_path):
    source = detector(seed=1).state_dict()
    torch.save(source, tmp_path / 'd.pth')
    message = r"prefix='encoder\.': no name in .*d\.pth begins with it"
    with pytest.raises(CheckpointError, match=message):
        init(tmp_path / 'd.pth', prefix='encoder')
    del source['backbone.conv1.weight']
    torch.save(source, tmp_path / 'd.pth')
    init(tmp_path / 'd.pth', prefix='backbone.')
    report = r'WARNING.*119 of 120 tensors of the model loaded\n.*1  conv1\.weight'
    assert re.search(report, log.getvalue())


def test_pretrained_in_a_script_without_a_scope(log, monkeypatch, tmp_path):
    """As `get_model` prepares it; mmengine alone would find its own initializer."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', type(DefaultScope._instance_dict)())
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / 'r18.pth')
    cfg = Config(dict(model=detector_cfg()))
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth'))
    model = get_model(cfg)
    model.init_weights()
    assert_same(model.backbone, theirs.state_dict())
    text = log.getvalue()
    assert 'r18.pth: 120 tensors loaded; not used: fc.{weight, bias}' in text
    assert 'do not match' not in text
