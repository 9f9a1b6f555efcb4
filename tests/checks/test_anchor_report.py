"""tools/analysis_tools/anchor_report.py on hand-made boxes."""

import json
import re

import cv2
import numpy as np
import pytest

from ghmdet import get_config
from tests.checks.conftest import write_squares
from tests.fork_server import shared_server

CONFIG = """
_base_ = __import__('ghmdet').config_path('retinanet_ghm_r50_fpn_1x_coco')
model = dict(bbox_head=dict(num_classes=1))
_base_.train_dataloader.dataset.pipeline[2] = {resize}
train_dataloader = dict(dataset=dict(
    data_root={root!r}, ann_file='train.json', data_prefix=dict(img=''),
    metainfo=dict(classes=('cat',))))
"""
LAZY = """
from mmengine.config import read_base
with read_base():
    from ghmdet.configs.retinanet_ghm_r50_fpn_1x_coco import *
"""
TEXT = 'anchor_report.txt'
OF_ONE_STEP = [
    'model.backbone.depth=18',
    'model.backbone.init_cfg=None',
    'model.neck.in_channels=[64,128,256,512]',
    'train_cfg.max_epochs=1',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.dataset.filter_cfg=None',
]
RESIZE = "dict(type='Resize', scale=(512, 512))"
CROP = "dict(type='RandomCrop', crop_size=(64, 64))"


@pytest.fixture
def report(run_tool, tmp_path):
    """Run the tool on an image of 512 x 512 pixels with squares of these sides."""

    def report(sides, *options, resize=RESIZE):
        write_squares(tmp_path / 'train.json', 512, sides)
        (tmp_path / 'cats.py').write_text(CONFIG.format(root=f'{tmp_path}/', resize=resize))
        return run_tool('analysis_tools/anchor_report.py', 'cats.py', *options)

    return report


def test_report(tmp_path, report):
    # Best IoUs: 8 x 8 in 32 x 32 at most 1/16, 16 x 16 at most 1/4; the others have their anchors.
    code, stdout, stderr = report([8, 16, 16, 40, 50, 64, 100, 128])
    assert code == 0, stderr
    lines = stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    shares = {'all': ['8', '37.5%'], 'small': ['3', '100.0%']}
    shares |= {'medium': ['3', '0.0%'], 'large': ['2', '0.0%']}
    for size, (count, share) in shares.items():
        assert rows[size] == [count, share, share]
    # Level 0 has sides 32 to 51, level 1 64 to 102, level 2 128 to 203.
    # The box of side 64 is not centred on a cell of level 1, but on one of level 0.
    assert rows['0'] == ['8', '32', 'to', '51', '6', '3']
    assert rows['2'] == ['32', '128', 'to', '203', '1', '1']
    tried = {line.split()[0]: line.split()[-1] for line in lines if 'octave_base_scale=' in line}
    assert tried['octave_base_scale=4.0'] == '37.5%'
    (suggestion,) = [line for line in lines if line.startswith('suggestion')]
    assert 'model = dict(bbox_head=dict(anchor_generator=dict(octave_base_scale=' in suggestion
    out = tmp_path / 'work_dirs' / 'cats'
    assert (out / 'anchor_report.txt').read_text() in stdout
    assert cv2.imread(str(out / 'anchor_report.png')).shape == (600, 1440, 3)
    assert '1/1' in stderr


def test_nothing_better(tmp_path, report):
    _, stdout, _ = report([40, 64, 128], '--out-dir', 'here', '--max-images', 1)
    assert 'suggestion: none, the anchors of the config fit as well as any tried' in stdout
    assert (tmp_path / 'here' / 'anchor_report.png').is_file()


