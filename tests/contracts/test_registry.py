"""Names that configs use, and how they are found."""

import itertools
import subprocess
import sys
from collections import OrderedDict

import pytest
from mmcv.cnn import build_norm_layer
from mmengine import registry as root
from mmengine.registry import DefaultScope, Registry

from ghmdet import registry

OURS = dict(
    MODELS='RetinaNet DetDataPreprocessor ResNet ResNeXt FPN RetinaHead GHMC GHMR FocalLoss L1Loss '
    'SmoothL1Loss CrossEntropyLoss DetTTAModel',
    TASK_UTILS='AnchorGenerator MaxIoUAssigner DeltaXYWHBBoxCoder',
    DATASETS='CocoDataset ImageFolder',
    DATA_SAMPLERS='AspectRatioBatchSampler GlobalBatchSampler',
    TRANSFORMS='LoadAnnotations LoadImageFromFile PackDetInputs',
    METRICS='CocoMetric DumpDetResults',
    VISUALIZERS='DetLocalVisualizer',
    HOOKS='DetVisualizationHook StartCheckHook PeakMemoryHook TestSpeedupHook LoadWeightsHook '
    'SkipNonFiniteStepsHook NonFiniteWeightsHook StartReportHook SkippedImagesHook GHMStatsHook '
    'CheckpointHook StopHook MeanLossesHook LogHistoryHook SlowStepsHook',
    LOOPS='EpochBasedTrainLoop IterBasedTrainLoop ValLoop',
    WEIGHT_INITIALIZERS='Pretrained',
    OPTIM_WRAPPERS='AmpOptimWrapper',
)
FROM_ROOT = dict(
    TRANSFORMS='Resize RandomFlip RandomChoiceResize Pad TestTimeAug',
    DATASETS='RepeatDataset ConcatDataset ClassBalancedDataset',
    DATA_SAMPLERS='DefaultSampler InfiniteSampler',
    HOOKS='EMAHook LoggerHook',
    LOOPS='TestLoop',
    OPTIM_WRAPPERS='OptimWrapper',
    OPTIMIZERS='SGD AdamW',
    PARAM_SCHEDULERS='LinearLR MultiStepLR CosineAnnealingLR',
    VISBACKENDS='LocalVisBackend TensorboardVisBackend',
    MODEL_WRAPPERS='MMDistributedDataParallel',
    MODELS='BN GN Conv2d',
)


@pytest.mark.parametrize('kind', OURS | FROM_ROOT)
def test_parts_of_ours_are_found_before_those_of_mmengine_and_mmcv(kind):
    parts = getattr(registry, kind)
    ours = OURS.get(kind, '').split()
    for name in [*ours, *FROM_ROOT.get(kind, '').split()]:
        found = parts.get(name)
        assert found.__module__.startswith('ghmdet.') == (name in ours), name
        assert name not in ours or found.__name__ == name


def test_every_root_registry_has_a_child():
    kinds = [kind for kind, value in vars(root).items() if isinstance(value, Registry)]
    assert len(kinds) > 20
    for kind in kinds:
        child = getattr(registry, kind)
        assert child.scope == 'ghmdet'
        assert child.parent is getattr(root, kind)


def test_a_bare_script_builds_a_model():
    script = (
        'from ghmdet.registry import MODELS; from ghmdet import get_config\n'
        "model = MODELS.build(get_config('retinanet_ghm_r18_fpn_shapes').model)\n"
        'print(model.bbox_head.loss_cls.bins)\n'
    )
    command = [sys.executable, '-W', 'error::UserWarning', '-c', script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, '30'), done.stderr


