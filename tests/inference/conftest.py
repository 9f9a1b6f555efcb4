"""A detector of shapes with random weights, and images of several sizes."""

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from ghmdet import Detector, config_path
from ghmdet.datasets import draw_shapes
from ghmdet.engine import init_detector

SIZES = [(160, 120), (120, 160), (200, 90), (160, 120), (97, 133), (120, 160), (160, 160)]


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """Folder with `photos`, `model.pth` and `config.py`."""
    root = tmp_path_factory.mktemp('inference')
    draw_shapes(root / 'data', dict(val=len(SIZES)), seed=3)
    for number, (file, size) in enumerate(zip(sorted((root / 'data/val').iterdir()), SIZES)):
        target = root / 'photos' / 'ab'[number % 2] / f'{number // 2}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize(size).save(target)
    cfg = Config.fromfile(config_path('retinanet_ghm_r18_fpn_shapes'))
    cfg.model.test_cfg.score_thr = 0.001
    cfg.dump(root / 'config.py')
    torch.manual_seed(0)
    model = init_detector(cfg)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=('circle', 'square', 'triangle')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), root / 'model.pth')
    return root


@pytest.fixture(scope='session')
def detector(shapes):
    return Detector(shapes / 'config.py', shapes / 'model.pth', device='cpu')
