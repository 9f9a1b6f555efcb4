"""The checks of what is built before the first step; nothing is logged if all is well."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner

from ghmdet.checks.start_check import StartCheckHook
from ghmdet.config.errors import ConfigError


@DATASETS.register_module(force=True)
class CheckedDataset(BaseDataset):
    """Two samples; records the limits with which its images were checked."""

    limits: list[int] = []
    prepare_data = BaseDataset.get_data_info

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pipeline = None

    def load_data_list(self):
        return [{'inputs': torch.ones(1)}] * 2

    def _join_prefix(self):
        pass

    def check_image_files(self, limit):
        self.limits.append(limit)
        if self.ann_file == 'lost.json':
            raise FileNotFoundError('3 of 2000 images are missing')


@METRICS.register_module(force=True)
class CountMetric(BaseMetric):
    def __init__(self, ann_file=None):
        super().__init__()
        self.ann_file = ann_file

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'n': len(results)}


class TinyModel(BaseModel):
    def __init__(self, num_classes=2):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.bbox_head = torch.nn.Module()
        self.bbox_head.num_classes = num_classes
        self.events = []

    def init_weights(self):
        self.events.append('init')

    def forward(self, inputs, sample_idx, mode='loss'):
        self.events.append(mode)
        return {'loss': self.layer(torch.stack(inputs)).sum()} if mode == 'loss' else [{}]


class TinyTTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list


def loader(classes=('cat', 'dog'), ann_file='', wrap=lambda dataset: dataset, **options):
    dataset = {'type': 'CheckedDataset', 'ann_file': ann_file, 'metainfo': {'classes': classes}}
    options = {'serialize_data': False, **options}  # which collects garbage
    return {
        'dataset': wrap({**dataset, **options}),
        'batch_size': 1,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'num_workers': 0,
    }


def make_runner(tmp_path, train=None, val=None, test=None, model=None, metric=None):
    parts = {'model': model or TinyModel()}
    if train:
        parts.update(
            train_dataloader=train,
            train_cfg={'by_epoch': True, 'max_epochs': 1},
            optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        )
    for split, chosen in (('val', val), ('test', test)):
        if chosen:
            parts[f'{split}_dataloader'] = chosen
            parts[f'{split}_cfg'] = {}
            parts[f'{split}_evaluator'] = metric or {'type': 'CountMetric'}
    # mmengine keeps loggers and visualizers by this name, else by the second.
    parts['experiment_name'] = uuid4().hex
    runner = Runner(**parts, work_dir=str(tmp_path), custom_hooks=[StartCheckHook()])
    CheckedDataset.limits.clear()
    return runner


def check(model=None, hooks=(), metrics=(), **loaders):
    """Run the hook on loops that hold these datasets; return the limits of their image checks."""
    CheckedDataset.limits.clear()
    runner = SimpleNamespace(
        model=model or TinyModel(), hooks=hooks, save_checkpoint=Runner.save_checkpoint
    )
    for split, chosen in loaders.items():
        dataset = DATASETS.build(chosen['dataset'])
        evaluator = SimpleNamespace(metrics=metrics)
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset), evaluator=evaluator)
        setattr(runner, f'_{split}_loop', loop)
    StartCheckHook(image_limit=7).before_run(runner)
    return CheckedDataset.limits


def test_logs_nothing_if_all_is_well_and_the_run_continues(tmp_path):
    runner = make_runner(tmp_path, loader(), loader(), loader())
    hook = next(hook for hook in runner.hooks if isinstance(hook, StartCheckHook))
    assert hook.priority == 'VERY_HIGH'
    lines = []
    runner.logger.addFilter(lambda record: lines.append(record))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    lines.clear()
    hook.before_run(runner)
    assert lines == []
    assert CheckedDataset.limits == [2000, 2000]  # the test loop is not built for a training
    runner.train()
    assert runner.model.events.count('loss') == 2


def test_another_number_of_classes_stops_the_run_before_weights_are_initialised(tmp_path):
    runner = make_runner(tmp_path, loader(tuple('abcdefg')), model=TinyModel(80))
    with pytest.raises(ValueError, match='num_classes') as caught:
        runner.train()
    assert str(caught.value) == (
        'train_dataloader has a dataset of 7 classes (a, b, c, d, e and 2 more), but '
        'model.bbox_head.num_classes is 80. Set model.bbox_head.num_classes=7, or name the '
        'classes to use in train_dataloader.dataset.metainfo=dict(classes=(...)).'
    )
    assert runner.model.events == []


def test_the_head_is_checked_for_val_and_test(tmp_path):
    runner = make_runner(tmp_path, val=loader(('cat', 'dog', 'cow')))
    with pytest.raises(ValueError, match='val_dataloader has a dataset of 3 classes'):
        runner.val()
    with pytest.raises(ValueError, match=r'test_dataloader .*num_classes is 9'):
        check(TinyTTA(TinyModel(9)), test=loader())


@pytest.mark.parametrize(
    ('val', 'difference'),
    [
        (('dog', 'cat'), "2 of 2 classes differ: number 0 is 'cat' in {} (cat, dog), 'dog' in {}"),
        (('cat', 'cow'), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), 'cow' in {}"),
        (('cat', 'Dog'), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), 'Dog' in {}"),
        (('cat',), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), missing in {}"),
    ],
)
def test_datasets_with_other_classes(val, difference):
    model = TinyModel()
    model.bbox_head.num_classes = None
    with pytest.raises(ValueError, match='differ') as caught:
        check(model, train=loader(), val=loader(val))
    difference = difference.format('train_dataloader', 'val_dataloader')
    assert str(caught.value) == (
        'train_dataloader and val_dataloader must have the same classes in the same order, since a '
        f'label is an index into this list, but {difference} ({", ".join(val)}). Give every '
        'dataset the same metainfo=dict(classes=(...)).'
    )


def test_every_part_of_a_concatenation_is_compared():
    def concatenate(part):
        other = {**part, 'metainfo': {'classes': ('dog', 'cat')}}
        return {'type': 'ConcatDataset', 'datasets': [part, other], 'ignore_keys': ['classes']}

    with pytest.raises(ValueError, match='differ') as caught:
        check(train=loader(wrap=concatenate))
    assert str(caught.value).startswith(
        'train_dataloader and train_dataloader (part 1 of its dataset) must have the same classes'
    )
    same = loader(wrap=lambda part: {'type': 'ConcatDataset', 'datasets': [part] * 3})
    assert check(train=same) == [7] * 3


def test_classes_that_are_one_string_and_datasets_without_classes():
    with pytest.raises(ValueError, match=r"string 'person'; for one class write.*\('person',\)"):
        check(train=loader('person'))
    check(TinyModel(80), train=loader(metainfo={}))


@pytest.mark.parametrize(
    'wrap',
    [
        lambda d: {'type': 'RepeatDataset', 'dataset': d, 'times': 2},
        lambda d: {'type': 'ConcatDataset', 'datasets': [d]},
        lambda d: {
            'type': 'RepeatDataset',
            'times': 2,
            'dataset': {**d, 'lazy_init': True},
            'lazy_init': True,
        },
    ],
)
def test_datasets_inside_of_others_are_checked(wrap):
    with pytest.raises(FileNotFoundError, match='3 of 2000 images are missing'):
        check(train=loader(ann_file='lost.json', wrap=wrap))
    with pytest.raises(ValueError, match='a dataset of 1 classes'):
        check(train=loader(('one',), wrap=wrap))


def test_a_metric_of_another_annotation_file_is_refused_unless_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.json').write_text('{}')
    (tmp_path / 'same.json').symlink_to(tmp_path / 'a.json')

    def compare(ann_file, **settings):
        metric = CountMetric(ann_file)
        vars(metric).update(settings)
        check(val=loader(ann_file=str(tmp_path / 'a.json')), metrics=[metric, object()])

    for same in (None, str(tmp_path / 'same.json'), 'a.json', f'../{tmp_path.name}/./a.json'):
        compare(same)
    compare('other.json', check_ann_file=False)
    with pytest.raises(ValueError, match='another annotation file') as caught:
        compare('other.json')
    assert str(caught.value) == (
        'val_evaluator (CountMetric) has ann_file=other.json, but val_dataloader reads '
        f'{tmp_path}/a.json: detections would be compared with another annotation file. Remove '
        'val_evaluator.ann_file or give both the same file; if the difference is intended, set '
        'val_evaluator.check_ann_file=False.'
    )


def test_arguments_of_the_checkpoint_hook():
    check(hooks=[CheckpointHook(save_optimizer=False)])
    with pytest.raises(ConfigError) as caught:
        check(hooks=[CheckpointHook(intervall=3)])
    assert str(caught.value) == (
        "default_hooks.checkpoint (CheckpointHook): unexpected keyword argument 'intervall'; "
        'did you mean interval?'
    )


def test_save_best_is_a_value_of_the_metrics():
    class Metric(CountMetric):
        def result_keys(self):
            return ['coco/bbox_mAP']

    def save_best(key, metrics, **loaders):
        check(hooks=[CheckpointHook(save_best=key, rule='greater')], metrics=metrics, **loaders)

    both = dict(train=loader(), val=loader())
    for key in ('coco/bbox_mAP', 'val/x'):
        save_best(key, [Metric()], **both)
    save_best('x', [Metric(), CountMetric()], **both)  # which need not list its values
    save_best('x', [Metric()], val=loader())
    classwise = Metric()
    classwise.classwise = True
    save_best('coco/cat_precision', [classwise], **both)
    for key in ('x', 'coco/cat_precision'):
        with pytest.raises(ValueError, match='save_best') as caught:
            save_best(key, [Metric()], **both)
        assert str(caught.value) == (
            f'default_hooks.checkpoint.save_best={key!r}: val_evaluator has no such value, but '
            'coco/bbox_mAP'
        )
