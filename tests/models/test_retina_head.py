import copy
import math
from types import SimpleNamespace

import pytest
import torch

from ghmdet.models import RetinaHead, retina_head
from ghmdet.structures import DetDataSample, InstanceData

ASSIGNER = dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)
CFG = dict(
    num_classes=2,
    in_channels=4,
    stacked_convs=1,
    feat_channels=4,
    # One 16 x 16 anchor per cell on one level; cells are 16 pixels wide.
    anchor_generator=dict(
        type='AnchorGenerator', strides=[16], ratios=[1.0], scales=[1.0], center_offset=0.5
    ),
    loss_cls=dict(type='GHMC'),
    loss_bbox=dict(type='GHMR'),
    train_cfg=dict(assigner=ASSIGNER, sampler=dict(type='PseudoSampler')),
    test_cfg=dict(
        nms_pre=10,
        min_bbox_size=0,
        score_thr=0.3,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=5,
    ),
)


def sample(bboxes=(), labels=(), ignored=(), **metainfo):
    metainfo = {'img_shape': (32, 48), 'pad_shape': (32, 48), 'scale_factor': (2.0, 2.0)} | metainfo
    result = DetDataSample(metainfo=metainfo)
    result.gt_instances = InstanceData(
        bboxes=torch.tensor(bboxes).float().reshape(-1, 4), labels=torch.tensor(labels).long()
    )
    result.ignored_instances = InstanceData(bboxes=torch.tensor(ignored).float().reshape(-1, 4))
    return result


def targets(cfg, *samples):
    maps = [torch.zeros(len(samples), 2, 2, 3)]
    return RetinaHead(**cfg).get_targets(maps, list(samples))


def test_targets_worked_by_hand():
    # Six cells of 16 pixels. The gt is the second cell, moved right by 4 and 16 * e**.1 wide.
    width = 16 * math.exp(0.1)
    box = [28 - width / 2, 0, 28 + width / 2, 16]
    found = targets(CFG, sample([box], [1], pad_shape=(16, 48)), sample())
    # Image 0: the second row of cells is padding; image 1: all background.
    assert found.labels[0].tolist() == [2, 1, 2, 2, 2, 2] + [2] * 6
    assert found.label_weights[0].tolist() == [1, 1, 1, 0, 0, 0] + [1] * 6
    assert found.bbox_targets[0][1].tolist() == pytest.approx([0.25, 0, 0.1, 0], abs=1e-6)
    assert found.bbox_weights[0].sum(1).tolist() == [0, 4] + [0] * 10
    # One positive, and an image without any counts as one.
    assert found.avg_factor.item() == 2


