"""The project in `examples/` trains, and passes its own tests, as its users would run them."""

import importlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.conftest import scalars, weights

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / 'examples' / 'cellcount'


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
