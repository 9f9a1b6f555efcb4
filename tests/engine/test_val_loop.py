"""The loss of a validation set: its average, the frame of its boxes, what is refused."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose, Resize
from mmengine.config import Config

from ghmdet.datasets import LoadAnnotations, PackDetInputs
from ghmdet.engine import val_loop
from ghmdet.engine.amp import apply_amp
from ghmdet.engine.runner import _choose_own_parts as choose_own_parts
from ghmdet.losses import GHMC, GHMR
from tests.number_runs import NumberModel, number_cfg, train
from tests.two_processes import run_processes


def validated(tmp_path, numbers, batch_size=2, **changes):
    changes = dict(val_evaluator=dict(type='RisingMetric'), **changes)
    cfg = number_cfg(tmp_path, [1, 1], **changes)
    dataset = dict(type='NumberDataset', numbers=numbers)
    cfg.val_dataloader = dict(cfg.train_dataloader, dataset=dataset, batch_size=batch_size)
    cfg.val_cfg = dict(type='ValLoop', compute_loss=True)
    return cfg


@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_the_average_is_over_images_whatever_the_batch(tmp_path, batch_size):
    runner = train(validated(tmp_path, [1, 2, 3, 4, 10], batch_size, epochs=2))
    # The weight is -2 and -4 after the epochs, the mean number 4; loss_rest is 1.
    hub = runner.message_hub
    names = ('loss', 'loss_w', 'loss_rest')
    logged = [hub.get_scalar(f'val/val/{name}').data[0].tolist() for name in names]
    assert logged == [[-15], [-16], [1]]  # of the last epoch only
    assert runner.model.total.item() == 4  # of the training


def test_metrics_come_first_and_names_serve_save_best(tmp_path):
    cfg = validated(tmp_path, [1, 2], epochs=2)
    cfg.default_hooks.checkpoint.update(save_best='val/loss')
    runner = train(cfg)
    assert list(runner.val_loop.run()) == ['up', 'val/loss', 'val/loss_w', 'val/loss_rest']
    assert runner.message_hub.get_info('best_score') == -4 * 1.5 + 1  # less is better


def test_without_it_the_loop_is_mmengines(tmp_path):
    cfg = validated(tmp_path, [1, 2])
    cfg.val_cfg.compute_loss = False
    assert train(cfg).val_loop.run() == {'up': 2}


class RestlessModel(NumberModel):
    """Draws random numbers in its loss and writes into samples when it predicts."""

    autocast: list[bool] = []

    def forward(self, inputs, data_samples, mode='loss'):
        if mode == 'predict':
            data_samples[0].metainfo['img_id'] = 'spoilt'
        elif not self.training:
            torch.rand(1), np.random.rand(), random.random()
            self.autocast.append(torch.is_autocast_enabled('cpu'))
        return super().forward(inputs, data_samples, mode)


@pytest.mark.parametrize('fp16', [True, False])
def test_random_numbers_are_as_they_would_be_and_mixed_precision(tmp_path, fp16):
    def states(compute_loss):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        runner.val_loop.compute_loss = compute_loss
        runner.val_loop.run()
        numpy = np.random.get_state()
        return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2:], random.getstate()

    cfg = validated(tmp_path, [1, 2, 3])
    cfg.model = dict(type=RestlessModel)
    cfg.val_cfg.fp16 = fp16
    RestlessModel.autocast.clear()
    runner = train(cfg)
    assert set(RestlessModel.autocast) == {fp16}
    assert states(True) == states(False)


# --- the frame of the boxes ---------------------------------------------------------------------


def pack(first, second, **resize):
    results = dict(
        img=np.zeros((37, 61, 3), np.uint8),
        ori_shape=(37, 61),
        img_id=1,
        instances=[
            dict(bbox=[1.3, 2.7, 33.3, 36.9], bbox_label=0, ignore_flag=0),
            dict(bbox=[0.1, 0.2, 61.0, 37.0], bbox_label=1, ignore_flag=0),
            dict(bbox=[7.7, 7.7, 9.1, 9.3], bbox_label=1, ignore_flag=1),
        ],
    )
    steps = dict(load=LoadAnnotations(), resize=Resize(**resize))
    return Compose([steps[first], steps[second], PackDetInputs()])(results)['data_samples']


@pytest.mark.parametrize('scale', [(100, 90), (1333, 800), (17, 11)])
@pytest.mark.parametrize('keep_ratio', [True, False])
def test_boxes_are_those_of_the_other_order_to_the_bit(scale, keep_ratio):
    expected = pack('load', 'resize', scale=scale, keep_ratio=keep_ratio)
    found = pack('resize', 'load', scale=scale, keep_ratio=keep_ratio)
    assert not torch.equal(found.gt_instances.bboxes, expected.gt_instances.bboxes)
    val_loop._scale_to_input(found)
    for kind in ('gt_instances', 'ignored_instances'):
        assert torch.equal(found.get(kind).bboxes, expected.get(kind).bboxes)
        assert found.get(kind).bboxes.dtype == torch.float32


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(img_shape=(50, 60)), 'put LoadAnnotations right after LoadImageFromFile'),
        (dict(flip=True), 'put LoadAnnotations right after LoadImageFromFile'),
        (None, 'needs scale_factor among the meta_keys of PackDetInputs'),
    ],
)
def test_more_than_resizing_before_the_annotations(change, message):
    sample = pack('resize', 'load', scale=(100, 90), keep_ratio=True)
    if change is None:
        del sample.scale_factor
    else:
        sample.set_metainfo(change)
    with pytest.raises(ValueError, match=message):
        val_loop._scale_to_input(sample)


# --- what is refused ----------------------------------------------------------------------------


def dataset(*names, instances=((1,),)):
    class Dataset(list):
        ann_file = 'val.json'
        pipeline = SimpleNamespace(transforms=[type(name, (), {})() for name in names])
        get_data_info = list.__getitem__

    return Dataset(dict(instances=items) for items in instances)


def test_pipelines_and_annotations():
    good = dataset('Resize', 'LoadAnnotations', instances=((), (1,)))
    val_loop._check_annotations(good)
    assert not val_loop._annotations_come_first(good)
    other = dataset('LoadImageFromFile', 'LoadAnnotations', 'RandomResize')
    assert val_loop._annotations_come_first(other)
    with pytest.raises(ValueError, match='before Resize in the pipelines of all datasets'):
        val_loop._annotations_come_first(SimpleNamespace(datasets=[good, other]))
    with pytest.raises(ValueError, match='val_dataloader.dataset.pipeline has no LoadAnnotations'):
        val_loop._check_annotations(dataset('Resize'))
    with pytest.raises(
        ValueError, match=r'no image of val_dataloader.dataset has any \(val.json\)'
    ):
        val_loop._check_annotations(dataset('LoadAnnotations', instances=((), ())))


def test_a_detector_without_a_loss(tmp_path):
    class Lossless(NumberModel):
        def forward(self, inputs, data_samples, mode='loss'):
            if self.training or mode == 'predict':
                return super().forward(inputs, data_samples, mode)
            raise NotImplementedError

    cfg = validated(tmp_path, [1, 2])
    cfg.model = dict(type=Lossless)
    with pytest.raises(ValueError, match=r'a detector with a loss: Lossless\.forward\(mode='):
        train(cfg)


@pytest.mark.parametrize(
    ('val_cfg', 'kind'),
    [
        (dict(compute_loss=True), 'ghmdet.ValLoop'),
        (dict(type='ValLoop', compute_loss=True), 'ghmdet.ValLoop'),
        (dict(type='MyLoop', compute_loss=True), 'MyLoop'),
        (dict(), None),
        (dict(type='ValLoop'), 'ValLoop'),
    ],
)
def test_which_loop_is_built(val_cfg, kind):
    cfg = Config(dict(val_cfg=val_cfg, optim_wrapper={}))
    choose_own_parts(cfg)
    assert cfg.val_cfg.get('type') == kind
    apply_amp(cfg)
    assert cfg.val_cfg.get('fp16', False) == (kind != 'MyLoop')


# --- GHM ----------------------------------------------------------------------------------------


def test_ghm_weighs_by_its_running_counts_and_leaves_them():
    loss = GHMC(bins=2, momentum=0.5).eval()
    loss.acc_sum.copy_(torch.tensor([30.0, 10.0]))
    pred = torch.tensor([[-2.0], [-1.0], [1.0], [-3.0]])  # g of .12 .27 .73 .05 for background
    labels = torch.ones(4, dtype=torch.long)
    entries = torch.nn.functional.softplus(pred).flatten()
    # 4 entries: the counts 30 and 10 are 3 and 1; 2 bins are filled: weights 4/3/2 and 4/1/2.
    expected = (entries[[0, 1, 3]].sum() * 4 / 3 / 2 + entries[2] * 4 / 1 / 2) / 4
    assert loss(pred, labels, torch.ones(4)).item() == pytest.approx(expected.item(), rel=1e-6)
    # Whatever the number of images.
    twice = loss(pred.repeat(2, 1), labels.repeat(2), torch.ones(8))
    assert twice.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.acc_sum.tolist() == [30, 10]


def test_ghm_bins_without_running_counts_have_those_at_hand():
    loss = GHMR(mu=1.0, bins=2, momentum=0.5).eval()
    pred, target = torch.tensor([[0.0, 3**0.5, 0.0, 0.0]]), torch.zeros(1, 4)
    valid = torch.ones(1, 4)
    assert loss(pred, target, valid).item() == pytest.approx(0.5)  # as with momentum 0
    assert loss.acc_sum.tolist() == [0, 0]
    loss.acc_sum.copy_(torch.tensor([8.0, 0.0]))
    # The one hard entry still counts for itself: 4 / 1 / 2, of loss 1, over 4.
    assert loss(pred, target, valid).item() == pytest.approx(0.5)
    assert loss(pred, target, 0 * valid).item() == 0


def test_ghm_with_bias_correction():
    plain, corrected = (GHMC(bins=2, momentum=0.5, bias_correct=b).eval() for b in (False, True))
    plain.acc_sum.copy_(torch.tensor([30.0, 10.0]))
    corrected.acc_sum.copy_(torch.tensor([15.0, 7.5]))
    corrected.acc_share.copy_(torch.tensor([0.5, 0.75]))
    args = torch.tensor([[-2.0], [1.0]]), torch.ones(2, dtype=torch.long), torch.ones(2)
    assert corrected(*args).item() == plain(*args).item()
    assert corrected.acc_share.tolist() == [0.5, 0.75]


# --- several processes --------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from mmengine.dist import get_rank
from tests.engine.test_val_loop import validated
from ghmdet.engine import build_runner
import torch

runner = build_runner(validated(sys.argv[1], [1, 2, 3, 4, 10], launcher='pytorch'))
runner.train()
metrics = runner.val_loop.run()
Path(f'{sys.argv[1]}.{get_rank()}').write_text(str(metrics))
torch.distributed.destroy_process_group()
"""


def test_two_processes_count_each_image_once(tmp_path):
    run_processes(SCRIPT, tmp_path, tmp_path / 'work')
    # One step of mean gradient 1; the fifth image has no partner, and the first one is repeated.
    texts = [(tmp_path / f'work.{rank}').read_text() for rank in (0, 1)]
    assert texts == ["{'up': 2, 'val/loss': -3.0, 'val/loss_w': -4.0, 'val/loss_rest': 1.0}"] * 2
