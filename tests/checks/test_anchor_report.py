"""tools/analysis_tools/anchor_report.py on hand-made boxes."""

from __future__ import annotations

import json

import cv2
import pytest

CONFIG = """
_base_ = __import__('ghmdet').config_path('retinanet_ghm_r50_fpn_1x_coco')
model = dict(bbox_head=dict(num_classes=1))
_base_.train_dataloader.dataset.pipeline[2] = dict(type={resize!r}, scale=(512, 512))
train_dataloader = dict(
    dataset=dict(
        data_root={root!r}, ann_file='train.json', data_prefix=dict(img=''),
        metainfo=dict(classes=('cat',)),
    )
)
"""


def make_config(folder, sides, resize='Resize'):
    annotations = [
        dict(
            id=i + 1, image_id=1, category_id=1, bbox=[40, 40, side, side], area=side**2, iscrowd=0
        )
        for i, side in enumerate(sides)
    ]
    content = dict(
        images=[dict(id=1, file_name='a.png', width=512, height=512)],
        categories=[dict(id=1, name='cat')],
        annotations=annotations,
    )
    (folder / 'train.json').write_text(json.dumps(content))
    (folder / 'cats.py').write_text(CONFIG.format(root=f'{folder}/', resize=resize))


@pytest.fixture
def report(run_tool):
    return lambda *options: run_tool('analysis_tools/anchor_report.py', 'cats.py', *options)


def test_report(tmp_path, report):
    # Best IoUs: 8 x 8 in 32 x 32 at most 1/16, 16 x 16 at most 1/4; the others have their anchors.
    make_config(tmp_path, [8, 16, 16, 40, 50, 64, 100, 128])
    code, stdout, stderr = report()
    assert code == 0, stderr
    lines = stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows['all'] == ['8', '37.5%', '37.5%']
    assert rows['small'] == ['3', '100.0%', '100.0%']
    assert rows['medium'] == ['3', '0.0%', '0.0%']
    assert rows['large'] == ['2', '0.0%', '0.0%']
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
    make_config(tmp_path, [40, 64, 128])
    _, stdout, _ = report('--out-dir', 'here', '--max-images', 1)
    assert 'suggestion: none, the anchors of the config fit as well as any tried' in stdout
    assert (tmp_path / 'here' / 'anchor_report.png').is_file()


@pytest.mark.parametrize(
    ('sides', 'resize', 'options', 'message'),
    [
        ([], 'Resize', [], 'has no boxes in the images that were read'),
        ([9], 'RandomResize', [], 'error: it is not known how RandomResize, a step of the'),
        (
            [9],
            'Resize',
            ['--cfg-options', 'model.bbox_head.anchor_generator=None'],
            'error: the config has no model.bbox_head.anchor_generator: nothing to report on',
        ),
    ],
)
def test_errors(sides, resize, options, message, tmp_path, report):
    make_config(tmp_path, sides, resize)
    if not sides:
        options = ['--cfg-options', 'train_dataloader.dataset.filter_cfg=None']
    code, _, stderr = report(*options)
    assert code == 1
    assert message in stderr


def test_wrong_arguments(report):
    code, _, stderr = report('--max-images', 0)
    assert code == 2
    assert '--max-images must be at least 1, got 0' in stderr
