"""Advice of `checks`: of what is wrong before the first step."""

import re
import shutil
import sys

import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config

from ghmdet.checks import start_report
from ghmdet.checks.settings import check_sections, check_settings
from ghmdet.config.errors import ConfigError
from ghmdet.datasets import CocoDataset
from ghmdet.registry import DATASETS, TRANSFORMS
from tests.advice import advice
from tests.advice.conftest import STEPS, edit, options, pipeline, says, write


@DATASETS.register_module(force=True)
class OwnCoco(CocoDataset):
    """Its classes are checked when it is built, not in the config."""


@TRANSFORMS.register_module(force=True)
class OwnTransform(BaseTransform):
    """Needs boxes."""

    def transform(self, results):
        results['gt_bboxes'].clip(0)
        return results


ONE_CIRCLE = edit(
    lambda data: [a.update(category_id=1) for a in data['annotations'] if not a['iscrowd']][:0]
)
UNKNOWN_FILE = options('val_dataloader.dataset.type=OwnCoco', 'val_evaluator.ann_file=None')
NAMES = "('circle', 'square', 'triangle')"
FREE = 'model = dict(bbox_head=dict(num_classes=80))\n' + '\n'.join(
    f'{split}_dataloader = dict(dataset=dict(metainfo=None))' for split in ('train', 'val', 'test')
)


def metainfo(names, *splits):
    """Lines of the config that name the classes of datasets."""
    lines = [
        f'{split}_dataloader = dict(dataset=dict(metainfo=dict(classes={names})))'
        for split in splits or ('train', 'val', 'test')
    ]
    return '\n'.join(lines)


def copy_val(folder):
    annotations = folder / 'data/annotations'
    shutil.copy(annotations / 'val.json', annotations / 'copy.json')


def without_annotations_of(number, split='train'):
    def change(data):
        data['annotations'] = [a for a in data['annotations'] if a['category_id'] != number]
        data['categories'] = [each for each in data['categories'] if each['id'] != number]

    return edit(change, split)


