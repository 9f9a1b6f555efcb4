"""Weights of torchvision's models compute the same here."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from mmengine.config import Config
from torch import nn
from torchvision.models.detection import backbone_utils, retinanet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ghmdet.checkpoint.key_maps import strip_wrappers
from ghmdet.datasets.coco import COCO_CLASSES
from ghmdet.engine import fit_state_dict
from ghmdet.registry import MODELS
from tests.checkpoint.test_weights import assert_same, load
from tests.detectors import FOCAL, detector, randomize


def our_retinanet(
    num_classes=80, extra='on_output', norm_cfg=None, backbone=None, eps=1e-5, relu=True
):
    norm = dict(type='BN', eps=eps)
    neck = dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, start_level=1)
    neck |= dict(add_extra_convs=extra, relu_before_extra_convs=relu, num_outs=5)
    head = dict(type='RetinaHead', num_classes=num_classes, in_channels=256, norm_cfg=norm_cfg)
    backbone = {'type': 'ResNet', 'depth': 50, 'norm_cfg': norm, **(backbone or {})}
    return MODELS.build(dict(type='RetinaNet', backbone=backbone, neck=neck, bbox_head=head)).eval()


def their_v1(num_classes=91, norm=nn.BatchNorm2d, resnet=torchvision.models.resnet50):
    fpn = backbone_utils._resnet_fpn_extractor(
        resnet(norm_layer=norm), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    return retinanet.RetinaNet(fpn, num_classes)


def their_v2(num_classes=91):
    return retinanet.retinanet_resnet50_fpn_v2(weights_backbone=None, num_classes=num_classes)


def as_older_torchvision(weights):
    """The names of the first releases, without versions: what the published file of v1 has."""

    def rename(name):
        name = re.sub(r'(inner_blocks|layer_blocks)\.(\d)\.0\.', r'\1.\2.', name)
        return re.sub(r'conv\.(\d)\.0\.', lambda m: f'conv.{2 * int(m[1])}.', name)

    return {rename(name): value for name, value in weights.items()}


def compare_outputs(theirs, ours, rows=None):
    """Head outputs of a random batch, all levels; `rows` are the classes that ours has."""
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        outputs = theirs.eval().head(list(theirs.backbone(images).values()))
        cls_scores, bbox_preds = ours(images)
    for key, maps, width in (
        ('cls_logits', cls_scores, ours.bbox_head.num_classes),
        ('bbox_regression', bbox_preds, 4),
    ):
        assert [tuple(m.shape[-2:]) for m in maps] == [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)]
        found = torch.cat([m.permute(0, 2, 3, 1).reshape(2, -1, width) for m in maps], dim=1)
        expected = outputs[key]
        if rows is not None and key == 'cls_logits':
            expected = expected[..., rows]
        assert 0.1 < expected.std() < 100  # neither dead nor blown up
        assert (found - expected).abs().max() < 1e-4, key


COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def with_batch_norm_in_the_towers():
    theirs = their_v1(4)
    theirs.head = retinanet.RetinaNetHead(256, 9, 4, norm_layer=partial(nn.BatchNorm2d))
    return theirs


GN = dict(type='GN', num_groups=32)
OF_COCO = (['of its 91 classes the 80 that COCO uses, in the order of their ids'], COCO_CLASSES)
RESNEXT = dict(type='ResNeXt', groups=32, base_width=4)


@pytest.mark.parametrize(
    ('theirs', 'rename', 'ours', 'rows', 'expected'),
    [
        (their_v1, dict, dict(), COCO_IDS, OF_COCO),
        (partial(their_v1, norm=FrozenBatchNorm2d), as_older_torchvision, {}, COCO_IDS, OF_COCO),
        (their_v2, dict, dict(extra='on_input', norm_cfg=GN), COCO_IDS, OF_COCO),
        (
            partial(their_v1, 5, resnet=torchvision.models.resnext50_32x4d),
            lambda weights: {f'module.{key}': value for key, value in weights.items()},
            dict(num_classes=5, backbone=RESNEXT),
            None,
            ([], None),
        ),
        (
            with_batch_norm_in_the_towers,
            dict,
            dict(num_classes=3, norm_cfg=dict(type='BN')),
            [1, 2, 3],
            (["of its 4 classes all but the first, torchvision's background"], None),
        ),
    ],
)
def test_detectors_of_torchvision(theirs, rename, ours, rows, expected):
    theirs, ours = theirs(), our_retinanet(**ours)
    randomize(theirs, 1)
    report = load(rename(theirs.state_dict()), ours)
    report.require_complete()
    assert (report.fits_exactly, report.warnings) == (True, [])
    assert (report.notes, report.classes) == expected
    compare_outputs(theirs, ours, rows)


def test_the_older_names_are_those_that_torchvision_knows():
    theirs, again = their_v1(norm=FrozenBatchNorm2d), their_v1(norm=FrozenBatchNorm2d)
    again.load_state_dict(as_older_torchvision(theirs.state_dict()))
    assert_same(again, theirs.state_dict())


def test_the_config_in_the_docs_is_that_of_torchvision_v1(tmp_path):
    text = (Path(__file__).parents[2] / 'docs/use/checkpoints.md').read_text()
    snippets = re.findall(r'```python\n(.*?)```', text, re.S)
    (tmp_path / 'v1.py').write_text(next(part for part in snippets if '_base_' in part))
    with torch.device('meta'):
        ours = MODELS.build(Config.fromfile(tmp_path / 'v1.py').model)
        _, report = fit_state_dict(their_v1().state_dict(), ours)
    assert (report.fits_exactly, report.warnings) == (True, [])
    assert ours.backbone.layer4[2].bn3.eps == 0


def test_epsilon_zero_of_the_first_published_file():
    theirs = their_v1(3, norm=partial(FrozenBatchNorm2d, eps=0.0))
    randomize(theirs, 5)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):  # so small that an epsilon of 1e-5 shows
            module.running_var *= 1e-4
            module.weight *= 1e-2
    ours = our_retinanet(3, eps=0)
    load(theirs.state_dict(), ours)
    compare_outputs(theirs, ours)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5
    with pytest.raises(AssertionError, match='cls_logits'):
        compare_outputs(theirs, ours)


def test_torchvision_coco_rows_by_name():
    theirs = their_v1(91)
    randomize(theirs, 7)
    ours = our_retinanet(3, 'on_output')
    _, report = fit_state_dict(theirs.state_dict(), ours)
    assert report.head_mismatch() == "the file's head has 80 classes, the config's 3"
    report = load(theirs.state_dict(), ours, match_classes=('toothbrush', 'car', 'yak'))
    assert '2 of 3 classes copied from the file (toothbrush, car)' in report.notes[-1]
    weight = ours.bbox_head.retina_cls.weight
    for anchor in range(9):
        rows = theirs.head.classification_head.cls_logits.weight[anchor * 91 :]
        assert torch.equal(weight[anchor * 3], rows[90])
        assert torch.equal(weight[anchor * 3 + 1], rows[3])


@pytest.mark.parametrize(
    ('theirs', 'extra', 'relu', 'told'),
    [
        (their_v1, 'on_output', False, 'model.neck.relu_before_extra_convs=True'),
        (their_v1, 'on_lateral', True, 'model.neck.add_extra_convs=on_output'),
        (their_v2, 'on_input', False, 'model.neck.relu_before_extra_convs=True'),
    ],
)
def test_a_neck_with_other_settings_is_reported(theirs, extra, relu, told):
    with torch.device('meta'):
        _, report = fit_state_dict(theirs(3).state_dict(), our_retinanet(3, extra, relu=relu))
    text = f'the file is of a model with {told}, but the config has other settings'
    assert report.warnings == [text]


@pytest.mark.parametrize(
    ('build', 'cfg', 'counted'),
    [
        (torchvision.models.resnet18, dict(type='ResNet', depth=18), True),
        (torchvision.models.resnet50, dict(type='ResNet', depth=50), False),
        (torchvision.models.resnext50_32x4d, dict(RESNEXT, depth=50), True),
    ],
)
def test_torchvision_classifiers(build, cfg, counted):
    theirs = build()
    randomize(theirs, 8)
    weights, ours = theirs.state_dict(), MODELS.build(cfg).eval()
    if not counted:  # as in the older files
        weights = {k: v for k, v in weights.items() if 'num_batches_tracked' not in k}
    report = load(weights, ours)
    assert (report.missing, report.unexpected) == ([], ['fc.weight', 'fc.bias'])
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    theirs.eval()
    with torch.no_grad():
        stages = ours(x)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i, stage in enumerate(stages, start=1):
            x = getattr(theirs, f'layer{i}')(x)
            assert x.std() > 0.1
            assert (stage - x).abs().max() < 1e-4


def test_the_backbone_of_a_detector_of_torchvision():
    theirs, ours = their_v1(3), MODELS.build(dict(type='ResNet', depth=50))
    load(theirs.state_dict(), ours)
    assert_same(ours, theirs.backbone.body.state_dict())


def test_a_classifier_as_load_from_of_a_detector():
    theirs = torchvision.models.resnet18()
    randomize(theirs, 8)
    model = detector(losses=FOCAL)
    report = load(theirs.state_dict(), model)
    assert (len(report.loaded), report.unexpected) == (120, ['fc.weight', 'fc.bias'])
    assert {name.split('.')[0] for name in report.missing} == {'neck', 'bbox_head'}
    expected = {f'backbone.{name}': value for name, value in theirs.state_dict().items()}
    assert_same(model, expected, report.loaded)


PREFIXES = ['', 'module.', 'module.module.', '_orig_mod.', 'model.', 'net.', 'my_detector.']


@pytest.mark.parametrize(
    'prefix', [*PREFIXES, 'model.module.', 'module.model.', 'model._orig_mod.']
)
@pytest.mark.parametrize('theirs', ['ours', 'torchvision', 'backbone'])
def test_any_wrapper_around_all_is_removed(prefix, theirs):
    model = our_retinanet(num_classes=91 if theirs == 'torchvision' else 3)
    given = their_v1().state_dict() if theirs == 'torchvision' else model.state_dict()
    if theirs == 'backbone':
        given = {k.removeprefix('backbone.'): v for k, v in given.items() if 'backbone.' in k}
    wrapped = {f'{prefix}{name}': value for name, value in given.items()}
    plain, expected = fit_state_dict(given, model)
    extra = {'criterion.weight': torch.ones(1)} if prefix else {}
    fitted, report = fit_state_dict({**wrapped, **extra}, model)
    assert report.loaded == expected.loaded != []
    assert report.missing == expected.missing
    assert all(torch.equal(fitted[name], plain[name]) for name in plain)


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone'])
def test_a_part_of_a_wrapped_file(prefix):
    model = our_retinanet(num_classes=3)
    given = {f'model.{name}': value for name, value in model.state_dict().items()}
    assert fit_state_dict(given, model.backbone, prefix=prefix)[1].fits_exactly


def test_of_two_copies_the_first_is_used():
    model = our_retinanet(num_classes=3)
    given = {f'model.{name}': value for name, value in model.state_dict().items()}
    ema = {f'ema_model.{name}': value * 2 for name, value in model.state_dict().items()}
    fitted, report = fit_state_dict({**given, **ema}, model)
    assert all(torch.equal(fitted[name], value) for name, value in model.state_dict().items())
    assert len(report.unexpected) == len(ema)


def test_few_names_that_end_alike_are_no_wrapper():
    own = {f'layer.{i}.weight': 1 for i in range(9)} | {'weight': 1}
    given = {'head.weight': 1, 'head.bias': 2}
    assert strip_wrappers(given, own) == given
