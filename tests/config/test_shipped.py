"""From the name of a config to its file, values and published weights."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config import utils as config_utils

import ghmdet
from ghmdet.config import shipped

ROOT = shipped.CONFIG_ROOT.resolve()
R50 = 'retinanet_ghm_r50_fpn_1x_coco'
URL = (
    'https://download.openmmlab.com/mmdetection/v2.0/ghm/retinanet_ghm_r50_fpn_1x_coco/'
    'retinanet_ghm_r50_fpn_1x_coco_20200130-a437fda3.pth'
)


@pytest.mark.parametrize(
    ('name', 'file'),
    [
        (R50, f'{R50}.py'),
        (f'{R50}.py', f'{R50}.py'),
        (f'ghmdet::{R50}.py', f'{R50}.py'),
        (f'ghm/{R50}', f'ghm/{R50}.py'),
        (f'ghmdet::ghm/{R50}.py', f'ghm/{R50}.py'),
        ('_base_/models/retinanet_r50_fpn', '_base_/models/retinanet_r50_fpn.py'),
        ('retinanet_x101-64x4d_fpn_ghm-1x_coco', 'ghm/retinanet_ghm_x101_64x4d_fpn_1x_coco.py'),
        ('ghmdet::ghm/retinanet_r50_fpn_ghm-1x_coco.py', f'ghm/{R50}.py'),
        (Path('ghm', f'{R50}.py'), f'ghm/{R50}.py'),
    ],
)
def test_every_spelling_finds_its_file(name, file):
    assert ghmdet.config_path(name) == str(ROOT / file)


@pytest.mark.parametrize(
    'name',
    ['retinanet_ghm_r50_1x_coco', f'configs/{R50}.py', f'/somewhere/{R50}.py', f'faster/{R50}'],
)
def test_the_nearest_name_is_given(name):
    told = f'no config {name!r} in ghmdet, and no such file; did you mean {R50}'
    with pytest.raises(FileNotFoundError, match=told):
        ghmdet.config_path(name)


def test_a_file_under_nearly_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('My.py').write_text('mine = 7\n')
    with pytest.raises(
        FileNotFoundError, match="no such file, but there is 'My.py', which differs"
    ):
        ghmdet.get_config('my.py')
    assert ghmdet.get_config('My.py').mine == 7


def test_only_configs_are_found():
    for name in ('../tools/train', 'README.md', 'ghm/metafile.yml', '', '.', 'retinanet', 'xyz'):
        with pytest.raises(FileNotFoundError, match='ghmdet has: retinanet_ghm_r101_fpn_1x_coco, '):
            ghmdet.config_path(name)


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f'{R50}.py').write_text('mine = 7\n')
    assert ghmdet.get_config(f'{R50}.py').mine == 7
    assert ghmdet.get_config(Path(f'{R50}.py')).mine == 7
    assert ghmdet.get_config(R50).model.bbox_head.loss_cls.bins == 30
    monkeypatch.setenv('HOME', str(tmp_path))
    assert ghmdet.get_config(f'~/{R50}.py').mine == 7
    Path('theirs.py').write_text("default_scope = 'mmdet'\n")
    assert ghmdet.get_config('theirs.py').default_scope == 'ghmdet'


def test_published_weights(tmp_path):
    for name in (R50, f'ghm/{R50}.py', f'ghmdet::{R50}', ghmdet.config_path(f'ghm/{R50}')):
        assert shipped.published_weights(name) == URL
    mine = tmp_path / f'{R50}.py'  # of the same name, but maybe of other classes
    mine.write_text(f'_base_ = {ghmdet.config_path(R50)!r}\n')
    for name in (mine, 'retinanet_ghm_r18_fpn_shapes', None):
        with pytest.raises(LookupError, match='no weights are published for .*only for: .*r50_fpn'):
            shipped.published_weights(name)
    with pytest.raises(FileNotFoundError, match='did you mean'):
        shipped.published_weights('retinanet_ghm_r50_coco')


@pytest.mark.parametrize('name', [f'ghm/{R50}.py', f'ghm/{R50}', f'{R50}.py', R50])
def test_a_base_of_ours_inherits_with_its_scope(name, tmp_path):
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = 'ghmdet::{name}'\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    cfg = Config.fromfile(child)
    assert (cfg.model.bbox_head.num_classes, cfg.model.bbox_head.loss_cls.bins) == (3, 30)
    assert cfg.model._scope_ == 'ghmdet'


def test_a_base_that_is_not_there_gives_the_nearest(tmp_path):
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'ghmdet::ghm/retinanet_ghm_r50_coco.py'\n")
    with pytest.raises(FileNotFoundError, match=f'did you mean {R50}'):
        Config.fromfile(child)


def test_other_packages_are_left_to_mmengine():
    look_up = config_utils._get_package_and_cfg_path
    assert look_up('mmseg::pspnet/a.py') == ('mmsegmentation', 'pspnet/a.py')
    with pytest.raises(AssertionError, match='does not support to load nowhere config'):
        look_up('nowhere::a/b.py')
    with pytest.raises(ValueError, match='please specify the package name'):
        look_up('mmseg::a.py')
