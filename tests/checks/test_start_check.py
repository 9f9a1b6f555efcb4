"""The checks of what is built before the first step; nothing is logged if all is well."""

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from ghmdet.checks.start_check import StartCheckHook
from ghmdet.config.errors import ConfigError
from ghmdet.datasets import CocoDataset, draw_shapes
from ghmdet.evaluation import CocoMetric, DumpDetResults
from tests.checks.conftest import message_of


@DATASETS.register_module(force=True)
class CheckedDataset(BaseDataset):
    """Two samples; records the limits with which its images were checked."""

    limits: list[int] = []

    def __init__(self, **kwargs):
        super().__init__(**kwargs, serialize_data=False)  # which collects garbage
        self.pipeline = None

    def load_data_list(self):
        return [{}] * 2

    def _join_prefix(self):
        pass

    def check_image_files(self, limit):
        self.limits.append(limit)
        if self.ann_file == 'lost.json':
            raise FileNotFoundError('3 of 2000 images are missing')


class TinyModel(BaseModel):
    def __init__(self, num_classes=2):
        super().__init__()
        self.bbox_head = torch.nn.Linear(1, 1)
        self.bbox_head.num_classes = num_classes

    def init_weights(self):
        raise AssertionError('too late')

    def forward(self):
        pass


class TinyTTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        pass


def data(classes=('cat', 'dog'), ann_file='', **options):
    metainfo = {'classes': classes} if classes else {}
    return {'type': 'CheckedDataset', 'ann_file': ann_file, 'metainfo': metainfo, **options}


def check(model=None, hooks=(), metrics=(), **datasets):
    """Run the hook on loops that hold these datasets; return the limits of their image checks."""
    CheckedDataset.limits.clear()
    runner = SimpleNamespace(
        model=model or TinyModel(), hooks=hooks, save_checkpoint=Runner.save_checkpoint
    )
    runner._test_loop = {}  # still a config
    for split, dataset in datasets.items():
        dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        loader = SimpleNamespace(dataset=dataset)
        evaluator = SimpleNamespace(metrics=metrics)
        setattr(runner, f'_{split}_loop', SimpleNamespace(dataloader=loader, evaluator=evaluator))
    StartCheckHook(image_limit=7).before_run(runner)
    return CheckedDataset.limits


def test_all_is_well(capfd):
    assert check(train=data(), val=data()) == [7, 7]
    assert check(TinyModel(80), train=data(None)) == [7]
    assert StartCheckHook().image_limit == 2000
    assert ''.join(capfd.readouterr()) == ''


def test_another_number_of_classes_stops_the_run_before_weights_are_initialised(tmp_path):
    loader = {'dataset': data(tuple('abcdefg')), 'sampler': {'type': 'DefaultSampler'}}
    runner = Runner(
        TinyModel(80),
        str(tmp_path),
        train_dataloader={**loader, 'batch_size': 1, 'num_workers': 0},
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        custom_hooks=[StartCheckHook()],
        experiment_name=uuid4().hex,  # mmengine keeps loggers by it
    )
    assert message_of(ValueError, runner.train) == (
        'train_dataloader has a dataset of 7 classes (a, b, c, d, e and 2 more), but '
        'model.bbox_head.num_classes is 80. Set model.bbox_head.num_classes=7, or name the '
        'classes to use in train_dataloader.dataset.metainfo=dict(classes=(...)).'
    )
    with pytest.raises(ValueError, match=r'test_dataloader .*num_classes is 9'):
        check(TinyTTA(TinyModel(9)), test=data())


@pytest.mark.parametrize(
    ('val', 'difference'),
    [
        (('dog', 'cat'), "2 of 2 classes differ: number 0 is 'cat' in {} (cat, dog), 'dog'"),
        (('cat', 'Dog'), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), 'Dog'"),
        (('cat',), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), missing"),
    ],
)
def test_datasets_with_other_classes(val, difference):
    assert message_of(ValueError, check, TinyModel(None), train=data(), val=data(val)) == (
        'train_dataloader and val_dataloader must have the same classes in the same order, since a '
        f'label is an index into this list, but {difference.format("train_dataloader")} in '
        f'val_dataloader ({", ".join(val)}). Give every dataset the same '
        'metainfo=dict(classes=(...)).'
    )


@pytest.mark.follows('but is the string {}; for one class write classes=({},)')
def test_a_concatenation_and_classes_that_are_one_string():
    parts = {'datasets': [data(), data(('dog', 'cat'))], 'ignore_keys': ['classes']}
    assert message_of(ValueError, check, train={'type': 'ConcatDataset', **parts}).startswith(
        'train_dataloader and train_dataloader (part 1 of its dataset) must have the same classes'
    )
    assert check(train={'type': 'ConcatDataset', 'datasets': [data()] * 3}) == [7] * 3
    with pytest.raises(ValueError, match=r"string 'person'; for one class write.*\('person',\)"):
        check(train=data('person'))
    assert check(TinyModel(1), train=data(('person',))) == [7]