@pytest.mark.follows('{} needs {} in the config, {}')
@pytest.mark.parametrize(
    ('part', 'wrong', 'right'),
    [
        # --- classes
        advice(
            'and there is no file of that name with one class per line',
            metainfo("'classes.txt'"),
            (metainfo("'classes.txt'"), write('classes.txt', 'circle\nsquare\ntriangle\n')),
        ),
        advice(
            'there is no file of that name with one class per line{}; a tuple of one',
            (ONE_CIRCLE, options('model.bbox_head.num_classes=1'), metainfo("('circle')")),
            (ONE_CIRCLE, options('model.bbox_head.num_classes=1'), metainfo("('circle',)")),
        ),
        advice('must be a sequence of names, got {}', metainfo('7'), metainfo(NAMES)),
        advice(
            'it needs each class once',
            metainfo("('circle', 'circle', 'triangle')"),
            metainfo(NAMES),
        ),
        advice(
            'every dataset needs the same list in the same order',
            metainfo("('square', 'circle', 'triangle')", 'val'),
            metainfo("('square', 'circle', 'triangle')"),
        ),
        advice(
            'to leave them out, name the classes in metainfo',
            (FREE, without_annotations_of(3)),
            (
                options('model.bbox_head.num_classes=2'),
                without_annotations_of(3),
                metainfo("('circle', 'square')"),
            ),
        ),
        # --- pipelines
        advice(
            'which must be the last step of a pipeline',
            pipeline('load', 'boxes', 'pack', 'resize'),
            pipeline('load', 'boxes', 'resize', 'pack'),
        ),
        advice(
            'needs an image: LoadImageFromFile is missing before it',
            pipeline('resize', 'boxes', 'pack', split='val'),
            pipeline('load', 'resize', 'boxes', 'pack', split='val'),
        ),
        advice(
            'must come before the steps that resize, flip or crop the image',
            pipeline('load', 'resize', 'boxes', 'pack'),
            pipeline('load', 'boxes', 'resize', 'pack'),
        ),
        advice(
            'to the image; remove it from this pipeline',
            pipeline('load', "dict(type='Expand')", 'resize', 'boxes', 'pack', split='val'),
            pipeline('load', 'resize', 'boxes', 'pack', split='val'),
        ),
        advice(
            'that step is missing before it',
            pipeline('load', "dict(type='OwnTransform')", 'pack'),
            pipeline('load', 'boxes', "dict(type='OwnTransform')", 'pack'),
        ),
        advice(
            'must end with PackDetInputs',
            pipeline('load', 'boxes', 'resize'),
            pipeline('load', 'boxes', 'resize', 'pack'),
        ),
        advice(
            'returns no image: LoadImageFromFile is missing',
            pipeline('boxes', 'pack'),
            pipeline('load', 'boxes', 'pack'),
        ),
        advice(
            'LoadAnnotations (with with_bbox=True and with_label=True) is missing',
            pipeline('load', 'resize', 'pack'),
            pipeline(
                'load',
                "dict(type='LoadAnnotations', with_bbox=True, with_label=True)",
                'resize',
                'pack',
            ),
        ),
        advice(
            'and meta_keys of PackDetInputs, if given, must contain it',
            pipeline(
                'load', 'resize', "dict(type='PackDetInputs', meta_keys=('img_id',))", split='val'
            ),
            pipeline(
                'load',
                'resize',
                "dict(type='PackDetInputs', "
                "meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))",
                split='val',
            ),
        ),
        advice(
            'must come before LoadAnnotations, since {}_evaluator has no ann_file',
            (UNKNOWN_FILE, pipeline('load', 'boxes', 'resize', 'pack', split='val')),
            (UNKNOWN_FILE, pipeline('load', 'resize', 'boxes', 'pack', split='val')),
        ),
        # --- evaluator
        advice(
            'so that the metrics would be of a part: remove it',
            'val_dataloader = dict(drop_last=True)',
            'val_dataloader = dict(drop_last=False)',
        ),
        advice(
            '_evaluator.ann_file or give both the same file',
            options('val_evaluator.ann_file=data/annotations/train.json'),
            'val_evaluator = dict(ann_file=None)',
        ),
        advice(
            'if the difference is intended, set ',
            (copy_val, options('val_evaluator.ann_file=data/annotations/copy.json')),
            (
                copy_val,
                options(
                    'val_evaluator.ann_file=data/annotations/copy.json',
                    'val_evaluator.check_ann_file=False',
                ),
            ),
        ),
        # --- learning rate
        advice(
            'e.g. auto_scale_lr=dict(enable=False, base_batch_size=16)',
            ('auto_scale_lr = dict(_delete_=True)', '--auto-scale-lr'),
            ('auto_scale_lr = dict(enable=False, base_batch_size=16)', '--auto-scale-lr'),
        ),
        advice(
            'needs a positive number of images in ',
            (options('auto_scale_lr.base_batch_size=0'), '--auto-scale-lr'),
            (options('auto_scale_lr.base_batch_size=16'), '--auto-scale-lr'),
        ),
    ],
)
def test_what_is_to_be_set(part, wrong, right, follow):
    follow(part, wrong, right)


OWN = '\n'.join(
    f"{split}_dataloader = dict(dataset=dict(type='OwnCoco'))" for split in ('train', 'val', 'test')
)


@pytest.mark.parametrize(
    ('part', 'wrong', 'pattern'),
    [
        advice(
            'but there are {} classes: set model.bbox_head.num_classes=',
            options('model.bbox_head.num_classes=4'),
            r'set (model.bbox_head.num_classes=3)',
        ),
        advice(
            ' has a dataset of ',
            (OWN, options('model.bbox_head.num_classes=4')),
            r'Set (model.bbox_head.num_classes=3),',
        ),
        advice(
            '.in_channels={}, or change model.',
            options('model.neck.in_channels="[64,256]"'),
            r'set (model.neck.in_channels=\[64, 128\]), or',
        ),
        advice(
            ': set these strides, or change ',
            options('model.bbox_head.anchor_generator.strides="[8,16,32]"'),
            r'maps of strides (\[.*?\]): set these strides',
        ),
    ],
)
def test_settings_that_the_message_gives(part, wrong, pattern, run):
    wrong = wrong if isinstance(wrong, tuple) else (wrong,)
    first = run(*wrong)
    assert says(first.error, part), first.text
    advised = re.search(pattern, first.error)[1]
    if '=' not in advised:
        advised = f'model.bbox_head.anchor_generator.strides={advised}'
    then = run(*wrong, options(*[*wrong[-1].split()[1:], f"'{advised}'"]))
    assert then.code == 0, then.error
    assert then.ap


@pytest.mark.follows(' has a dataset of ')
def test_classes_that_are_to_be_used(run):
    two = (OWN, options('model.bbox_head.num_classes=2'))
    assert 'name the classes to use in train_dataloader.dataset.metainfo=' in run(*two).error
    then = run(*two, metainfo("('circle', 'square')"))
    assert then.code == 0, then.error


