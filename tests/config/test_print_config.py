"""tools/misc/print_config.py, and the record of which file set what that is behind `--origin`."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from ghmdet import get_config
from ghmdet.config.arguments import read_config
from ghmdet.config.origins import origins_of, record_origins

TOOL = Path(__file__).parents[2] / 'tools' / 'misc' / 'print_config.py'
MODEL = 'ghmdet::_base_/models/retinanet_r50_fpn.py'
SCHEDULE = 'ghmdet::_base_/schedules/schedule_1x.py'


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Run the tool in a folder with these files; gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words, **files):
        for name, text in files.items():
            Path(f'{name}.py').write_text(text)
        monkeypatch.setattr(sys, 'argv', ['print_config.py', *words])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def origins(show):
    """Like `show`, with the lines of `--origin` as key: (value, file)."""

    def run(*words, **files):
        lines = show(*words, '--origin', **files).splitlines()
        split = [line.partition(' = ') for line in lines]
        assert len({key for key, _, _ in split}) == len(lines)
        found = {}
        for key, _, rest in split:
            value, _, file = rest.rpartition('  # ')
            found[key] = (ast.literal_eval(value), file)
        return found

    return run


def test_the_text_is_the_config_again(show, tmp_path):
    text = show('retinanet_ghm_r50_fpn_1x_coco', '--cfg-options', 'model.neck.num_outs=4')
    (tmp_path / 'printed.py').write_text(text)
    expected = get_config('retinanet_ghm_r50_fpn_1x_coco')
    expected.model.neck.num_outs = 4
    assert Config.fromfile(tmp_path / 'printed.py').to_dict() == expected.to_dict()


def test_every_value_of_a_shipped_config_has_the_file_that_set_it(origins):
    found = origins('retinanet_ghm_r50_fpn_1x_coco')
    ghm = 'ghmdet::retinanet_ghm_r50_fpn_1x_coco.py'
    data = 'ghmdet::_base_/datasets/coco_detection.py'
    # Set by several files, the last time to the same value.
    assert found['model.bbox_head.loss_cls.use_sigmoid'] == (True, ghm)
    # Of FocalLoss, deleted with it.
    assert 'model.bbox_head.loss_cls.gamma' not in found
    assert not any('_delete_' in key for key in found)
    assert found['model.backbone.out_indices'] == ((0, 1, 2, 3), MODEL)
    assert found['param_scheduler.1.milestones'] == ([8, 11], SCHEDULE)
    assert found['tta_pipeline.1.transforms.0.2.scale'] == ((2000, 1200), data)
    assert {file.split('::')[0] for _, file in found.values()} == {'ghmdet'}


GRANDPARENT = """
model = dict(
    loss=dict(type='A', alpha=1, beta=2),
    neck=dict(width=[1, 2], empty={}),
    steps=[dict(type='Load'), dict(type='Resize', scale=(4, 4))],
    unchanged=None,
)
lr = 0.1
"""
PARENT = """
_base_ = 'grandparent.py'
model = dict(loss=dict(_delete_=True, type='B', alpha=1), neck=dict(width=[1, 2, 3]))
"""
CHILD = """
_base_ = ['parent.py', 'other.py']
lr = _base_.lr * 2
width = _base_.model.neck.width
model = dict(loss=dict(alpha=1), head=dict(x=1, y=dict()))
_base_.model.steps[1].scale = (8, 8)
"""
OTHER = 'custom = dict(a=1, b=[])'
CHAIN = dict(grandparent=GRANDPARENT, parent=PARENT, child=CHILD, other=OTHER)


def test_a_chain_of_bases(origins):
    assert origins('child.py', **CHAIN) == {
        'custom.a': (1, 'other.py'),
        'custom.b': ([], 'other.py'),
        'lr': (0.2, 'child.py'),
        'model.head.x': (1, 'child.py'),
        'model.head.y': ({}, 'child.py'),
        'model.loss.alpha': (1, 'child.py'),
        'model.loss.type': ('B', 'parent.py'),
        'model.neck.empty': ({}, 'grandparent.py'),
        'model.neck.width': ([1, 2, 3], 'parent.py'),
        'model.steps.0.type': ('Load', 'grandparent.py'),
        'model.steps.1.scale': ((8, 8), 'child.py'),
        'model.steps.1.type': ('Resize', 'grandparent.py'),
        'model.unchanged': (None, 'grandparent.py'),
        'width': ([1, 2, 3], 'child.py'),
    }


def test_options_are_an_origin(origins):
    options = ('lr=0.5', 'model.neck.width.1=7', 'model.steps.0.type=Read', 'new.key="[(1,2),a]"')
    found = origins('child.py', '--cfg-options', *options, **CHAIN)
    assert found['lr'] == (0.5, '--cfg-options')
    assert 'model.neck.width' not in found
    assert found['model.neck.width.0'] == (1, 'parent.py')
    assert found['model.neck.width.1'] == (7, '--cfg-options')
    assert found['model.steps.0.type'] == ('Read', '--cfg-options')
    assert found['model.steps.1.type'] == ('Resize', 'grandparent.py')
    assert found['new.key'] == ([(1, 2), 'a'], '--cfg-options')


READ_BASE = 'from mmengine.config import read_base\nwith read_base():\n    from '
SMALL = {
    'folders': (
        {
            'main.py': "_base_ = 'sub/inner.py'",
            'sub/inner.py': "_base_ = '../../outer.py'\na = 1",
            '../outer.py': 'b = 2',
        },
        {'a': (1, 'sub/inner.py'), 'b': (2, '{}/outer.py')},
    ),
    'json and yaml': (
        {
            'main.py': "_base_ = 'b.yml'\n",
            'a.json': '{"x": {"one": 1, "two": 2}}',
            'b.yml': '_base_: a.json\nx:\n  two: 3\n',
        },
        {'x.one': (1, 'a.json'), 'x.two': (3, 'b.yml')},
    ),
    'placeholders': (
        {'base.py': 'x = 1', 'main.py': "_base_ = 'base.py'\ny = dict(z={{_base_.x}})"},
        {'x': (1, 'base.py'), 'y.z': (1, 'main.py')},
    ),
    'imports': (
        {
            'first.py': 'a = dict(x=1, y=2)\nb = 3',
            'second.py': f'{READ_BASE}.first import *\na.x = 5',
            'main.py': f'{READ_BASE}.second import a\nb = 7',
        },
        {'a.x': (5, 'second.py'), 'a.y': (2, 'first.py'), 'b': (7, 'main.py')},
    ),
    'reads another config by itself': (
        {
            'inner.py': 'x = dict(one=1, two=2)',
            'base.py': 'z = dict(three=0, four=4)',
            'main.py': "from mmengine import Config\n_base_ = 'base.py'\n"
            "cfg = Config.fromfile('inner.py')\ncfg.merge_from_dict({'x.one': 5})\n"
            'z = dict(three=cfg.x.one)\ndel cfg, Config',
        },
        {'z.three': (5, 'main.py'), 'z.four': (4, 'base.py')},
    ),
}


@pytest.mark.parametrize(('files', 'expected'), SMALL.values(), ids=SMALL)
def test_ways_to_inherit(files, expected, origins, tmp_path):
    (tmp_path / 'sub').mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    # A file that is not below the current folder has its whole path.
    above = str(tmp_path.parent)
    expected = {key: (value, file.replace('{}', above)) for key, (value, file) in expected.items()}
    assert origins('main.py') == expected


LAZY = """
from mmengine.config import read_base
from torch.optim import Adam

