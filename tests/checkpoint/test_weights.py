"""Weights of a checkpoint and a model: other names, what does not fit, and the report."""

from __future__ import annotations

import io
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, MMDistributedDataParallel
from mmengine.registry import DefaultScope
from torch import nn
from torchvision.models.detection import backbone_utils, retinanet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ghmdet.datasets.coco import COCO_CLASSES
from ghmdet.engine import CheckpointError, fit_state_dict, get_model
from ghmdet.registry import MODELS
from tests.detectors import FOCAL, GHM, detector, detector_cfg, randomize


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
    ('losses', 'meta', 'prefix'),
    [
        (GHM, dict(CLASSES=CLASSES, mmdet_version='2.28.0', epoch=12, iter=100), ''),
        (FOCAL, dict(dataset_meta=dict(CLASSES=CLASSES)), 'module.'),
        (GHM, dict(dataset_meta=dict(classes=list(CLASSES))), 'module.module.'),
        (FOCAL, dict(CLASSES=CLASSES), '_orig_mod.module.'),
    ],
)
def test_own_layout(losses, meta, prefix):
    source = detector(seed=1, losses=losses).state_dict()
    model = detector(seed=2, losses=losses)
    renamed = {prefix + name: value for name, value in source.items()}
    report = load(dict(state_dict=renamed, meta=meta), model, source='x.pth')
    assert_same(model, source)
    assert report.classes == CLASSES
    total = {30: 148, None: 144}[getattr(model.bbox_head.loss_cls, 'bins', None)]
    assert str(report) == (
        f'x.pth: {total} of {total} tensors of the model loaded, none missing, unexpected or of '
        'another shape'
    )


def test_a_plain_dict_and_no_class_names():
    source = detector(seed=1).state_dict()
    for checkpoint in (source, dict(state_dict=source), dict(state_dict=source, meta=None)):
        model = detector(seed=2)
        assert load(checkpoint, model).classes is None
        assert_same(model, source)
    assert load(dict(state_dict=source, meta=dict(CLASSES=None)), model).classes is None
    assert load(dict(state_dict=source, meta=dict(CLASSES='cat')), model).classes == ('cat',)


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
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load(source.state_dict(), model)
    report.require_complete()
    assert report.fits_exactly
    assert report.notes == [f'counts of another loss setting: {skipped} tensors not loaded']
    for name, value in model.state_dict().items():
        found = source.state_dict().get(name)
        same = found is not None and found.shape == value.shape
        assert torch.equal(value, found if same else before[name]), name