@pytest.mark.parametrize(
    ('ignore_iof_thr', 'bboxes', 'weights'),
    [
        (0.5, [[0, 0, 16, 16]], [3, 1, 0, 1, 1, 0]),
        (-1, [[0, 0, 16, 16]], [3, 1, 1, 1, 1, 1]),
        (0.5, [], [1, 1, 0, 1, 1, 0]),  # a crowd and nothing else
        (-1, [], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_pos_weight_and_ignored_regions_which_are_in_no_bin(ignore_iof_thr, bboxes, weights):
    train_cfg = dict(assigner={**ASSIGNER, 'ignore_iof_thr': ignore_iof_thr}, pos_weight=3.0)
    head = RetinaHead(
        **{**CFG, 'train_cfg': train_cfg, 'loss_cls': dict(type='GHMC', momentum=0.5)}
    )
    # The right column of cells, and 60 % of none of the others.
    image = sample(bboxes, [0] * len(bboxes), [[30, 0, 48, 32]])
    targets = head.get_targets([torch.zeros(1, 2, 2, 3)], [image])
    assert targets.label_weights[0].tolist() == weights
    head.loss_cls.bin_records = []
    head.loss([torch.randn(1, 4, 2, 3)], [image])
    ((counts, _),) = head.loss_cls.bin_records
    used = sum(weight > 0 for weight in weights)
    assert counts.sum().item() == 2 * used  # two classes
    assert head.loss_cls.acc_sum.sum().item() == used


def test_only_sync_avg_factor_averages_over_the_processes(monkeypatch):
    reduced = []
    monkeypatch.setattr(retina_head, 'all_reduce', lambda value, op: reduced.append((value, op)))
    for cfg in (OTHERS, {**OTHERS, 'sync_avg_factor': True}):
        targets({**CFG, **cfg}, sample([[16, 0, 32, 16]], [1]), sample())
    assert reduced == [(torch.tensor(2.0), 'mean')]


def test_a_padding_sample_has_no_targets():
    box = [[16, 0, 32, 16]]
    found = targets(
        CFG,
        sample(box, [1]),
        sample(box, [1], is_padding=True),
        sample(is_padding=True),
        sample(box, [0], is_padding=False),
    )
    assert found.label_weights[0].tolist() == [1] * 6 + [0] * 12 + [1] * 6
    assert found.bbox_weights[0].sum(1).tolist() == [0, 4] + [0] * 17 + [4] + [0] * 4
    assert found.avg_factor.item() == 2


OTHERS = dict(loss_cls=dict(type='FocalLoss'), loss_bbox=dict(type='L1Loss'))


@pytest.mark.parametrize(
    'losses',
    [
        dict(),
        dict(loss_cls=dict(type='GHMC', momentum=0.5), loss_bbox=dict(type='GHMR', momentum=0.5)),
        OTHERS,
        {**OTHERS, 'loss_bbox': dict(type='SmoothL1Loss', beta=0.11), 'sync_avg_factor': True},
    ],
)
def test_padding_samples_alone_have_no_loss(losses):
    head = RetinaHead(**{**CFG, **losses})
    image = sample([[16, 0, 32, 16]], [1], is_padding=True)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    found = head.loss([torch.randn(2, 4, 2, 3)], [image, image])
    assert [loss.item() for name in found for loss in found[name]] == [0, 0]
    (found['loss_cls'][0] + found['loss_bbox'][0]).backward()
    assert all(p.grad.count_nonzero() == 0 for p in head.parameters())
    assert all(before[name].equal(value) for name, value in head.state_dict().items())


@pytest.mark.parametrize('losses', [dict(), OTHERS], ids=['ghm', 'others'])
def test_a_padding_sample_adds_nothing_to_the_loss_of_others(losses):
    head = RetinaHead(**{**CFG, **losses})
    feats = torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    image, other = sample([[16, 0, 32, 16]], [1]), sample([[0, 0, 16, 16]], [0], is_padding=True)
    alone, beside = head.loss([feats[:1]], [image]), head.loss([feats], [image, other])
    for name in ('loss_cls', 'loss_bbox'):
        assert alone[name][0].item() > 0
        assert beside[name][0].item() == pytest.approx(alone[name][0].item(), rel=1e-6)


def test_losses_get_the_flattened_maps():
    head = RetinaHead(**{**CFG, **OTHERS})
    head.init_weights()
    with torch.no_grad():
        head.retina_reg.weight.zero_()
        head.retina_reg.bias.copy_(torch.tensor([0.25, 0.0, 0.5, -0.5]))
    losses = head.loss([torch.zeros(1, 4, 2, 3)], [sample([[16, 0, 32, 16]], [1])])
    # One positive whose deltas are 0: |.25| + |0| + |.5| + |-.5|
    assert losses['loss_bbox'][0].item() == pytest.approx(1.25)
    # All scores are .01: eleven negatives and one positive.
    negative = 0.75 * 0.01**2 * -math.log(0.99)
    positive = 0.25 * 0.99**2 * -math.log(0.01)
    assert losses['loss_cls'][0].item() == pytest.approx(11 * negative + positive, rel=1e-4)


def test_detections_worked_by_hand():
    head = RetinaHead(**{**CFG, 'stacked_convs': 0})
    with torch.no_grad():
        for conv in (head.retina_cls, head.retina_reg):
            conv.weight.zero_()
            conv.bias.zero_()
        # Channel k of the input is the logit of class k; the deltas move right by half a width.
        head.retina_cls.weight[0, 0, 1, 1] = head.retina_cls.weight[1, 1, 1, 1] = 1
        head.retina_reg.bias[0] = 0.5
    feat = torch.full((1, 4, 2, 3), -5.0)
    feat[0, 1, 0, 2] = 1.0  # class 1, the cell at x 32, y 0
    feat[0, 0, 1, 0] = 2.0  # class 0, the cell at x 0, y 16
    found = head.predict([feat], [sample()])[0]
    # The second one is clipped at the right edge of the image.
    assert found.bboxes.tolist() == [[8, 16, 24, 32], [40, 0, 48, 16]]
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-x)) for x in (2.0, 1.0)])
    rescaled = head.predict([feat], [sample()], rescale=True)[0]
    assert rescaled.bboxes.tolist() == [[4, 8, 12, 16], [20, 0, 24, 8]]
    assert len(head.predict([torch.full_like(feat, -5.0)], [sample()])[0]) == 0


def test_starts_with_scores_of_one_percent():
    torch.manual_seed(0)
    head = RetinaHead(num_classes=80, in_channels=64, feat_channels=64)
    head.init_weights()
    bias = head.retina_cls.bias
    assert torch.sigmoid(bias).tolist() == pytest.approx([0.01] * 720)
    assert head.cls_convs[2].conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.retina_reg.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.retina_reg.bias.abs().max() == 0


def test_defaults_are_retinanets():
    head = RetinaHead(num_classes=1, in_channels=4)
    assert head.prior_generator.num_base_priors == [9] * 5
    base = head.prior_generator.base_anchors[0]
    assert base[3].tolist() == pytest.approx([-16, -16, 16, 16])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(num_classes=0), 'num_classes must be an integer of at least 1, got 0'),
        (dict(train_cfg=dict(sampler=dict(type='RandomSampler'))), 'train_cfg.sampler: only Pse'),
        (dict(train_cfg=dict(allowed_border=0)), 'train_cfg.allowed_border: only -1'),
        (dict(sync_avg_factor=1), 'bbox_head.sync_avg_factor must be True or False, got 1'),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        RetinaHead(**{**copy.deepcopy(CFG), **change})


def test_settings_that_do_not_fit_together():
    head = RetinaHead(**{**CFG, 'train_cfg': None})
    with pytest.raises(ValueError, match='model.train_cfg.assigner is needed for training'):
        head.loss([torch.zeros(1, 4, 2, 3)], [sample()])
    from_outside = dict(type=lambda: SimpleNamespace(num_base_priors=[9, 3]))
    with pytest.raises(ValueError, match=r'the same number of anchors per cell, got \[9, 3\]'):
        RetinaHead(**{**CFG, 'anchor_generator': from_outside})
