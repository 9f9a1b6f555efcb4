"""A tiny detector on a dozen drawn images, and the tools as users run them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ghmdet import config_path
from ghmdet.datasets import draw_shapes
from tests.fork_server import ROOT, shared_server

ENV = {
    **os.environ,
    'CUDA_VISIBLE_DEVICES': '',
    'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
    'PYTHONPATH': str(ROOT),
}

CONFIG = """
_base_ = {base!r}
data_root = {root!r}
model = dict(
    backbone=dict(num_stages=4),
    neck=dict(out_channels=16, norm_cfg=None),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=None),
)
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
train_pipeline = [pipeline[0], pipeline[2], pipeline[1], pipeline[3]]
loader = dict(batch_size=4, num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=pipeline), **loader)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
# Untrained scores are about .01
model['test_cfg'] = dict(score_thr=0.001)
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=3))
views = [[pipeline[1]], [dict(type='RandomFlip', prob=0.0)] * 2, [pipeline[3]]]
tta_pipeline = [pipeline[0], dict(type='TestTimeAug', transforms=views)]
"""


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(train=12, val=5), seed=0)
    return root


@pytest.fixture(scope='session')
def server():
    return shared_server()


@pytest.fixture(scope='session')
def trained(shapes, tmp_path_factory):
    """A config and the work dir of its training, which no test may change."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder / 'tiny.py', shapes)
    run('train.py', config)
    return config, folder / 'work_dirs' / 'tiny'


@pytest.fixture
def config(shapes, tmp_path):
    return write_config(tmp_path / 'tiny.py', shapes)


def write_config(path, root, extra=''):
    base = config_path('retinanet_ghm_r18_fpn_shapes')
    path.write_text(CONFIG.format(base=base, root=f'{root}/') + extra)
    return path


def commands(code):
    """The words of each command of a block of code; a backslash joins lines."""
    lines = code.replace('\\\n', ' ').splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def page_commands(page):
    """The words of each command of a page, in its blocks without a language."""
    blocks = re.findall(r'^```(\w*)\n(.*?)^```', page, re.DOTALL | re.MULTILINE)
    return [words for kind, text in blocks if not kind for words in commands(text)]


def scalars(work_dir, key):
    """All values of a key in a run's log, oldest first."""
    values = []
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        values += [line[key] for line in lines if key in line]
    return values


def run(tool, *args, check=True, seconds=120):
    """Run a file of tools/ in the folder of its config: Python ones in a fork, others as they are.

    Returns:
        returncode, stdout and stderr.
    """
    args = [str(arg) for arg in args]
    cwd = Path(args[0]).parent
    if tool.endswith('.py'):
        answer = shared_server()(tool, args, cwd, seconds)
        done = SimpleNamespace(returncode=answer.pop('code'), **answer)
    else:
        command = [ROOT / 'tools' / tool, *args]
        streams = dict(capture_output=True, text=True)
        done = subprocess.run(command, **streams, env=ENV, cwd=cwd, timeout=seconds)
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def weights(path):
    return torch.load(path, weights_only=False)['state_dict']


def check_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