with read_base():
    from ghmdet.configs.ghm.retinanet_ghm_r50_fpn_1x_coco import *

model.merge(dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss', gamma=2.0))))
optim_wrapper.optimizer.type = Adam
test_cfg = dict(type='TestLoop')
"""


def test_configs_that_import_their_bases(origins):
    found = origins('lazy.py', lazy=LAZY)
    assert found['model.bbox_head.loss_cls.gamma'] == (2.0, 'lazy.py')
    assert 'model.bbox_head.loss_cls.bins' not in found
    assert found['model.backbone.depth'] == (50, MODEL)
    assert found['optim_wrapper.optimizer.type'] == ('torch.optim.Adam', 'lazy.py')
    # Assigned as a whole, though to the same value.
    assert found['test_cfg.type'] == ('TestLoop', 'lazy.py')
    assert 'Adam' not in found


def test_names_of_mmdetection_are_changed_by_ghmdet(origins):
    text = "default_scope = 'mmdet'\nmodel = dict(type='mmdet.RetinaNet')\nx = 1"
    changed = 'converted from MMDetection by ghmdet'
    assert origins('theirs.py', theirs=text) == {
        'default_scope': ('ghmdet', changed),
        'model.type': ('RetinaNet', changed),
        'x': (1, 'theirs.py'),
    }


def test_a_key_of_two_bases_is_reported_with_both(show, capsys):
    files = dict(a='model = 1', b='model = 2\nother = 3', c="_base_ = ['a.py', 'b.py']")
    told = "two of the bases of c.py set the same keys: 'model' (a.py and b.py); a key may"
    with pytest.raises(SystemExit):
        show('d.py', d="_base_ = 'c.py'", **files)
    assert told in capsys.readouterr().err
    with record_origins(), pytest.raises(KeyError, match=re.escape(told)):
        Config.fromfile('d.py')


def test_the_origins_are_kept_by_copies_but_not_by_dumps(tmp_path, monkeypatch):
    (tmp_path / 'mine.py').write_text('a = 1\nb = 2')
    cfg = copy.deepcopy(read_config(tmp_path / 'mine.py'))
    fallback = pickle.loads(pickle.dumps(cfg))
    (tmp_path / 'mine.py').write_text('a = 1')
    cfg.a = 3
    file = str(tmp_path / 'mine.py')
    assert list(origins_of(cfg).list_leaves(cfg, 'later')) == [('a', 3, 'later'), ('b', 2, file)]
    leaves = origins_of(fallback).list_leaves(fallback, 'later')
    assert list(leaves) == [('a', 1, file), ('b', 2, 'later')]
    assert Config.fromfile(cfg.filename).pretty_text == 'a = 1\n'
    made = Config(dict(a=1))
    assert list(origins_of(made).list_leaves(made, 'code')) == [('a', 1, 'code')]


def test_mmengine_is_as_before_after_a_record():
    before = dict(vars(Config))
    with pytest.raises(FileNotFoundError), record_origins():
        Config.fromfile('nowhere.py')
    assert dict(vars(Config)) == before


def test_the_data_root_is_an_origin(origins, tmp_path):
    found = origins('retinanet_ghm_r18_fpn_shapes', '--data-root', '/data/new')
    assert found['data_root'] == ('/data/new/', '--data-root')
    assert found['train_dataloader.dataset.data_root'] == ('/data/new/', '--data-root')


def test_torch_is_not_imported():
    script = (
        f'import runpy, sys; sys.argv[1:] = ["retinanet_ghm_r50_fpn_1x_coco"]\n'
        f'runpy.run_path({str(TOOL)!r}, run_name="__main__")\n'
        'print([m for m in ("torch", "mmcv", "cv2") if m in sys.modules])\n'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.stdout.endswith('\n[]\n'), done.stderr
