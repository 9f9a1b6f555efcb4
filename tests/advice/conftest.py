"""A training of one step and one image to validate, in the process of the tests."""

from __future__ import annotations

import json
import runpy
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

import ghmdet.test
import ghmdet.train
from ghmdet import config_path
from ghmdet.config import cli
from ghmdet.config.unused_keys import TOP_LEVEL_KEYS
from ghmdet.datasets import draw_shapes

TOOLS = Path(__file__).parents[2] / 'tools'
META_KEYS = 'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'
STEPS = dict(
    load=dict(type='LoadImageFromFile'),
    resize=dict(type='Resize', scale=(64, 64), keep_ratio=True),
    boxes=dict(type='LoadAnnotations', with_bbox=True),
    flip=dict(type='RandomFlip', prob=1.0),
    pack=dict(type='PackDetInputs', meta_keys=META_KEYS),
)
CONFIG = """
_base_ = {base!r}
data_root = 'data/'
model = dict(
    backbone=dict(num_stages=2, out_indices=(0, 1)),
    neck=dict(in_channels=[64, 128], start_level=0, out_channels=16, norm_cfg=None),
    bbox_head=dict(
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        norm_cfg=None,
        anchor_generator=dict(strides=[4, 8, 16]),
    ),
    test_cfg=dict(score_thr=0.001),
)
load, resize, boxes, pack = {steps}
loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=[load, boxes, resize, pack]), **loader
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, pipeline=[load, resize, boxes, pack]), **loader
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1))
"""


def says(text, part):
    """Whether a text has part of a message; {} stands for what is formatted into it."""
    return all(piece in text for piece in part.split('{}'))


@dataclass
class Answer:
    """How a program ended: exit code, what it wrote, and the folder that it ran in."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def text(self):
        """All that it wrote."""
        return self.stdout + self.stderr

    @property
    def error(self):
        """The message with which it ended."""
        return self.stderr.rpartition('error: ')[2] if self.code else ''

    @property
    def ap(self):
        """The AP that was written last."""
        return self.stdout.rpartition('coco/bbox_mAP: ')[2].split()[0]


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    """A folder with data, small.py, and checkpoint.pth of its training; no test may change it."""
    folder = tmp_path_factory.mktemp('small')
    draw_shapes(folder / 'data', dict(train=2, val=1), seed=0)
    steps = [STEPS[name] for name in ('load', 'resize', 'boxes', 'pack')]
    (folder / 'source.py').write_text(
        CONFIG.format(base=config_path('retinanet_ghm_r18_fpn_shapes'), steps=steps)
    )
    cfg = Config.fromfile(folder / 'source.py')
    used = {key: value for key, value in cfg.to_dict().items() if key in TOP_LEVEL_KEYS}
    Config(used).dump(folder / 'small.py')
    (folder / 'source.py').unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, 'argv', ['train', 'small.py', '--work-dir', 'trained'])
        ghmdet.train.main()
    forget_loggers()
    (folder / 'trained/epoch_1.pth').rename(folder / 'checkpoint.pth')
    shutil.rmtree(folder / 'trained')
    return folder


def forget_loggers():
    """What `instances_of_its_own` does, between two runs; files of logs are closed."""
    for kind in (MMLogger, MessageHub, Visualizer):
        for each in kind._instance_dict.values():
            for handler in getattr(each, 'handlers', ()):
                handler.close()
        kind._instance_dict.clear()


@pytest.fixture
def run(small, tmp_path, monkeypatch, capfd):
    """Run a program in a new folder with the data and tiny.py, which inherits small.py.

    Each change is a text of arguments, which begins with a dash; text for the config; or a function
    of the folder that changes files.
    """
    count = 0

    def run(*changes, program=ghmdet.train, inside=None):
        nonlocal count
        count += 1
        folder = inside or tmp_path / str(count)
        if inside is None:
            shutil.copytree(small, folder)
        monkeypatch.chdir(folder)
        args, lines = ['tiny.py'], []
        if program is ghmdet.test:
            args.append('checkpoint.pth')
        for change in changes:
            if callable(change):
                change(folder)
            elif change.startswith('-'):
                args += shlex.split(change)
            else:
                lines.append(change)
        if not any(line.startswith('_base_') for line in lines):
            lines.insert(0, "_base_ = 'small.py'")
        (folder / 'tiny.py').write_text('\n'.join(lines))
        monkeypatch.setattr(sys, 'argv', ['program', *args])
        capfd.readouterr()
        code = 0
        try:
            cli.run(program.main)
        except SystemExit as stop:
            code = stop.code
        forget_loggers()
        return Answer(code, *capfd.readouterr(), folder)

    return run


@pytest.fixture
def follow(run):
    """Check that a run shows a message, and trains and validates without it as advised."""

    def follow(part, wrong, right, **options):
        wrong, right = (each if isinstance(each, tuple) else (each,) for each in (wrong, right))
        first = run(*wrong, **options)
        assert says(first.text, part), first.error or first.text[-500:]
        then = run(*right, **options)
        assert then.code == 0, then.error
        assert not says(then.text, part)
        assert 0 <= float(then.ap) <= 1
        return first, then

    return follow


@pytest.fixture
def print_config(monkeypatch, capfd):
    """Run print_config.py in the folder of the last run; gives what it prints."""

    def print_config(*args):
        monkeypatch.setattr(sys, 'argv', ['print_config.py', *args])
        capfd.readouterr()
        runpy.run_path(str(TOOLS / 'misc/print_config.py'), run_name='__main__')
        return capfd.readouterr().out

    return print_config


@pytest.fixture
def run_tool(monkeypatch, capfd):
    """Run a file of tools/ in the current folder; gives its exit code and all that it writes."""

    def run_tool(tool, *args):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        capfd.readouterr()
        main = runpy.run_path(str(TOOLS / tool))['main']
        try:
            cli.run(main)
        except SystemExit as stop:
            return stop.code, ''.join(capfd.readouterr())
        finally:
            forget_loggers()
        return 0, ''.join(capfd.readouterr())

    return run_tool


def pipeline(*steps, split='train'):
    """Lines of the config that set a pipeline, of names of STEPS and of dicts as text."""
    steps = ', '.join(str(STEPS.get(step, step)) for step in steps)
    return f'{split}_dataloader = dict(dataset=dict(pipeline=[{steps}]))'


def edit(change, split='train'):
    """A change of the content of an annotation file."""

    def act(folder):
        file = folder / 'data/annotations' / f'{split}.json'
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return act


def options(*settings):
    """The arguments that set these keys."""
    return ' '.join(['--cfg-options', *settings])


def write(name, text):
    """A change that writes a file."""
    return lambda folder: (folder / name).write_text(text)


def change_checkpoint(change, name='checkpoint.pth'):
    """A change of the content of a checkpoint; what the function returns replaces it."""

    def act(folder):
        content = torch.load(folder / name, weights_only=False)
        torch.save(change(content) or content, folder / name)

    return act
