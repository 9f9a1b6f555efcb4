import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from ghmdet.losses import GHMC
from ghmdet.models.retina_head import by_prior
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData

CONFIG = Path(__file__).parents[3] / 'tools/study/pooled.py'
CFG = dict(
    num_classes=2,
    in_channels=4,
    stacked_convs=1,
    feat_channels=4,
    anchor_generator=dict(
        type='AnchorGenerator', strides=[8, 16], ratios=[1.0], scales=[2.0], center_offset=0.5
    ),
    loss_bbox=dict(type='GHMR'),
    train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)),
)


@pytest.fixture(scope='module', autouse=True)
def config():
    return Config.fromfile(CONFIG)  # imports the head


def make_batch():
    """Two maps of two images, each with boxes that fit anchors of both levels."""
    torch.manual_seed(0)
    samples = []
    for boxes in ([[8, 8, 24, 24], [0, 0, 32, 32]], [[16, 0, 32, 16]]):
        sample = DetDataSample(metainfo=dict(pad_shape=(32, 32), img_shape=(32, 32)))
        labels = torch.arange(len(boxes))
        sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes).float(), labels=labels)
        samples.append(sample)
    return [torch.randn(2, 4, 4, 4), torch.randn(2, 4, 2, 2)], samples


def make_heads(loss_cls):
    pooled = MODELS.build(dict(CFG, type='PooledRetinaHead', loss_cls=loss_cls))
    for weight in pooled.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    separate = MODELS.build(dict(CFG, type='RetinaHead', loss_cls=loss_cls))
    separate.load_state_dict(pooled.state_dict())
    return pooled, separate


def test_a_loss_that_does_not_count_is_the_same():
    feats, samples = make_batch()
    pooled, separate = make_heads(dict(type='CrossEntropyLoss', use_sigmoid=True))
    found, expected = pooled.loss(feats, samples), separate.loss(feats, copy.deepcopy(samples))
    assert len(found['loss_cls']) == 1
    assert sum(expected['loss_cls']).item() == pytest.approx(found['loss_cls'][0].item(), rel=1e-6)
    torch.testing.assert_close(found['loss_bbox'], expected['loss_bbox'], rtol=0, atol=0)


def test_ghm_c_counts_over_all_levels():
    feats, samples = make_batch()
    pooled, separate = make_heads(dict(type='GHMC', bins=5))
    pooled.loss_cls.bin_records = []
    (found,) = pooled.loss(feats, samples)['loss_cls']
    logits = torch.cat([by_prior(scores, 2).flatten(0, 1) for scores in pooled(feats)[0]])
    targets = pooled.get_targets(pooled(feats)[0], samples)
    labels, weights = torch.cat(targets.labels), torch.cat(targets.label_weights)
    assert sorted(labels.unique().tolist()) == [0, 1, 2]
    # By hand: N / (entries of the bin) / (bins that have entries).
    valid = (weights > 0)[:, None].expand_as(logits)
    targets_01 = torch.nn.functional.one_hot(labels, 3)[:, :2].float()
    bins = ((logits.sigmoid() - targets_01).abs() * 5).long().clamp(max=4)
    counts = torch.bincount(bins[valid], minlength=5)
    assert (counts > 0).sum() > 2
    ((recorded, weight_of_bin),) = pooled.loss_cls.bin_records
    assert recorded.tolist() == counts.tolist()
    by_hand = torch.where(counts > 0, valid.sum() / counts / (counts > 0).sum(), 0)
    torch.testing.assert_close(weight_of_bin, by_hand)
    torch.testing.assert_close(found, GHMC(bins=5)(logits, labels, weights))
    per_level = sum(separate.loss(feats, samples)['loss_cls'])
    assert per_level.item() != pytest.approx(found.item(), 0.05)


def test_the_config_is_found_from_any_folder_and_keeps_the_size_of_the_loss(
    config, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    head = Config.fromfile(CONFIG).model.bbox_head
    assert MODELS.get(head.type).__name__ == 'PooledRetinaHead'
    assert head.loss_cls.loss_weight == len(head.anchor_generator.strides)
    base = Config.fromfile(CONFIG.parents[2] / 'configs/retinanet_ghm_r50_fpn_1x_coco.py')
    assert head.loss_cls == base.model.bbox_head.loss_cls | {'loss_weight': 3.0}
