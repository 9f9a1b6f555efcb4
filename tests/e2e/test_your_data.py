"""docs/train/your_data.md: each of its commands, in order, on a small export that is drawn here."""

import json
import re
import shutil

import pytest
from formats import READERS
from mmengine.config import Config

from ghmdet.datasets import SHAPES_CLASSES, draw_shapes
from tests.e2e.conftest import ROOT, page_commands, scalars

PAGE = (ROOT / 'docs/train/your_data.md').read_text()
BLOCKS = re.findall(r'^```(\w*)\n(.*?)```', PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = page_commands(PAGE)
(CONFIG,) = (text for kind, text in BLOCKS if kind == 'python')
SHORT = ['--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
SHORT += ['default_hooks.checkpoint.interval=2', 'test_dataloader.num_workers=0']
SHORT += ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
SHORT += ['val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False']
XML = '<annotation><filename>{0}</filename><size><width>{1}</width><height>{2}</height></size>'
OBJECT = (
    '<object><name>{0}</name><bndbox><xmin>{1[0]}</xmin><ymin>{1[1]}</ymin><xmax>{1[2]}</xmax>'
    '<ymax>{1[3]}</ymax></bndbox></object>'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder `export` as LabelImg leaves it: images, and an XML file beside each."""
    folder = tmp_path_factory.mktemp('mine')
    files = draw_shapes(folder / 'drawn', dict(train=20), seed=0)
    data = json.loads(files['train'].read_text())
    shutil.copytree(folder / 'drawn' / 'train', folder / 'export')
    for image in data['images']:
        text = XML.format(image['file_name'], image['width'], image['height'])
        for ann in data['annotations']:
            if ann['image_id'] == image['id']:
                x, y, w, h = ann['bbox']
                name = data['categories'][ann['category_id'] - 1]['name']
                text += OBJECT.format(name, (x, y, x + w, y + h))
        file = folder / 'export' / image['file_name']
        file.with_suffix('.xml').write_text(f'{text}</annotation>')
    shutil.rmtree(folder / 'drawn')
    (folder / 'mine.py').write_text(CONFIG)
    (folder / 'configs').symlink_to(ROOT / 'configs')
    return folder, data


def test_from_an_export_to_a_trained_detector(folder, server):
    folder, drawn = folder
    outputs = {}
    for python, file, *args in COMMANDS:
        assert python == 'python'
        tool = file.removeprefix('tools/')
        args = [arg.replace('iter_600.pth', 'iter_2.pth') for arg in args]
        done = server(tool, args + (SHORT if tool == 'train.py' else []), folder)
        assert done['code'] == 0, done['stdout'][-2000:] + done['stderr'][-3000:]
        outputs[tool] = done['stdout'] + done['stderr']
    parts = {
        part: json.loads((folder / f'data/mine/annotations/{part}.json').read_text())
        for part in ('train', 'val')
    }
    assert [len(part['images']) for part in parts.values()] == [16, 4]
    boxes = sorted(ann['bbox'] for part in parts.values() for ann in part['annotations'])
    assert boxes == sorted(ann['bbox'] for ann in drawn['annotations'])
    names = tuple(category['name'] for category in parts['train']['categories'])
    assert names == SHAPES_CLASSES
    told = outputs['dataset_converters/to_coco.py']
    count = len(drawn['annotations'])
    assert f'boxes: {count} in the files = {count} written + 0 left out' in told
    recipe = 'retinanet_r18_fpn_small'
    for name, losses, scale in ((recipe, 'FocalLoss', 256), ('mine', 'GHMC', 320)):
        work_dir = folder / 'work_dirs' / name
        assert len(scalars(work_dir, 'coco/bbox_mAP')) == 1
        cfg = Config.fromfile(work_dir / f'{name}.py')
        assert cfg.model.bbox_head.loss_cls.type == losses
        assert cfg.test_dataloader.dataset.pipeline[1].scale == (scale, scale)
    assert 'coco/bbox_mAP_50' in outputs['test.py']
    assert len(list((folder / 'work_dirs').glob(f'{recipe}/*/pictures/*'))) == 4
    pictures = [path.name for path in (folder / 'found' / 'pictures').iterdir()]
    assert sorted(pictures) == sorted(image['file_name'] for image in drawn['images'])


def test_the_table_names_every_format():
    listed = re.findall(r'^\| `(\w+)` \|', PAGE, re.MULTILINE)
    assert listed == [*READERS]
