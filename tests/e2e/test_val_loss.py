"""The loss of a validation set, of a whole detector on drawn images."""

import copy
from uuid import uuid4

import pytest
import torch

from ghmdet import get_config
from ghmdet.engine import build_runner
from tests.e2e.conftest import write_config
from tests.number_runs import own_scope

KEYS = ('val/loss', 'val/loss_cls', 'val/loss_bbox')


def runner_of(folder, shapes, extra='', **changes):
    folder.mkdir()
    cfg = get_config(write_config(folder / 'tiny.py', shapes, extra))
    cfg.work_dir = str(folder)
    cfg.experiment_name = uuid4().hex
    cfg.log_level = 'ERROR'
    cfg.default_hooks.checkpoint.save_best = None
    cfg.merge_from_dict(changes)
    return build_runner(cfg)


@pytest.fixture(scope='module', autouse=True)
def scope():
    with own_scope():
        yield


@pytest.fixture(scope='module')
def run(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('val') / 'with'
    runner = runner_of(folder, shapes, **{'val_cfg.compute_loss': True})
    runner.train()
    return runner


def test_the_training_does_not_notice(run, shapes, tmp_path):
    plain = runner_of(tmp_path / 'without', shapes)
    plain.train()
    expected = plain.model.state_dict()
    assert expected['bbox_head.loss_cls.acc_sum'].sum() > 0
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    for key in ('coco/bbox_mAP', 'coco/bbox_mAP_50'):
        scores = [r.message_hub.get_scalar(f'val/{key}').data[0].tolist() for r in (run, plain)]
        assert scores[0] == scores[1]


def by_hand(runner, dataset):
    """Sum the losses of each image by the detector itself, with the boxes in its frame."""
    model = runner.model.eval()
    before = copy.deepcopy(model.state_dict())
    losses = []
    for i in range(len(dataset)):
        packed = dataset[i]
        sample = packed['data_samples']
        factors = torch.tensor(sample.scale_factor * 2)
        sample.gt_instances.bboxes = sample.gt_instances.bboxes * factors
        sample.ignored_instances.bboxes = sample.ignored_instances.bboxes * factors
        data = model.data_preprocessor(dict(inputs=[packed['inputs']], data_samples=[sample]))
        with torch.no_grad():
            found = model.loss(**data)
        losses.append({key: sum(levels).item() for key, levels in found.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return {key: sum(loss[key] for loss in losses) / len(losses) for key in losses[0]}


def test_it_is_the_mean_over_the_images(run):
    found = run.val_loop.run()
    expected = by_hand(run, run.val_dataloader.dataset)
    assert list(found)[-3:] == list(KEYS)
    for key, value in expected.items():
        assert found[f'val/{key}'] == pytest.approx(value, rel=1e-5)
    assert found['val/loss'] == pytest.approx(sum(expected.values()), rel=1e-5)


ANNOTATIONS_FIRST = 'val_dataloader["dataset"]["pipeline"] = train_pipeline\n'
FOCAL = """
model['bbox_head'].update(
    loss_cls=dict(_delete_=True, type='FocalLoss'), loss_bbox=dict(_delete_=True, type='L1Loss')
)
"""


def test_the_order_of_the_pipeline_and_the_batch_change_nothing(run, shapes, tmp_path):
    found = run.val_loop.run()
    extra = ANNOTATIONS_FIRST + 'val_dataloader["batch_size"] = 2\n'
    other = runner_of(tmp_path / 'other', shapes, extra, **{'val_cfg.compute_loss': True})
    other.load_checkpoint(f'{run.work_dir}/epoch_2.pth')
    again = other.val_loop.run()
    assert [again[key] for key in KEYS] == [found[key] for key in KEYS]


def test_focal_loss_and_images_without_objects(shapes, tmp_path):
    # Of these images one has no objects.
    extra = FOCAL + (
        'val_dataloader["dataset"].update(ann_file="annotations/train.json", '
        'data_prefix=dict(img="train/"))\nval_evaluator["ann_file"] = data_root + '
        '"annotations/train.json"\n'
    )
    runner = runner_of(tmp_path / 'focal', shapes, extra, **{'val_cfg.compute_loss': True})
    runner.model.init_weights()
    found = runner.val_loop.run()
    expected = by_hand(runner, runner.val_dataloader.dataset)
    assert 0.1 < expected['loss_cls'] < 10
    assert {key: found[f'val/{key}'] for key in expected} == pytest.approx(expected, rel=1e-5)
