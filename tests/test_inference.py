"""Detections in Python equal those of the pipeline that tools/test.py runs."""

import mmcv
import pytest
import torch
from mmengine.config import Config

from ghmdet import config_path
from ghmdet.datasets import CocoDataset, draw_shapes
from ghmdet.engine import inference_detector, init_detector


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    draw_shapes(root, dict(val=2), seed=3)
    cfg = Config.fromfile(config_path('retinanet_ghm_r18_fpn_shapes'))
    cfg.model.test_cfg.score_thr = 0.001
    torch.manual_seed(0)
    model = init_detector(cfg)
    model.init_weights()
    checkpoint = root / 'model.pth'
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return root, cfg, checkpoint


def test_paths_and_arrays_give_what_the_test_pipeline_gives(setting):
    root, cfg, checkpoint = setting
    model = init_detector(cfg, str(checkpoint))
    assert not model.training
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    dataset = CocoDataset(
        str(root / 'annotations/val.json'),
        data_prefix=dict(img=str(root / 'val')),
        metainfo=dict(classes=cfg.classes),
        test_mode=True,
        pipeline=cfg.test_dataloader.dataset.pipeline,
    )
    paths = [dataset.get_data_info(i)['img_path'] for i in range(2)]
    by_path = inference_detector(model, paths)
    for i, path in enumerate(paths):
        data = dataset[i]
        with torch.no_grad():
            expected = model.test_step({key: [value] for key, value in data.items()})[0]
        for found in (by_path[i], inference_detector(model, mmcv.imread(path))):
            assert len(found.pred_instances) == len(expected.pred_instances) > 0
            for key in ('bboxes', 'scores', 'labels'):
                assert torch.equal(found.pred_instances[key], expected.pred_instances[key])


def test_class_names_come_from_the_checkpoint_or_the_config(setting):
    _, cfg, checkpoint = setting
    assert init_detector(cfg, str(checkpoint)).dataset_meta['classes'] == ('a', 'b', 'c')
    from_name = init_detector(config_path('retinanet_ghm_r18_fpn_shapes'))
    assert from_name.dataset_meta['classes'] == ('circle', 'square', 'triangle')


def test_unfolded_for_training_and_saving(setting):
    _, cfg, checkpoint = setting
    model = init_detector(cfg, str(checkpoint), fold=False)
    saved = torch.load(checkpoint)['state_dict']
    assert list(model.state_dict()) == list(saved)
    assert torch.equal(model.backbone.conv1.weight, saved['backbone.conv1.weight'])