@pytest.fixture(autouse=True)
def no_scope_of_an_earlier_test(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


@pytest.fixture
def default_scope():
    names = (f'test scope {i}' for i in itertools.count())

    def switch(scope):
        DefaultScope.get_instance(next(names), scope_name=scope)

    return switch


def test_the_default_scope_of_others_neither_hides_nor_hijacks(default_scope):
    third = Registry('model', parent=root.MODELS, scope='thirddet')

    @third.register_module(name='FPN')
    class ThirdFPN:
        pass

    @third.register_module()
    class ThirdBackbone:
        pass

    for scope in ('mmengine', 'thirddet'):
        default_scope(scope)
        built = registry.MODELS.build(dict(type='FPN', in_channels=[4], out_channels=2, num_outs=1))
        assert type(built).__module__ == 'ghmdet.models.fpn'
    # What we lack is found in the default scope.
    assert type(registry.MODELS.build(dict(type='ThirdBackbone'))) is ThirdBackbone
    assert type(registry.MODELS.build(dict(type='thirddet.FPN'))) is ThirdFPN
    default_scope('mmengine')
    assert 'ThirdBackbone' not in registry.MODELS
    with pytest.raises(registry.UnknownPartError, match='Searched: ghmdet, mmengine[.]'):
        registry.MODELS.get('ThirdBackbone')
    default_scope('thirddet')
    with pytest.raises(registry.UnknownPartError, match='Searched: ghmdet, mmengine, thirddet[.]'):
        registry.MODELS.get('FourthBackbone')


def test_two_packages_of_the_same_names_build_in_one_process(default_scope):
    fourth = Registry('model', parent=root.MODELS, scope='fourthdet')

    @fourth.register_module(name='GHMC')
    class FourthGHMC:
        pass

    loss, ours = dict(type='GHMC'), 'ghmdet.losses.ghm_loss'
    assert registry.MODELS.get('GHMC').__module__ == ours
    assert registry.MODELS.get('fourthdet.GHMC') is fourth.get('GHMC') is FourthGHMC
    assert fourth.get('ghmdet.GHMC').__module__ == ours
    for scope, module in [('ghmdet', ours), ('fourthdet', __name__)]:
        default_scope(scope)  # as a Runner of each sets it
        assert type(root.MODELS.build(loss)).__module__ == module
    assert type(root.MODELS.build(dict(type='ghmdet.GHMC'))).__module__ == ours
    assert type(root.MODELS.build(dict(_scope_='ghmdet', **loss))).__module__ == ours


OURS_AND_ROOT = 'Searched: ghmdet, mmengine. '
OWN = (
    "A part of your own needs custom_imports=dict(imports=['mypackage.mymodule']), the module that "
    'registers it; without a config import it yourself. docs/from_mmdet.md lists the parts '
    'of MMDetection that ghmdet has'
)


@pytest.mark.parametrize(
    ('kind', 'name', 'told'),
    [
        ('MODELS', 'GHMCC', f'; did you mean GHMC or GHMR? {OURS_AND_ROOT}'),
        ('MODELS', 'resnext', f'; did you mean ResNeXt or ResNet? {OURS_AND_ROOT}'),
        ('MODELS', 'ghmdet.GHMK', f'; did you mean GHMR or GHMC? {OURS_AND_ROOT}'),
        ('MODELS', 'mmengine.GHMC', f'; did you mean GHMC? {OURS_AND_ROOT}'),
        ('LOOPS', 'ValidLoop', f'; did you mean ValLoop? {OURS_AND_ROOT}'),
        ('OPTIM_WRAPPERS', 'ApexThing', f'; ghmdet has AmpOptimWrapper. {OURS_AND_ROOT}'),
        (
            'TRANSFORMS',
            'Collect',
            '; it is a part of MMDetection, replaced here by PackDetInputs; ghmdet has '
            'Expand, FilterAnnotations, LoadAnnotations, LoadImageFromFile, MinIoURandomCrop, '
            'PackDetInputs, PhotoMetricDistortion, RandomAffine, RandomCrop, '
            f'TorchvisionTransform. {OURS_AND_ROOT}',
        ),
        (
            'MODELS',
            'absentdet.RetinaNet',
            '; did you mean RetinaNet? Searched: absentdet, but no module absentdet.registry can '
            'be imported. ',
        ),
    ],
)
def test_a_missing_part_is_told_with_the_nearest(kind, name, told, monkeypatch):
    parts = getattr(registry, kind)
    # Without what other test files in this process have registered.
    ours = {key: p for key, p in parts.module_dict.items() if not p.__module__.startswith('tests')}
    monkeypatch.setattr(parts, '_module_dict', ours)
    with pytest.raises(KeyError) as caught:
        parts.build(dict(type=name))
    assert str(caught.value) == f'{name} is not in the ghmdet::{parts.name} registry{told}{OWN}'
    assert name not in parts


def test_the_root_asks_us_in_the_default_scope(default_scope):
    for asked in (registry.TRANSFORMS, root.TRANSFORMS):
        assert asked.get('ghmdet.Resize').__module__ == 'mmcv.transforms.processing'
    assert 'ghmdet.PackDetInputs' in root.TRANSFORMS
    default_scope('ghmdet')
    with pytest.raises(KeyError, match='GHMCC is not in .*; did you mean GHMC or GHMR'):
        root.MODELS.build(dict(type='GHMCC'))
    with pytest.raises(KeyError, match='BNN is not in .*; did you mean BN'):
        build_norm_layer(dict(type='BNN'), 3)
