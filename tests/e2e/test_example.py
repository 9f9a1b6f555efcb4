"""The examples train, and pass their own tests, as their users would run them."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import torchvision

from tests.e2e.conftest import scalars, weights

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / 'examples' / 'cellcount'
BACKBONE = ROOT / 'examples' / 'torchvision_backbone'


def test_its_parts_train(server, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    draw = importlib.import_module('cellcount.draw')
    draw.draw_cells(tmp_path / 'data' / 'cells', dict(train=16, val=4), seed=0)
    options = ('--cfg-options', 'train_cfg.max_epochs=2', 'default_hooks.logger.interval=1')
    args = [EXAMPLE / 'configs' / 'cells.py', *options]
    (done,) = server.run_ranks(1, 'ghmdet.train', args, tmp_path, PYTHONPATH=str(EXAMPLE))
    assert done['code'] == 0, done['stderr'][-3000:]
    work_dir = tmp_path / 'work_dirs' / 'cells'
    assert 'backbone.stem.conv.weight' in weights(work_dir / 'epoch_2.pth')
    losses = scalars(work_dir, 'loss')
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_a_backbone_of_torchvision_trains(server, shapes, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BACKBONE)
    module = importlib.import_module('torchvision_backbone')
    layers = ['features.3', 'features.8', 'features.12']
    net = module.TorchvisionBackbone('mobilenet_v3_small', layers).eval()
    maps = net(torch.zeros(1, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [(1, 24, 8, 12), (1, 48, 4, 6), (1, 576, 2, 3)]
    reference = torchvision.models.mobilenet_v3_small().eval()
    reference.load_state_dict(net.body.state_dict(), strict=False)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(image)[2], reference.features(image))
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=9', 'model.backbone.weights=None']
    options += ['default_hooks.logger.interval=1', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    args = [BACKBONE / 'config.py', '--data-root', shapes, '--cfg-options', *options]
    (done,) = server.run_ranks(1, 'ghmdet.train', args, tmp_path, PYTHONPATH=str(BACKBONE))
    assert done['code'] == 0, done['stderr'][-3000:]
    work_dir = tmp_path / 'work_dirs' / 'config'
    losses = scalars(work_dir, 'loss')
    assert len(losses) == 3  # 12 images, batch size 4
    assert losses[-1] < losses[0]
    assert weights(work_dir / 'epoch_1.pth')['backbone.body.features.0.0.weight'].shape[0] == 16


@pytest.mark.long
def test_its_own_tests_pass_outside_of_the_repository(tmp_path):
    path = os.pathsep.join(filter(None, [str(EXAMPLE), os.environ.get('PYTHONPATH')]))
    command = [sys.executable, '-m', 'pytest', EXAMPLE, '-q', '-p', 'no:cacheprovider']
    command += [f'--basetemp={tmp_path / "base"}']
    streams = dict(capture_output=True, text=True, cwd=tmp_path, timeout=280)
    done = subprocess.run(command, env={**os.environ, 'PYTHONPATH': path}, **streams)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert '5 passed' in done.stdout


def test_it_is_no_part_of_ghmdet():
    settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']
    assert settings['setuptools']['packages']['find']['include'] == ['ghmdet*']
    assert 'examples' not in settings['pytest']['ini_options']['testpaths']
    requirements = tomllib.loads((EXAMPLE / 'pyproject.toml').read_text())['project']
    assert requirements['dependencies'] == ['ghmdet']