LAZY = {'lazy_init': True}


@pytest.mark.parametrize(
    'wrap',
    [
        lambda d: {'type': 'RepeatDataset', 'dataset': d, 'times': 2},
        lambda d: {'type': 'ConcatDataset', 'datasets': [d]},
        lambda d: {'type': 'RepeatDataset', 'dataset': d | LAZY, 'times': 2, **LAZY},
    ],
)
def test_datasets_inside_of_others_are_checked(wrap):
    with pytest.raises(FileNotFoundError, match='3 of 2000 images are missing'):
        check(train=wrap(data(ann_file='lost.json')))
    with pytest.raises(ValueError, match='a dataset of 1 classes'):
        check(train=wrap(data(('one',))))


class CountMetric:
    def __init__(self, ann_file=None, **settings):
        vars(self).update(settings, ann_file=ann_file)


def test_a_metric_of_another_annotation_file_is_refused_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.json').write_text('{}')
    (tmp_path / 'same.json').symlink_to(tmp_path / 'a.json')

    def compare(ann_file, **settings):
        metrics = [CountMetric(ann_file, **settings), object()]
        check(val=data(ann_file=str(tmp_path / 'a.json')), metrics=metrics)

    for same in (None, str(tmp_path / 'same.json'), 'a.json', f'../{tmp_path.name}/./a.json'):
        compare(same)
    compare('other.json', check_ann_file=False)
    assert message_of(ValueError, compare, 'other.json') == (
        'val_evaluator (CountMetric) has ann_file=other.json, but val_dataloader reads '
        f'{tmp_path}/a.json: detections would be compared with another annotation file. Remove '
        'val_evaluator.ann_file or give both the same file; if the difference is intended, set '
        'val_evaluator.check_ann_file=False.'
    )


def test_arguments_of_the_checkpoint_hook():
    check(hooks=[CheckpointHook(save_optimizer=False)])
    assert message_of(ConfigError, check, hooks=[CheckpointHook(intervall=3)]) == (
        "default_hooks.checkpoint (CheckpointHook): unexpected keyword argument 'intervall'; "
        'did you mean interval?'
    )


class CocoLike(CountMetric):
    classwise = False

    def result_keys(self):
        return ['coco/bbox_mAP']


class Classwise(CocoLike):
    classwise = True


@pytest.mark.parametrize(
    ('key', 'metrics', 'fine'),
    [
        ('coco/bbox_mAP', [CocoLike()], True),
        ('val/x', [CocoLike()], True),
        ('x', [CocoLike(), CountMetric()], True),  # which need not list its values
        ('coco/cat_precision', [Classwise()], True),
        ('coco/cat_precision', [CocoLike()], False),
        ('x', [Classwise()], False),
    ],
)
def test_save_best_is_a_value_of_the_metrics(key, metrics, fine):
    parts = dict(hooks=[CheckpointHook(save_best=key, rule='greater')], metrics=metrics)
    check(**parts, val=data())  # nothing is saved in a validation
    parts |= dict(train=data(), val=data())
    if fine:
        check(**parts)
    else:
        assert message_of(ValueError, check, **parts) == (
            f'default_hooks.checkpoint.save_best={key!r}: val_evaluator has no such value, but '
            'coco/bbox_mAP'
        )


def test_save_best_where_detections_are_only_written():
    hook = CheckpointHook(save_best='coco/bbox_mAP', rule='greater')
    parts = dict(hooks=[hook], metrics=[DumpDetResults(out_file_path='x.pkl')])
    message = message_of(ValueError, check, **parts, train=data(), val=data())
    assert message.endswith('has no such value, but none')


# --- boxes and images of real datasets ------------------------------------------------------------

CLASSES = ('circle', 'square', 'triangle')
LOAD, BOXES = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')
RESIZE, PACK = dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='PackDetInputs')


@pytest.fixture
def warnings(monkeypatch):
    """The warnings of the hook."""
    texts = []
    monkeypatch.setattr(
        'ghmdet.checks.start_check.print_log',
        lambda text, logger, level: level == logging.WARNING and texts.append(text),
    )
    return texts