@pytest.mark.follows('suggestion: model = dict(bbox_head=')
@pytest.mark.parametrize('options', [(), ('--cfg-options', 'train_dataloader.batch_size=1')])
def test_the_config_that_it_writes(tmp_path, report, options):
    """It can be trained; where nothing is suggested there is none."""
    small = [16, 16, 16, 20, 24, 24]
    assert ', cats_anchors.py' in report(small, *options)[1]
    file = tmp_path / 'work_dirs' / 'cats' / 'cats_anchors.py'
    (base,) = re.findall(
        r'suggestion: .*octave_base_scale=([\d.]+)', file.with_name(TEXT).read_text()
    )
    cfg = get_config(file)
    assert cfg.model.bbox_head.anchor_generator.octave_base_scale == float(base) < 4
    assert cfg.train_dataloader.batch_size == (1 if options else 2)
    assert ('_base_ = ' in file.read_text()) == (not options)
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((512, 512, 3), np.uint8))
    train = [file, '--cfg-options', *OF_ONE_STEP]
    done = shared_server()('ghmdet.train', train, tmp_path)
    assert done['code'] == 0, done['stderr'][-2000:]
    (log,) = (tmp_path / 'work_dirs' / 'cats_anchors').glob('*/vis_data/scalars.json')
    assert json.loads(log.read_text())['iter'] == 1
    report([40, 64, 128])
    assert not file.exists()


def test_a_config_with_read_base_is_written_as_a_whole(tmp_path, report, run_tool):
    report([16, 16, 24])
    (tmp_path / 'lazy.py').write_text(LAZY)
    base = get_config(tmp_path / 'cats.py')
    loader = dict(base.train_dataloader.to_dict())
    with (tmp_path / 'lazy.py').open('a') as stream:
        stream.write(f'train_dataloader = {loader!r}\nmodel["bbox_head"]["num_classes"] = 1\n')
    code, out, err = run_tool('analysis_tools/anchor_report.py', 'lazy.py')
    assert (code, ', lazy_anchors.py' in out) == (0, True), err
    cfg = get_config(tmp_path / 'work_dirs' / 'lazy' / 'lazy_anchors.py')
    assert cfg.model.bbox_head.anchor_generator.octave_base_scale < 4
    assert cfg.train_dataloader.dataset.data_root == f'{tmp_path}/'


SET, GENERATOR = '--cfg-options', 'model.bbox_head.anchor_generator'


@pytest.mark.parametrize(
    ('sides', 'resize', 'options', 'code', 'message'),
    [
        ([], RESIZE, [SET, 'train_dataloader.dataset.filter_cfg=None'], 1, 'has no boxes in the'),
        ([9], CROP, [], 1, 'error: it is not known how RandomCrop, a step of the training pipe'),
        ([9], RESIZE, [SET, f'{GENERATOR}=None'], 1, f'error: the config has no {GENERATOR}: no'),
        ([9], RESIZE, ['--max-images', 0], 2, '--max-images must be at least 1, got 0'),
    ],
)
def test_errors(sides, resize, options, code, message, report):
    found, _, stderr = report(sides, *options, resize=resize)
    assert found == code
    assert message in stderr


@pytest.mark.parametrize('way', ['--data-root', '--cfg-options', 'GHMDET_DATA_ROOT'])
def test_data_of_a_recipe(tmp_path, run_tool, monkeypatch, way):
    """Three objects below the data root, one in the folder that the config names."""
    for root, sides in (('data/mine', [40]), ('other', [40, 64, 128])):
        for folder in ('annotations', 'images'):
            (tmp_path / root / folder).mkdir(parents=True)
        write_squares(tmp_path / root / 'annotations' / 'train.json', 512, sides)
    options = ['--data-root', 'other'] if way == '--data-root' else [way, 'data_root=other']
    if way == 'GHMDET_DATA_ROOT':
        monkeypatch.setenv(way, 'other')
        options = []
    tool = 'analysis_tools/anchor_report.py', 'retinanet_r18_fpn_small'
    for arguments, count in ((options, '3'), (['--data-root', 'data/mine'], '1')):
        code, stdout, stderr = run_tool(*tool, *arguments)
        assert code == 0, stderr
        (row,) = [line.split() for line in stdout.splitlines() if line.startswith('all ')]
        assert row[1] == count
