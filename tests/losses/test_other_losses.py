"""Focal, L1 and smooth L1 loss, and the reduction they share with GHM."""

import math

import pytest
import torch

from ghmdet.losses import FocalLoss, L1Loss, SmoothL1Loss
from ghmdet.losses.reduction import expand_one_hot, resolve_reduction, weight_reduce

PRED, TARGET = torch.tensor([[0.5, -3.0]]), torch.zeros(1, 2)


def test_focal_worked_by_hand():
    logit = math.log(3)  # p = 0.75
    pred = torch.tensor([[logit, -logit]])
    loss = FocalLoss(reduction='none', loss_weight=2.0)(pred, torch.tensor([0]))
    positive = 0.25 * 0.25**2 * -math.log(0.75)
    negative = 0.75 * 0.25**2 * -math.log(0.75)
    assert loss[0].tolist() == pytest.approx([2 * positive, 2 * negative])


def test_focal_labels_and_one_hot_agree_and_weights_count():
    pred = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels, weight = torch.tensor([0, 3, 2, 1, 3]), torch.tensor([1.0, 0, 1, 1, 2])
    one_hot = torch.eye(4)[labels][:, :3]
    by_label = FocalLoss()(pred, labels, weight, avg_factor=4)
    by_entry = FocalLoss(reduction='none')(pred, one_hot)
    assert by_label.item() == pytest.approx((by_entry.sum(1) * weight).sum().item() / 4, rel=1e-5)


@pytest.mark.parametrize(
    'kwargs',
    [dict(use_sigmoid=False), dict(gamma=-1), dict(alpha=2), dict(alpha=True), dict(gamma='2')],
)
def test_focal_settings_are_checked(kwargs):
    with pytest.raises(ValueError, match=f'FocalLoss.*{next(iter(kwargs))}'):
        FocalLoss(**kwargs)


def test_l1_and_smooth_l1_worked_by_hand():
    assert L1Loss(reduction='none')(PRED, TARGET).tolist() == [[0.5, 3.0]]
    smooth = SmoothL1Loss(beta=2.0, reduction='none')(PRED, TARGET)
    assert smooth.tolist() == [[0.5**2 / 4, 3.0 - 1.0]]
    weight = torch.tensor([[0.0, 1.0]])
    assert L1Loss(loss_weight=2.0)(PRED, TARGET, weight, avg_factor=3).item() == pytest.approx(2)
    assert SmoothL1Loss()(PRED, TARGET, weight, reduction_override='sum').item() == 2.5


def test_no_entries_give_zero_with_a_graph():
    pred = torch.zeros(0, 4, requires_grad=True)
    loss = L1Loss()(pred, torch.zeros(0, 4), torch.zeros(0, 4), avg_factor=1)
    loss.backward()
    assert loss.item() == 0


def test_beta_zero_points_at_l1():
    with pytest.raises(ValueError, match=r'SmoothL1Loss.beta must .* \(for 0 use L1Loss\), got 0'):
        SmoothL1Loss(beta=0)


def test_reduction_rules():
    loss = torch.tensor([1.0, 3.0])
    assert weight_reduce(loss, reduction='mean').item() == 2
    assert weight_reduce(loss, torch.tensor([1.0, 0.0]), 'sum').item() == 1
    assert weight_reduce(loss, None, 'none', avg_factor=7).tolist() == [1, 3]
    with pytest.raises(ValueError, match="avg_factor is for reduction='mean'"):
        weight_reduce(loss, None, 'sum', avg_factor=7)
    assert resolve_reduction('mean', 'none', 'X') == 'none'
    with pytest.raises(ValueError, match="X.reduction must be one of .* got 'max'"):
        resolve_reduction('mean', 'max', 'X')


def test_label_outside_the_classes_is_background():
    one_hot = expand_one_hot(torch.tensor([1, 2, -1, 9]), num_classes=2)
    assert one_hot.tolist() == [[0, 1], [0, 0], [0, 0], [0, 0]]
