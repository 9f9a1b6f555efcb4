"""tools/analysis_tools/anchor_report.py on hand-made boxes."""

import cv2
import pytest

from tests.checks.conftest import write_squares

CONFIG = """
_base_ = __import__('ghmdet').config_path('retinanet_ghm_r50_fpn_1x_coco')
model = dict(bbox_head=dict(num_classes=1))
_base_.train_dataloader.dataset.pipeline[2] = dict(type={resize!r}, scale=(512, 512))
train_dataloader = dict(dataset=dict(
    data_root={root!r}, ann_file='train.json', data_prefix=dict(img=''),
    metainfo=dict(classes=('cat',))))
"""


@pytest.fixture
def report(run_tool, tmp_path):
    """Run the tool on an image of 512 x 512 pixels with squares of these sides."""

    def report(sides, *options, resize='Resize'):
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


SET, GENERATOR = '--cfg-options', 'model.bbox_head.anchor_generator'


@pytest.mark.parametrize(
    ('sides', 'resize', 'options', 'code', 'message'),
    [
        ([], 'Resize', [SET, 'train_dataloader.dataset.filter_cfg=None'], 1, 'has no boxes in the'),
        ([9], 'RandomResize', [], 1, 'error: it is not known how RandomResize, a step of the'),
        ([9], 'Resize', [SET, f'{GENERATOR}=None'], 1, f'error: the config has no {GENERATOR}: no'),
        ([9], 'Resize', ['--max-images', 0], 2, '--max-images must be at least 1, got 0'),
    ],
)
def test_errors(sides, resize, options, code, message, report):
    found, _, stderr = report(sides, *options, resize=resize)
    assert found == code
    assert message in stderr
