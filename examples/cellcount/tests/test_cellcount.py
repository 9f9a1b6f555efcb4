"""The project as a user runs it: data, training and testing with ghmdet tools in a new folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cellcount.draw import draw_cells
from cellcount.table import read_table, write_table
from mmengine.config import Config

from ghmdet.registry import DATASETS

CONFIG = Path(__file__).parents[1] / 'configs' / 'cells.py'


def run(folder, tool, *args):
    command = [sys.executable, '-m', f'ghmdet.{tool}', CONFIG, *args]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('empty')
    draw_cells(folder / 'data' / 'cells', dict(train=64, val=16), seed=0)
    log = run(folder, 'train')
    return folder, log


def scalars(folder, key):
    file = next((folder / 'work_dirs' / 'cells').glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def test_it_learns(trained):
    folder, _ = trained
    losses = scalars(folder, 'loss')
    assert len(losses) == 16  # 64 images, batch size 8, 8 epochs, every 4th step
    assert losses[-1] < 0.4 * losses[0]
    figures = scalars(folder, 'coco/bbox_mAP_50')
    assert len(figures) == 2
    assert figures[-1] > 0.5


def test_the_checkpoint_is_of_our_parts(trained):
    folder, log = trained
    checkpoint = torch.load(folder / 'work_dirs/cells/epoch_8.pth', weights_only=False)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('red', 'white')
    weights = checkpoint['state_dict']
    assert weights['backbone.stem.conv.weight'].shape == (16, 3, 3, 3)
    assert weights['neck.lateral.2.weight'].shape == (32, 64, 1, 1)
    assert weights['bbox_head.retina_cls.weight'].shape == (9 * 2, 32, 3, 3)
    # GHM-C with our 10 bins, and no GHM-R.
    assert weights['bbox_head.loss_cls.acc_sum'].shape == (10,)
    assert 'bbox_head.loss_bbox.acc_sum' not in weights
    assert 'train.csv: 64 images, 64 used' in log


def test_testing_repeats_the_last_validation(trained):
    folder, _ = trained
    log = run(folder, 'test', 'work_dirs/cells/epoch_8.pth', '--work-dir', 'tested')
    results = json.loads(next(folder.glob('tested/*/*.json')).read_text())
    for key in ('coco/bbox_mAP', 'coco/red_precision', 'coco/white_precision'):
        assert results[key] == pytest.approx(scalars(folder, key)[-1], abs=1e-6)
        assert 0 < results[key] < 1
    assert f'coco/bbox_mAP: {results["coco/bbox_mAP"]:.4f}' in log


def test_a_table_becomes_boxes_and_labels(tmp_path):
    rows = [('b.png', 40, 30, 'white', 1, 2, 11, 22), ('a.png', 50, 60, '', '', '', '', '')]
    write_table(tmp_path / 'val.csv', rows)
    empty, one = read_table(tmp_path / 'val.csv', ('red', 'white'))
    assert empty == dict(img_id='a.png', width=50, height=60, instances=[])
    assert one['instances'] == [dict(bbox=[1, 2, 11, 22], bbox_label=1, ignore_flag=0)]
    with pytest.raises(ValueError, match=r"val.csv, line 2: 'white' is none of \('red',\)"):
        read_table(tmp_path / 'val.csv', ('red',))


def test_classes_of_the_config_decide_the_labels(tmp_path):
    draw_cells(tmp_path, dict(train=3), seed=0)
    cfg = Config.fromfile(CONFIG).train_dataloader.dataset
    labels = {}
    for classes in (('red', 'white'), ('white', 'red')):
        cfg.update(data_root=str(tmp_path), metainfo=dict(classes=classes))
        labels[classes] = [label for info in DATASETS.build(cfg) for label in _labels(info)]
    assert set(labels['red', 'white']) == {0, 1}
    assert labels['white', 'red'] == [1 - label for label in labels['red', 'white']]


def _labels(info):
    return info['data_samples'].gt_instances.labels.tolist()