def test_the_table():
    source = detector(seed=1).state_dict()
    source['teacher.weight'] = torch.zeros(1)
    for name in ('neck.fpn_convs.0.conv.weight', 'neck.fpn_convs.0.conv.bias'):
        del source[name]
    source['bbox_head.retina_cls.weight'] = torch.zeros(720, 8, 3, 3)
    source['bbox_head.retina_cls.bias'] = torch.zeros(720)
    model = detector(seed=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
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
    names, shapes = list(source), [value.shape for value in source.values()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted, theirs = ('a', 'b', 'c'), dict(CLASSES=[*map(str, range(79)), 'b'])
    fit_state_dict(dict(state_dict=source, meta=theirs), model, match_classes=wanted)
    assert_same(model, before)
    assert (list(source), [value.shape for value in source.values()]) == (names, shapes)


# --- classes by name ----------------------------------------------------------------------------


def rows_of(weights, classes):
    """{class: its 9 rows} of a head, by slicing anchor after anchor."""
    weight, bias = weights['bbox_head.retina_cls.weight'], weights['bbox_head.retina_cls.bias']
    n = len(classes)
    return {
        name: [(weight[a * n + i].clone(), bias[a * n + i].clone()) for a in range(9)]
        for i, name in enumerate(classes)
    }


def assert_rows(found, expected):
    for (weight, bias), (other_weight, other_bias) in zip(found, expected, strict=True):
        assert torch.equal(weight, other_weight)
        assert torch.equal(bias, other_bias)


@pytest.mark.parametrize(
    ('theirs', 'ours', 'note'),
    [
        (('bus', 'cat', 'dog', 'owl'), ('owl', 'yak', 'cat'), '2 of 3 {} (owl, cat); {}: yak'),
        (('cat', 'dog', 'owl'), ('owl', 'cat', 'dog'), '3 of 3 {} (owl, cat, dog)'),
    ],
)
def test_rows_of_classes_with_the_same_name_are_copied(theirs, ours, note):
    source, model = detector(len(theirs), seed=1).state_dict(), detector(3, seed=2)
    old, given = rows_of(model.state_dict(), ours), rows_of(source, theirs)
    report = load(dict(state_dict=source, meta=dict(CLASSES=theirs)), model, match_classes=ours)
    for name, rows in rows_of(model.state_dict(), ours).items():
        assert_rows(rows, given.get(name, old[name]))
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
    source = detector(3, seed=1).state_dict()
    backbone = {name: value for name, value in source.items() if name.startswith('backbone')}
    report = load(backbone, detector(3), match_classes=CLASSES)
    assert report.notes[0].startswith('match_classes: no rows to match, the file has no head')
    wide = dict(state_dict=detector(4, width=16).state_dict(), meta=dict(CLASSES=tuple('abcd')))
    report = load(wide, detector(3), match_classes=tuple('abc'))
    assert report.notes[0] == (
        'match_classes: no rows to match, the towers of the file have another width'
    )
    assert 'bbox_head.retina_cls.weight' in report.mismatched


# --- torchvision --------------------------------------------------------------------------------


def our_retinanet(
    num_classes=80, extra='on_output', norm_cfg=None, backbone=None, eps=1e-5, relu=True
):
    cfg = dict(
        type='RetinaNet',
        backbone={'type': 'ResNet', 'depth': 50, **(backbone or {})},
        neck=dict(
            type='FPN',
            in_channels=[256, 512, 1024, 2048],
            out_channels=256,
            start_level=1,
            add_extra_convs=extra,
            relu_before_extra_convs=relu,
            num_outs=5,
        ),
        bbox_head=dict(
            type='RetinaHead', num_classes=num_classes, in_channels=256, norm_cfg=norm_cfg
        ),
    )
    cfg['backbone']['norm_cfg'] = dict(type='BN', eps=eps)
    return MODELS.build(cfg).eval()


def their_v1(num_classes=91, norm=nn.BatchNorm2d, resnet=torchvision.models.resnet50):
    fpn = backbone_utils._resnet_fpn_extractor(
        resnet(norm_layer=norm), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    return retinanet.RetinaNet(fpn, num_classes)


def their_v2(num_classes=91):
    return retinanet.retinanet_resnet50_fpn_v2(weights_backbone=None, num_classes=num_classes)


def as_older_torchvision(weights):
    """The names of the first releases, without versions: what the published file of v1 has."""
    old = {}
    for name, value in weights.items():
        name = re.sub(r'(inner_blocks|layer_blocks)\.(\d)\.0\.', r'\1.\2.', name)
        name = re.sub(r'conv\.(\d)\.0\.', lambda m: f'conv.{2 * int(m[1])}.', name)
        old[name] = value
    return old


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


OF_COCO = (['of its 91 classes the 80 that COCO uses, in the order of their ids'], COCO_CLASSES)
RESNEXT = dict(type='ResNeXt', groups=32, base_width=4)


@pytest.mark.parametrize(
    ('theirs', 'rename', 'ours', 'rows', 'expected'),
    [
        (their_v1, dict, dict(), COCO_IDS, OF_COCO),
        (
            partial(their_v1, norm=FrozenBatchNorm2d),
            as_older_torchvision,
            dict(),
            COCO_IDS,
            OF_COCO,
        ),
        (
            their_v2,
            dict,
            dict(extra='on_input', norm_cfg=dict(type='GN', num_groups=32)),
            COCO_IDS,
            OF_COCO,
        ),
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
    text = (Path(__file__).parents[2] / 'docs/checkpoints.md').read_text()
    snippet = next(
        part for part in re.findall(r'```python\n(.*?)```', text, re.S) if '_base_' in part
    )
    (tmp_path / 'v1.py').write_text(snippet)
    with torch.device('meta'):
        ours = MODELS.build(Config.fromfile(tmp_path / 'v1.py').model)
        weights = their_v1().state_dict()
        _, report = fit_state_dict(weights, ours)
    assert report.fits_exactly
    assert report.warnings == []
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
def test_a_neck_that_computes_something_else_is_told(theirs, extra, relu, told):
    with torch.device('meta'):
        weights = theirs(3).state_dict()
        ours = our_retinanet(3, extra, relu=relu)
    _, report = fit_state_dict(weights, ours)
    assert report.warnings == [
        f'the file is of a model with {told}, but the config has other settings'
    ]


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
    weights = {
        name: value
        for name, value in theirs.state_dict().items()
        if counted or 'num_batches_tracked' not in name  # as in the older files
    }
    ours = MODELS.build(cfg).eval()
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


def test_a_classifier_as_load_from_of_a_detector():
    theirs = torchvision.models.resnet18()
    randomize(theirs, 8)
    model = detector(losses=FOCAL)
    report = load(theirs.state_dict(), model)
    assert (len(report.loaded), report.unexpected) == (120, ['fc.weight', 'fc.bias'])
    assert {name.split('.')[0] for name in report.missing} == {'neck', 'bbox_head'}
    expected = {f'backbone.{name}': value for name, value in theirs.state_dict().items()}
    assert_same(model, expected, report.loaded)


# --- init_cfg -----------------------------------------------------------------------------------


@pytest.fixture
def log(monkeypatch):
    """The text of the log, in ghmdet's scope."""
    names = dict(DefaultScope._instance_dict), dict(MMLogger._instance_dict)
    DefaultScope.get_instance('pretrained test', scope_name='ghmdet')
    logger = MMLogger.get_instance('pretrained test')
    stream = io.StringIO()
    monkeypatch.setattr(logger.handlers[0], 'stream', stream)
    yield stream
    for kind, before in zip((DefaultScope, MMLogger), names, strict=True):
        kind._instance_dict.clear()
        kind._instance_dict.update(before)


def init(path, **options):
    cfg = dict(type='Pretrained', checkpoint=str(path), **options)
    backbone = MODELS.build(dict(type='ResNet', depth=18, init_cfg=cfg))
    backbone.init_weights()
    return backbone


def test_pretrained_backbone(log, tmp_path):
    theirs = torchvision.models.resnet18()
    randomize(theirs, 8)
    torch.save(theirs.state_dict(), tmp_path / 'r18.pth')
    backbone = init(tmp_path / 'r18.pth')
    assert_same(backbone, theirs.state_dict())
    text = log.getvalue()
    assert f'{tmp_path}/r18.pth: 120 tensors loaded; not used: fc.{{weight, bias}}' in text
    assert f'Pretrained: load from {tmp_path}/r18.pth' in text  # said of each parameter
    assert 'WARNING' not in text
    assert 'do not match' not in text


@pytest.mark.parametrize('prefix', ['backbone.', 'backbone', None])
def test_pretrained_from_a_detector(log, tmp_path, prefix):
    source = detector(seed=1).state_dict()
    torch.save(dict(state_dict={f'module.{k}': v for k, v in source.items()}), tmp_path / 'd.pth')
    backbone = init(tmp_path / 'd.pth', prefix=prefix)
    assert_same(backbone, {k.removeprefix('backbone.'): v for k, v in source.items()})


def test_pretrained_from_a_detector_of_torchvision(log, tmp_path):
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / 'tv.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'tv.pth'))
    backbone = MODELS.build(dict(type='ResNet', depth=50, init_cfg=cfg))
    backbone.init_weights()
    assert_same(backbone, theirs.backbone.body.state_dict())


def test_pretrained_that_fits_in_part_or_not(log, tmp_path):
    source = detector(seed=1).state_dict()
    torch.save(source, tmp_path / 'd.pth')
    with pytest.raises(
        CheckpointError, match=r"prefix='encoder\.': no name in .*d\.pth begins with it"
    ):
        init(tmp_path / 'd.pth', prefix='encoder')
    del source['backbone.conv1.weight']
    torch.save(source, tmp_path / 'd.pth')
    init(tmp_path / 'd.pth', prefix='backbone.')
    assert re.search(
        r'WARNING.*119 of 120 tensors of the model loaded\n.*1  conv1\.weight', log.getvalue()
    )


def test_pretrained_in_a_script_without_a_scope(log, monkeypatch, tmp_path):
    """As `get_model` prepares it; mmengine alone would find its own initializer."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', type(DefaultScope._instance_dict)())
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / 'r18.pth')
    cfg = Config(dict(model=detector_cfg()))
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth'))
    model = get_model(cfg)
    model.init_weights()
    assert_same(model.backbone, theirs.state_dict())
    text = log.getvalue()
    assert 'r18.pth: 120 tensors loaded; not used: fc.{weight, bias}' in text
    assert 'do not match' not in text
