"""CrossEntropyLoss, the loss of logits with targets of 0 and 1."""

import json
import math

import pytest
import torch
from mmengine.config import Config

from ghmdet.config.errors import ConfigError, name_the_key
from ghmdet.losses import CrossEntropyLoss
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData
from tests.detectors import detector, detector_cfg
from tests.golden import FOLDER, model_batch
from tests.losses.cross_entropy_cases import CASES, draw

GOLDEN = json.loads((FOLDER / 'cross_entropy.json').read_text())


@pytest.mark.parametrize('name', CASES)
def test_loss_and_gradient_are_those_of_mmdetection(name):
    settings, call = CASES[name]
    pred, args = draw(call)
    pred.requires_grad_()
    loss = CrossEntropyLoss(use_sigmoid=True, **settings)(pred, **args)
    loss.sum().backward()
    expected = GOLDEN[name]
    assert loss.dim() == (2 if isinstance(expected['loss'], list) else 0)
    assert loss.flatten().tolist() == pytest.approx(
        expected['loss'] if loss.dim() else [expected['loss']], rel=1e-6, abs=1e-9
    )
    assert pred.grad.abs().sum(0).tolist() == pytest.approx(expected['grad'], rel=1e-6)


def test_worked_by_hand():
    """p is 0.75 and 0.2; the first row is class 0, the second background."""
    pred = torch.tensor([[math.log(3), -math.log(4)]] * 2)
    loss = CrossEntropyLoss(use_sigmoid=True, class_weight=[2.0, 5.0], reduction='none')
    found = loss(pred, torch.tensor([0, 2]))
    assert found[0].tolist() == pytest.approx([-2 * math.log(0.75), -math.log(0.8)])
    assert found[1].tolist() == pytest.approx([-math.log(0.25), -math.log(0.8)])


def test_weights_of_entries_also_with_labels():
    pred, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    weight = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    loss = CrossEntropyLoss(use_sigmoid=True)(pred, labels, weight, avg_factor=2)
    assert loss.item() == pytest.approx(4 * math.log(2) / 2)


def test_half_precision_is_computed_in_float32():
    pred = torch.full((1, 1), -5.0, dtype=torch.bfloat16)
    loss = CrossEntropyLoss(use_sigmoid=True)(pred, torch.tensor([1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-5)), rel=1e-4)


@pytest.mark.parametrize(
    'settings',
    [
        dict(class_weight=2.0),
        dict(class_weight=[1.0, -1.0]),
        dict(class_weight='ab'),
        dict(ignore_index=1.5),
        dict(ignore_index=True),
        dict(loss_weight=float('inf')),
        dict(avg_non_ignore=1),
        dict(reduction='max'),
        dict(use_mask=True),
    ],
    ids=str,
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=f'CrossEntropyLoss.{next(iter(settings))}.* must be'):
        CrossEntropyLoss(use_sigmoid=True, **settings)


@pytest.mark.follows(
    'class_weight must be a list or None',
    'use_sigmoid must be True',
    'ignore_index must be an int or None',
)
@pytest.mark.parametrize(
    ('wrong', 'right'),
    [
        (dict(use_sigmoid=False), dict(use_sigmoid=True)),
        (dict(class_weight=3), dict(class_weight=[1, 1, 3])),
        (dict(ignore_index='255'), dict(ignore_index=255)),
    ],
)
def test_what_a_config_sets_is_named_by_its_key(wrong, right):
    loss_cls = dict(type='CrossEntropyLoss', **{'use_sigmoid': True, **wrong})
    losses = dict(loss_cls=loss_cls, loss_bbox=dict(type='L1Loss'))
    cfg = Config(dict(model=detector_cfg(losses=losses)))
    where = r'model.bbox_head.loss_cls \(CrossEntropyLoss\)'
    with pytest.raises(ConfigError, match=where), name_the_key(cfg, {}):
        MODELS.build(cfg.model)
    cfg.model.bbox_head.loss_cls.update(right)
    assert isinstance(MODELS.build(cfg.model).bbox_head.loss_cls, CrossEntropyLoss)


@pytest.mark.follows('class_weight must have one number for each class')
def test_class_weights_are_as_many_as_classes():
    pred, labels = torch.zeros(1, 3), torch.tensor([1])
    with pytest.raises(ValueError, match='one number for each class, 3, got 2'):
        CrossEntropyLoss(use_sigmoid=True, class_weight=[1, 2])(pred, labels)
    loss = CrossEntropyLoss(use_sigmoid=True, class_weight=[1, 2, 1], reduction='sum')
    assert loss(pred, labels).item() == pytest.approx(4 * math.log(2))


def test_labels_above_the_background_are_refused_unless_they_weigh_0():
    loss, pred = CrossEntropyLoss(use_sigmoid=True), torch.zeros(2, 2)
    with pytest.raises(ValueError, match='CrossEntropyLoss: expected labels from 0 to 2.* got 7'):
        loss(pred, torch.tensor([7, 1]))
    found = loss(pred, torch.tensor([7, 1]), torch.tensor([0.0, 1.0]), avg_factor=1)
    assert found.item() == pytest.approx(2 * math.log(2))


def test_a_retinanet_divides_by_its_positives():
    losses = dict(
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=2.0),
        loss_bbox=dict(type='L1Loss'),
    )
    model = detector(80, losses=losses)
    data = model.data_preprocessor(model_batch(DetDataSample, InstanceData), True)
    samples, feats = data['data_samples'], model.extract_feat(data['inputs'])
    with torch.no_grad():
        found = model.bbox_head.loss(feats, samples)['loss_cls']
        scores, _ = model.bbox_head(feats)
    targets = model.bbox_head.get_targets(scores, samples)
    positives = sum(int((labels < 80).sum()) for labels in targets.labels)
    assert positives == targets.avg_factor > 8
    levels = zip(found, scores, targets.labels, targets.label_weights, strict=True)
    for loss, level, labels, weights in levels:
        logits = level.permute(0, 2, 3, 1).reshape(-1, 80).double()
        target = torch.eye(81)[labels][:, :80]
        entries = torch.nn.functional.softplus(torch.where(target > 0, -logits, logits))
        expected = 2 * (entries * weights[:, None]).sum().item() / positives
        assert loss.item() == pytest.approx(expected, rel=1e-5)