@pytest.fixture
def make(tmp_path):
    """Write three images and their boxes, each changed by `change`, and build a dataset of them."""
    made = []

    def make(
        change=lambda ann: ann, split='val', classes=CLASSES, steps=(LOAD, RESIZE, BOXES, PACK)
    ):
        folder = tmp_path / str(len(made))
        draw_shapes(folder, dict(val=3), seed=len(made))
        file = folder / 'annotations' / 'val.json'
        content = json.loads(file.read_text())
        content['annotations'] = [a for a in map(change, content['annotations']) if a]
        file.write_text(json.dumps(content))
        steps = (LOAD, BOXES, RESIZE, PACK) if split == 'train' else steps
        made.append(
            CocoDataset(
                'annotations/val.json',
                data_root=str(folder),
                data_prefix=dict(img='val/'),
                metainfo=dict(classes=classes),
                pipeline=list(steps),
                test_mode=split != 'train',
            )
        )
        return made[-1]

    return make


def measure(*datasets, **settings):
    """Check a validation of these; return the AP of a detector that finds what is annotated."""
    whole = datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
    metric = CocoMetric(**settings)
    metric.dataset_meta = dict(classes=CLASSES)
    check(TinyModel(3), val=whole, metrics=[metric])
    for sample in (whole[i]['data_samples'] for i in range(len(whole))):
        truth = sample.gt_instances
        found = dict(bboxes=truth.bboxes, labels=truth.labels, scores=torch.ones(len(truth.labels)))
        metric.process({}, [sample.to_dict() | dict(pred_instances=found)])
    return metric.evaluate(len(whole)).get('coco/bbox_mAP')


def test_a_training_without_boxes_is_refused(make, warnings):
    """With the counts of each file; one file with boxes among them is enough, as is the repair."""
    none = make(lambda ann: ann | dict(area=0), 'train')
    count = sum(none.counts.dropped.values())
    message = message_of(ValueError, check, TinyModel(3), train=none)
    assert message == (
        f'train_dataloader has no box to learn from: {none.ann_file}: {none.summary}; '
        f"{count} of {count} boxes cannot be learnt: the key 'area' is 0 or negative, as some "
        'converters write it: write width x height, or remove the key'
    )
    assert f'dropped: {count} with an area of 0 or less' in message
    negatives = make(lambda ann: None, 'train')
    words = r'no box to learn from: .*/0/.*\. .*/1/.*; the file has no annotations$'
    nested = {'type': 'RepeatDataset', 'dataset': negatives, 'times': 2}
    with pytest.raises(ValueError, match=words):
        check(TinyModel(3), train={'type': 'ConcatDataset', 'datasets': [none, nested]})
    repaired = make(lambda ann: {key: ann[key] for key in ann if key != 'area'}, 'train')
    check(TinyModel(3), train=ConcatDataset([repaired, negatives]))
    # The boxes are in an image that is left out: take it.
    part = make(lambda ann: ann if ann['image_id'] == 2 else None, 'train')
    with pytest.raises(
        ValueError, match='; filter_cfg or indices leave out the images with boxes$'
    ):
        check(TinyModel(3), train=part.get_subset([0]))
    check(TinyModel(3), train=part.get_subset([1]))
    # Datasets that do not count boxes, of other formats, may have some.
    custom = DATASETS.build(data(CLASSES))
    check(TinyModel(3), train=ConcatDataset([none, custom], ignore_keys='palette'))
    assert warnings == []


def test_classes_without_a_box_are_named(make, warnings):
    of_class = lambda number: lambda ann: ann if ann['category_id'] == number else None  # noqa: E731
    check(TinyModel(3), train=make(of_class(2), 'train'))
    assert warnings == [
        'train_dataloader has no box of 2 of the 3 classes, which are not learnt: circle, '
        'triangle. Correct the annotations or metainfo.classes'
    ]
    # As advised: other annotations, or only the classes that have some.
    check(TinyModel(3), train=ConcatDataset([make(of_class(n), 'train') for n in (1, 2, 3)]))
    check(TinyModel(1), train=make(of_class(2), 'train', classes=('square',)))
    assert len(warnings) == 1
    with pytest.raises(ValueError, match=r'their classes \(square\) are not in metainfo.classes'):
        check(TinyModel(1), train=make(of_class(2), 'train', classes=('circle',)))


def test_nothing_to_measure_is_a_warning(make, warnings, tmp_path):
    none = make(lambda ann: ann | dict(iscrowd=1))
    assert math.isnan(measure(none))
    (warning,) = warnings
    assert warning.startswith(f'val_dataloader has no object to find: {none.ann_file}: 3 images')
    assert 'they are crowd regions' in warning
    assert 'Metrics will be n/a (nan), and no checkpoint the best.' in warning
    # As advised: a file with objects, no validation; or nothing is to be measured.
    assert measure(none, make()) == 1
    check(TinyModel(3), train=make(split='train'))
    measure(none, format_only=True, outfile_prefix=str(tmp_path / 'out'))
    assert len(warnings) == 1


