"""Images without objects, or with ignored regions only, with all losses."""

from __future__ import annotations

import copy

import pytest
import torch

from ghmdet.models import RetinaHead
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData
from tests.detectors import detector_cfg

LOSSES = [
    (dict(type='GHMC', bins=30, momentum=0.75), dict(type='GHMR', momentum=0.7, loss_weight=10.0)),
    (
        dict(type='GHMC', bins=10, bias_correct=True, momentum=0.5, max_weight=5.0),
        dict(type='GHMR', bias_correct=True, momentum=0.5, max_weight=5.0),
    ),
    (dict(type='FocalLoss'), dict(type='L1Loss')),
    (dict(type='FocalLoss'), dict(type='SmoothL1Loss', beta=0.11)),
]


def sample(bboxes=(), ignored=(), size=(64, 64)):
    result = DetDataSample(metainfo=dict(img_shape=size, pad_shape=size))
    boxes = torch.tensor(bboxes).float().reshape(-1, 4)
    result.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes)).long())
    result.ignored_instances = InstanceData(bboxes=torch.tensor(ignored).float().reshape(-1, 4))
    return result


@pytest.mark.parametrize('with_object', [False, True], ids=['empty', 'with an object'])
@pytest.mark.parametrize(('loss_cls', 'loss_bbox'), LOSSES)
def test_every_parameter_gets_a_gradient(loss_cls, loss_bbox, with_object):
    torch.manual_seed(0)
    model = MODELS.build(detector_cfg(losses=dict(loss_cls=loss_cls, loss_bbox=loss_bbox))).train()
    samples = [sample([[8, 8, 40, 40]] if with_object else []), sample()]
    losses = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
    total_bbox = sum(losses['loss_bbox'])
    assert (total_bbox.item() > 0) == with_object
    assert total_bbox.grad_fn is not None
    total = sum(losses['loss_cls']) + total_bbox
    assert total.isfinite()
    total.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    missing = [name for name, p in trained.items() if p.grad is None]
    assert missing == []
    assert all(p.grad.isfinite().all() for p in trained.values())
    if not with_object:
        assert model.bbox_head.retina_reg.weight.grad.abs().max() == 0


# --- ignored regions --------------------------------------------------------------------------

HEAD = dict(
    num_classes=1,
    in_channels=4,
    stacked_convs=0,
    # One 16 x 16 anchor in each of the six cells of a 32 x 48 image.
    anchor_generator=dict(
        type='AnchorGenerator', strides=[16], ratios=[1.0], scales=[1.0], center_offset=0.5
    ),
    loss_cls=dict(type='GHMC', bins=10, momentum=0.5),
    loss_bbox=dict(type='GHMR'),
)


@pytest.mark.parametrize(
    ('ignore_iof_thr', 'bboxes', 'weights'),
    [
        (0.5, [[0, 0, 16, 16]], [1, 1, 0, 1, 1, 0]),
        (-1, [[0, 0, 16, 16]], [1, 1, 1, 1, 1, 1]),
        (0.5, [], [1, 1, 0, 1, 1, 0]),  # a crowd and nothing else
        (-1, [], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_anchors_in_ignored_regions_are_in_no_bin(ignore_iof_thr, bboxes, weights):
    assigner = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, ignore_iof_thr=ignore_iof_thr
    )
    head = RetinaHead(**copy.deepcopy(HEAD), train_cfg=dict(assigner=assigner))
    # The right column of cells, and 60 % of none of the others.
    image = sample(bboxes, [[30, 0, 48, 32]], size=(32, 48))
    targets = head.get_targets([torch.zeros(1, 1, 2, 3)], [image])
    assert targets.label_weights[0].tolist() == weights
    head.loss_cls.bin_records = []
    head.loss([torch.randn(1, 4, 2, 3)], [image])
    ((counts, _),) = head.loss_cls.bin_records
    assert counts.sum().item() == sum(weights)
    assert head.loss_cls.acc_sum.sum().item() == sum(weights) / 2