@pytest.mark.follows('must have the same classes in the same order')
def test_classes_of_other_datasets(run):
    first = run(OWN, metainfo("('square', 'circle', 'triangle')", 'val'))
    assert 'Give every dataset the same metainfo=dict(classes=(...))' in first.error
    then = run(OWN, metainfo("('square', 'circle', 'triangle')"))
    assert then.code == 0, then.error


@pytest.mark.follows(
    ': set these strides, or change ', 'add a model.neck, e.g. an FPN, that makes them equal'
)
def test_other_levels(run):
    wrong = 'model = dict(neck=None, bbox_head=dict(in_channels=64))'
    assert 'add a model.neck, e.g. an FPN, that makes them equal' in run(wrong).error
    neck = "dict(_delete_=True, type='FPN', in_channels=[64, 128], out_channels=64, num_outs=3)"
    then = run(f'model = dict(neck={neck}, bbox_head=dict(in_channels=64))')
    assert then.code == 0, then.error
    wrong = 'model.bbox_head.anchor_generator.strides="[8,16]"'
    first = run(options(wrong))
    assert 'or change model.neck.num_outs and start_level, or' in first.error
    then = run(options(wrong, 'model.neck.num_outs=2', 'model.neck.start_level=1'))
    assert then.code == 0, then.error


LOW = 'auto_scale_lr = dict(base_batch_size=200)'


@pytest.mark.follows('what the linear rule gives for a total batch size of')
@pytest.mark.parametrize(
    'pattern', ['use (--auto-scale-lr)', r'or (\S+lr=\S+?)\. ', r'set (\S+=2)\.']
)
def test_the_learning_rate(pattern, run):
    first = run(LOW)
    advised = re.search(pattern, first.text)[1]
    then = run(LOW, advised if advised.startswith('-') else options(advised))
    assert then.code == 0, then.error
    assert 'what the linear rule gives' in first.text
    assert 'what the linear rule gives' not in then.text


@pytest.mark.follows(' replaces settings of the config: ')
def test_settings_of_the_checkpoint(run):
    first = run()
    checkpoint = first.folder / 'work_dirs/tiny/epoch_1.pth'
    more = 'train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.003'
    second = run(f'--resume {checkpoint}', options(*more))
    assert 'optimizer is 0.001, not 0.003' in second.text
    assert 'load_from without resume' in second.text
    then = run(options(f'load_from={checkpoint}', *more))
    assert then.code == 0, then.error
    assert 'replaces settings' not in then.text
    assert 'learning rate      0.003,' in then.text


@pytest.mark.follows(
    'is in the source tree of', reason='a package cannot be installed here: its path is changed'
)
def test_another_source_tree(tmp_path, monkeypatch, capfd):
    for folder in ('tools', 'ghmdet'):
        (tmp_path / folder).mkdir()
    (tmp_path / 'ghmdet/__init__.py').touch()
    monkeypatch.setattr(sys, 'argv', [str(tmp_path / 'tools/train.py')])
    start_report.log_package_path()
    tree = re.search(r'`pip install -e (.*)`', ''.join(capfd.readouterr()))[1]
    monkeypatch.setattr(start_report, '_PACKAGE_FOLDER', tmp_path / 'ghmdet')
    assert tree == str(tmp_path)
    start_report.log_package_path()
    assert 'no effect' not in ''.join(capfd.readouterr())