def test_several_datasets_are_measured_together(make, warnings):
    """Each numbers its images from 1."""
    assert measure(make(), make(lambda ann: None)) == 1
    assert measure({'type': 'RepeatDataset', 'dataset': make(), 'times': 2}, make()) == 1
    assert measure(RepeatDataset(make(), 2)) == 1
    assert measure(ClassBalancedDataset(make(), oversample_thr=1)) == 1
    assert warnings == []


def test_one_id_of_two_images_is_refused_where_only_ids_are_known(make, tmp_path):
    one, other = make(), make()
    paths = [dataset.get_data_info(0)['img_path'] for dataset in (one, other)]
    out = str(tmp_path / 'out')
    assert message_of(ValueError, measure, one, other, outfile_prefix=out) == (
        f'{paths[0]} and {paths[1]} of val_dataloader both have the id 1, by which the file of '
        'val_evaluator.outfile_prefix tells images apart. Give them different ids, remove '
        'val_evaluator.outfile_prefix, or evaluate one dataset at a time'
    )
    for settings in (dict(format_only=True, outfile_prefix=out), dict(ann_file=one.ann_file)):
        with pytest.raises(ValueError, match='val_dataloader'):
            measure(one, other, **settings)
    with pytest.raises(ValueError, match='the file of val_evaluator.ann_file tells images apart'):
        measure(one, other, ann_file=one.ann_file, check_ann_file=False)
    # As advised: one at a time, without the file, or with other ids.
    assert measure(one, outfile_prefix=out) == measure(one, other) == 1
    content = json.loads(Path(other.ann_file).read_text())
    for entries, key in (('images', 'id'), ('annotations', 'image_id')):
        for entry in content[entries]:
            entry[key] += 10
    Path(other.ann_file).write_text(json.dumps(content))
    other = CocoDataset(
        other.ann_file,
        data_root=other.data_root,
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[LOAD, RESIZE, BOXES, PACK],
        test_mode=True,
    )
    assert measure(one, other, outfile_prefix=out) == 1


def test_a_file_of_one_of_several_datasets_is_refused(make):
    one, other = make(), make()
    with pytest.raises(ValueError, match='val_evaluator.*has ann_file=.*/0/.* reads .*/1/.*Remove'):
        measure(one, other, ann_file=one.ann_file)
    assert measure(one, other) == 1
    assert measure(RepeatDataset(one, 2), ann_file=one.ann_file) == 1


@pytest.mark.parametrize(
    ('steps', 'words'),
    [
        ([LOAD, RESIZE, PACK], r'pipeline returns no bboxes and no labels to measure with \(the'),
        ([LOAD, BOXES, RESIZE, PACK], r'pipeline.2 \(Resize\) must come before LoadAnnotations'),
        (
            [LOAD, RESIZE, BOXES, dict(PACK, meta_keys=['img_id', 'ori_shape', 'img_shape'])],
            'scale_factor of the image is missing',
        ),
        (
            [
                *(LOAD, RESIZE, BOXES),
                dict(PACK, meta_keys=['img_id', 'ori_shape', 'img_shape', 'scale_factor']),
            ],
            'img_path of the image is missing .* meta_keys of PackDetInputs, if given, must',
        ),
    ],
)
def test_samples_that_cannot_be_measured_are_refused(make, steps, words):
    one, other = make(steps=steps), make(steps=steps)
    with pytest.raises(ConfigError, match=words):
        measure(one, other)
    assert measure(make(), make()) == 1  # as advised: the steps, in the default order
    one = make(steps=steps)
    if 'img_path' in words or BOXES not in steps:
        check(TinyModel(3), val=one, metrics=[CocoMetric(one.ann_file)])


def test_boxes_that_are_not_moved_may_be_loaded_first(make):
    """An image that has the scale of the pipeline; or boxes of the file among the metainfo."""
    same = dict(RESIZE, scale=(1, 1))
    for steps in (
        [LOAD, BOXES, PACK],
        [LOAD, BOXES, dict(RESIZE, scale=None, scale_factor=1.0), PACK],
    ):
        assert measure(make(steps=steps)) == 1
    keys = ['img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances']
    check(TinyModel(3), val=make(steps=[LOAD, same, dict(PACK, meta_keys=keys)]))


def test_a_loader_that_drops_the_last_images_is_refused(make):
    dataset = make()
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, drop_last=True)
    loop = SimpleNamespace(dataloader=loader, evaluator=SimpleNamespace(metrics=[CocoMetric()]))
    runner = SimpleNamespace(model=TinyModel(3), hooks=(), _val_loop=loop)
    assert message_of(ValueError, StartCheckHook().before_run, runner) == (
        'val_dataloader.drop_last=True leaves the last val images out, so that the metrics would '
        'be of a part: remove it'
    )
    loop.dataloader = torch.utils.data.DataLoader(dataset, batch_size=2)
    StartCheckHook().before_run(runner)
