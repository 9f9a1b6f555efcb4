"""The lazy twins in ghmdet/configs: the values of the text configs, ready to be inherited."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import ghmdet
from ghmdet.registry import MODELS

TWINS = Path(ghmdet.__file__).parent / 'configs'


def names_in(folder):
    return sorted(f.relative_to(folder).with_suffix('').as_posix() for f in folder.rglob('*.py'))


NAMES = names_in(ghmdet.CONFIG_ROOT)
INHERIT = """
from mmengine.config import read_base
with read_base():
    from ghmdet.configs.{} import *
"""


def inherit(folder, name, changes=''):
    (folder / 'child.py').write_text(INHERIT.format(name.replace('/', '.')) + changes)
    return Config.fromfile(folder / 'child.py')


def test_every_text_config_has_a_twin_and_no_twin_is_alone():
    assert names_in(TWINS) == NAMES
    assert all(part.isidentifier() for name in NAMES for part in name.split('/'))
    assert len(NAMES) >= 17


@pytest.mark.parametrize('name', NAMES)
def test_values_equal_those_of_the_text_config(name, tmp_path):
    text = Config.fromfile(ghmdet.config_path(name)).to_dict()
    assert inherit(tmp_path, name).to_dict() == text
    assert Config.fromfile(TWINS / f'{name}.py').to_dict() == text


CHANGES = """
from torch.optim import AdamW

model.bbox_head.num_classes = 3
model.merge(dict(bbox_head=dict(loss_cls=dict(_delete_=True, type='FocalLoss', gamma=1.5))))
train_dataloader.update(batch_size=5)
optim_wrapper.optimizer = dict(type=AdamW, lr=1e-3)
"""


def test_a_child_overrides_dumps_and_builds(tmp_path):
    name = 'ghm.retinanet_ghm_r50_fpn_1x_coco'
    cfg = inherit(tmp_path, name, CHANGES)
    assert cfg.model.bbox_head.num_classes == 3
    assert cfg.model.bbox_head.loss_cls == dict(type='FocalLoss', gamma=1.5)
    assert cfg.model.bbox_head.loss_bbox.mu == 0.02
    assert (cfg.train_dataloader.batch_size, cfg.train_dataloader.num_workers) == (5, 2)
    assert cfg.optim_wrapper.optimizer.type is torch.optim.AdamW
    assert cfg.optim_wrapper.clip_grad.max_norm == 35

    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict()

    with torch.device('meta'):
        head = MODELS.build(cfg.model).bbox_head
    assert (head.num_classes, head.loss_cls.gamma, head.retina_cls.out_channels) == (3, 1.5, 27)


def test_one_child_does_not_change_the_next(tmp_path):
    inherit(tmp_path, 'retinanet_r50_fpn_1x_coco', 'val_dataloader.batch_size = 9\n')
    again = inherit(tmp_path, 'retinanet_r50_fpn_1x_coco')
    assert (again.val_dataloader.batch_size, again.test_dataloader.batch_size) == (1, 1)