@pytest.mark.parametrize(
    ('part', 'check', 'wrong', 'right'),
    [
        advice(
            '{} ({}) is not supported: leave it out',
            check_settings,
            dict(runner_type='FlexibleRunner'),
            {},
        ),
        advice(
            "a dict, e.g. dict(type='RetinaNet')",
            check_settings,
            dict(model='RetinaNet'),
            dict(model=dict(type='RetinaNet')),
        ),
        advice(
            '{} must be a whole number of at least {}, got {}',
            check_settings,
            dict(train_cfg=dict(max_epochs=0)),
            dict(train_cfg=dict(max_epochs=1)),
        ),
        advice(
            "a dict; for several datasets dict(type='ConcatDataset', datasets=[...])",
            check_settings,
            dict(val_dataloader=dict(dataset=[dict(type='CocoDataset')] * 2)),
            dict(
                val_dataloader=dict(
                    dataset=dict(type='ConcatDataset', datasets=[dict(type='CocoDataset')] * 2)
                )
            ),
        ),
        advice(
            '{} needs a `{}`{}; it has {}',
            check_settings,
            dict(val_dataloader=dict(batch_size=1)),
            dict(val_dataloader=dict(batch_size=1, dataset=dict(type='CocoDataset'))),
        ),
        advice(
            'there is no such package; leave it out',
            check_settings,
            dict(default_scope='mmdett'),
            {},
        ),
        advice(
            "needs nms, e.g. nms=dict(type='nms', iou_threshold=0.5)",
            check_settings,
            dict(val_cfg={'a': 1}, model=dict(type='RetinaNet', test_cfg=dict(score_thr=0.1))),
            dict(
                val_cfg={'a': 1},
                model=dict(
                    type='RetinaNet', test_cfg=dict(nms=dict(type='nms', iou_threshold=0.5))
                ),
            ),
        ),
        advice(
            'or -1 for never',
            check_settings,
            dict(default_hooks=dict(checkpoint=dict(interval=0))),
            dict(default_hooks=dict(checkpoint=dict(interval=-1))),
        ),
        advice(
            'optim_wrapper.optimizer.{} must be a number of at least 0',
            check_settings,
            dict(optim_wrapper=dict(optimizer=dict(lr='fast'))),
            dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0))),
        ),
        pytest.param(
            'load_from must be the path of a checkpoint or None',
            check_settings,
            dict(load_from=['a.pth']),
            dict(load_from='a.pth'),
        ),
        pytest.param(
            'custom_hooks must be a list of dicts',
            check_settings,
            dict(custom_hooks=dict(type='EMAHook')),
            dict(custom_hooks=[dict(type='EMAHook')]),
        ),
        advice(
            'each larger than the one before',
            check_settings,
            dict(param_scheduler=dict(milestones=[8, 8])),
            dict(param_scheduler=dict(type='MultiStepLR', milestones=[8, 11])),
        ),
        advice(
            'set all three, or none of them: ',
            check_sections,
            dict(val_dataloader=dict(batch_size=1)),
            dict(val_dataloader=None, val_cfg=None, val_evaluator=None),
        ),
    ],
)
def test_ranges(part, check, wrong, right):
    with pytest.raises(ConfigError) as caught:
        check(Config(wrong))
    assert says(str(caught.value), part)
    check(Config(right))


NO_OBJECT = edit(lambda data: data['annotations'].clear(), 'val')


@pytest.mark.follows('which are not learnt: {}. Correct the annotations or metainfo.classes')
def test_classes_without_a_box(run):
    """The circle of the training is none of the objects."""
    assert 'which are not learnt: circle. Correct the annotations' in run().text
    others = metainfo("('square', 'triangle')"), options('model.bbox_head.num_classes=2')
    for each in ((ONE_CIRCLE,), others):
        then = run(*each)
        assert then.code == 0, then.error
        assert 'not learnt: circle' not in then.text


@pytest.mark.follows('Use a file with objects; to train without validation, set val_dataloader')
def test_nothing_to_find(run):
    assert 'no object to find' in run(NO_OBJECT).text
    file = 'annotations/train.json'
    found = options(
        *(f'val_dataloader.dataset.ann_file={file}', f'val_evaluator.ann_file=data/{file}'),
        'val_dataloader.dataset.data_prefix.img=train/',
    )
    none = 'val_dataloader = None\nval_cfg = None\nval_evaluator = None'
    for each in (found, none):
        then = run(NO_OBJECT, each)
        assert then.code == 0, then.error
        assert 'no object to find' not in then.text


@pytest.mark.follows('tells images apart. Give them different ids, remove {}, or evaluate one')
def test_images_of_several_datasets(run):
    def several(*splits, evaluator="outfile_prefix='found'"):
        parts = ', '.join(
            f"dict(type='CocoDataset', data_root='data/', ann_file='annotations/{split}.json', "
            f"data_prefix=dict(img='{split}/'), test_mode=True, metainfo=dict(classes={NAMES}), "
            f'pipeline={[STEPS[step] for step in ("load", "resize", "boxes", "pack")]})'
            for split in splits
        )
        return (
            "val_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', "
            f"datasets=[{parts}]))\nval_evaluator = dict(_delete_=True, type='CocoMetric', "
            f'{evaluator})'
        )

    def other_ids(data):
        data['images'][0]['id'] = 9
        for each in data['annotations']:
            each['image_id'] = 9

    first = run(several('train', 'val'))
    assert 'remove val_evaluator.outfile_prefix, or evaluate one dataset at a time' in first.error
    for each in (
        (several('train', 'val'), edit(other_ids, 'val')),
        (several('train', 'val', evaluator=''),),
        (several('val'),),
    ):
        then = run(*each)
        assert then.code == 0, then.error
        assert then.ap
