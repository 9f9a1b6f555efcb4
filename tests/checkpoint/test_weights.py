"""Weights of a checkpoint and a model: other names, what does not fit, and the report."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from torch import nn

from ghmdet.engine import CheckpointError, fit_state_dict
from tests.detectors import FOCAL, GHM, detector


def load(checkpoint, model, **options):
    fitted, report = fit_state_dict(checkpoint, model, **options)
    model.load_state_dict(fitted, strict=True)
    return report


def assert_same(model, weights, names=None):
    state = model.state_dict()
    for name in names or state:
        assert torch.equal(state[name], weights[name]), name


# --- MMDetection's layouts ----------------------------------------------------------------------

CLASSES = ('cat', 'dog', 'owl')


@pytest.mark.parametrize(
    ('meta', 'prefix', 'classes'),
    [
        (dict(CLASSES=CLASSES, mmdet_version='2.28.0', epoch=12, iter=100), '', CLASSES),
        (dict(dataset_meta=dict(CLASSES=CLASSES)), 'module.', CLASSES),
        (dict(dataset_meta=dict(classes=list(CLASSES))), 'module.module.', CLASSES),
        (dict(CLASSES='cat'), '_orig_mod.module.', ('cat',)),
        (dict(CLASSES=None), '', None),
        (None, '', None),
        ('no dict at all', '', None),
    ],
)
def test_own_layout(meta, prefix, classes):
    source, model = detector(seed=1).state_dict(), detector(seed=2)
    renamed = {prefix + name: value for name, value in source.items()}
    checkpoint = renamed if meta == 'no dict at all' else dict(state_dict=renamed, meta=meta)
    report = load(checkpoint, model, source='x.pth')
    assert_same(model, source)
    assert report.classes == classes
    assert str(report) == (
        'x.pth: 148 of 148 tensors of the model loaded, none missing, unexpected or of another '
        'shape'
    )


CORRECTED = dict(type='GHMC', bins=30, momentum=0.75, bias_correct=True)


@pytest.mark.parametrize(
    ('in_file', 'in_model', 'skipped'),
    [
        (GHM, FOCAL, 4),
        (FOCAL, GHM, 4),
        (dict(GHM, loss_cls=dict(type='GHMC', bins=10, momentum=0.75)), GHM, 2),
        (dict(GHM, loss_cls=dict(type='GHMC', bins=30)), GHM, 1),
        (dict(GHM, loss_cls=CORRECTED), GHM, 1),
        (GHM, dict(GHM, loss_cls=CORRECTED), 1),
        (FOCAL, dict(GHM, loss_cls=CORRECTED), 5),
    ],
)
def test_counts_of_the_losses_are_no_weights(in_file, in_model, skipped):
    source, model = detector(seed=1, losses=in_file), detector(seed=2, losses=in_model)
    source, expected = source.state_dict(), deepcopy(model.state_dict())
    for name in expected.keys() & source.keys():
        if expected[name].shape == source[name].shape:
            expected[name] = source[name]
    report = load(source, model)
    report.require_complete()
    assert report.fits_exactly
    assert report.notes == [f'counts of another loss setting: {skipped} tensors not loaded']
    assert_same(model, expected)


def test_the_table():
    source = detector(seed=1).state_dict()
    source['teacher.weight'] = torch.zeros(1)
    for name in ('weight', 'bias'):
        del source[f'neck.fpn_convs.0.conv.{name}']
    source['bbox_head.retina_cls.weight'] = torch.zeros(720, 8, 3, 3)
    source['bbox_head.retina_cls.bias'] = torch.zeros(720)
    model = detector(seed=2)
    before = deepcopy(model.state_dict())
    report = load(dict(state_dict=source), model, source='coco.pth')
    assert str(report).splitlines() == [
        'coco.pth: 144 of 148 tensors of the model loaded',
        '  missing               2  neck.fpn_convs.0.conv.{weight, bias}',
        '  unexpected            1  teacher.weight',
        '  of another shape      2',
        '    bbox_head.retina_cls.weight: (720, 8, 3, 3) in the file, (27, 8, 3, 3) in the model',
        '    bbox_head.retina_cls.bias: (720,) in the file, (27,) in the model',
    ]
    kept = [*report.missing, *report.mismatched]
    assert report.missing_parameters == kept
    assert_same(model, before, kept)
    assert_same(model, source, report.loaded)


def test_long_lists_are_shortened():
    source = detector(seed=1).state_dict()
    only_head = {name: value for name, value in source.items() if 'bbox_head' in name}
    extra = {f'ema_{i}': torch.zeros(1) for i in range(300)}
    lines = str(load({**only_head, **extra}, detector())).splitlines()
    assert lines[1] == '  missing             116  backbone.* (100), neck.* (16)'
    assert lines[2].startswith('  unexpected          300  ema_0, ema_1, ')
    assert lines[2].endswith('ema_5 and 294 more')


@pytest.mark.parametrize(
    'lost',
    ['backbone.layer1.0.conv1.weight', 'backbone.bn1.running_var', 'bbox_head.retina_reg.bias'],
)
def test_a_test_needs_every_parameter_and_statistic(lost):
    source = detector().state_dict()
    del source[lost]
    _, report = fit_state_dict(source, detector())
    with pytest.raises(CheckpointError, match=rf'(?s)1 of the weights would keep.*{lost}'):
        report.require_complete()


def test_a_file_of_another_model_is_refused():
    source = {f'encoder.{i}.weight': torch.zeros(2) for i in range(3)}
    match = r'no tensor of vit\.pth fits.*encoder\.0\.weight.*the model backbone\.\* \(120\)'
    with pytest.raises(CheckpointError, match=match):
        fit_state_dict(source, detector(losses=FOCAL), 'vit.pth')


def test_wrapped_models():
    source = detector(seed=1).state_dict()

    class TwoViews(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    wrapped = TwoViews(detector(seed=2))
    fitted, report = fit_state_dict(source, wrapped)
    assert report.fits_exactly
    assert list(fitted) == list(source)

    class Parallel(MMDistributedDataParallel):
        def __init__(self, module):
            nn.Module.__init__(self)
            self.module = module

    assert fit_state_dict(source, Parallel(wrapped))[1].fits_exactly


def test_the_model_and_the_checkpoint_stay_as_they_are():
    source, model = detector(80, seed=1).state_dict(), detector(3, seed=2)
    shapes = {name: value.shape for name, value in source.items()}
    before, theirs = deepcopy(model.state_dict()), dict(CLASSES=[*map(str, range(79)), 'b'])
    fit_state_dict(dict(state_dict=source, meta=theirs), model, match_classes=('a', 'b', 'c'))
    assert_same(model, before)
    assert {name: value.shape for name, value in source.items()} == shapes


# --- classes by name ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('theirs', 'ours', 'note'),
    [
        (('bus', 'cat', 'dog', 'owl'), ('owl', 'yak', 'cat'), '2 of 3 {} (owl, cat); {}: yak'),
        (('cat', 'dog', 'owl'), ('owl', 'cat', 'dog'), '3 of 3 {} (owl, cat, dog)'),
    ],
)
def test_rows_of_classes_with_the_same_name_are_copied(theirs, ours, note):
    source, model = detector(len(theirs), seed=1).state_dict(), detector(3, seed=2)
    old = deepcopy(model.state_dict())
    report = load(dict(state_dict=source, meta=dict(CLASSES=theirs)), model, match_classes=ours)
    for key in ('bbox_head.retina_cls.weight', 'bbox_head.retina_cls.bias'):
        for anchor in range(9):
            for i, name in enumerate(ours):
                row, expected = anchor * 3 + i, old[key][anchor * 3 + i]
                if name in theirs:
                    expected = source[key][anchor * len(theirs) + theirs.index(name)]
                assert torch.equal(model.state_dict()[key][row], expected)
    texts = ('classes copied from the file', 'randomly initialised')
    assert report.notes == [f'match_classes: {note.format(*texts)}']
    assert report.fits_exactly


@pytest.mark.parametrize(
    ('meta', 'wanted', 'match'),
    [
        ({}, CLASSES, r'needs the class names of x\.pth, but its meta has neither'),
        (dict(CLASSES=('a', 'b')), CLASSES, 'names 2 classes, but its head has 4'),
        (dict(CLASSES=tuple('abcd')), ('a',), 'dataset has 1 classes, but .* is 3'),
    ],
)
def test_rows_that_cannot_be_matched(meta, wanted, match):
    checkpoint = dict(state_dict=detector(4).state_dict(), meta=meta)
    with pytest.raises(CheckpointError, match=match):
        fit_state_dict(checkpoint, detector(3), 'x.pth', match_classes=wanted)


def test_no_head_to_match():
    meta, why = dict(CLASSES=tuple('abcd')), 'match_classes: no rows to match, the '
    wide = detector(4, width=16).state_dict()
    backbone = {name: value for name, value in wide.items() if name.startswith('backbone')}
    report = load(dict(state_dict=backbone, meta=meta), detector(3), match_classes=CLASSES)
    assert report.notes[0] == f'{why}file has no head with as many anchors per cell'
    report = load(dict(state_dict=wide, meta=meta), detector(3), match_classes=CLASSES)
    assert report.notes == [f'{why}towers of the file have another width']
    assert 'bbox_head.retina_cls.weight' in report.mismatched
