"""The check at the door: before the first step, on everything that is built, silent when well."""

from __future__ import annotations

import io
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner

from ghmdet.checks.start_check import (
    StartCheckHook,
)
from ghmdet.registry import HOOKS


@DATASETS.register_module(force=True)
class DoorDataset(BaseDataset):
    """Two samples; remembers which check it was asked for."""

    asked: list[int] = []

    def load_data_list(self):
        return [{'inputs': torch.ones(1)}] * 2

    def _join_prefix(self):
        pass

    def check_image_files(self, limit):
        self.asked.append(limit)
        if self.ann_file == 'lost.json':
            raise FileNotFoundError('3 of 2000 images are missing')


@METRICS.register_module(force=True)
class DoorMetric(BaseMetric):
    def __init__(self, ann_file=None):
        super().__init__()
        self.ann_file = ann_file

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'n': len(results)}


class DoorModel(BaseModel):
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


def loader(classes=('cat', 'dog'), ann_file='', wrap=lambda dataset: dataset, **options):
    dataset = {'type': 'DoorDataset', 'ann_file': ann_file, 'metainfo': {'classes': classes}}
    return {
        'dataset': wrap({**dataset, **options}),
        'batch_size': 1,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'num_workers': 0,
    }


def make_runner(tmp_path, train=None, val=None, test=None, model=None, metric=None):
    parts = {'model': model or DoorModel()}
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
            parts[f'{split}_evaluator'] = metric or {'type': 'DoorMetric'}
    # mmengine keeps loggers and visualizers by this name, else by the second.
    parts['experiment_name'] = uuid4().hex
    runner = Runner(**parts, work_dir=str(tmp_path), custom_hooks=[StartCheckHook()])
    DoorDataset.asked.clear()
    return runner


def test_registered_and_early():
    assert HOOKS.module_dict['StartCheckHook'] is StartCheckHook
    assert StartCheckHook.priority == 'VERY_HIGH'


def test_silent_when_well_and_run_goes_on(tmp_path, monkeypatch):
    runner = make_runner(tmp_path, loader(), loader(), loader())
    stream = io.StringIO()
    hook = next(hook for hook in runner.hooks if isinstance(hook, StartCheckHook))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._val_loop = runner.build_val_loop(runner._val_loop)
    logger = MMLogger.get_current_instance()
    for handler in logger.handlers:
        if hasattr(handler, 'stream'):
            monkeypatch.setattr(handler, 'stream', stream)
    hook.before_run(runner)
    assert stream.getvalue() == ''
    assert DoorDataset.asked == [2000, 2000]  # the test loop is not built when training
    runner.train()
    assert runner.model.events.count('loss') == 2


def test_head_with_other_class_count_stops_before_weights(tmp_path):
    names = tuple('abcdefg')
    runner = make_runner(tmp_path, loader(names), model=DoorModel(80))
    with pytest.raises(ValueError, match='num_classes') as caught:
        runner.train()
    assert str(caught.value) == (
        'train_dataloader has a dataset of 7 classes (a, b, c, d, e and 2 more), but '
        'model.bbox_head.num_classes is 80. Set model.bbox_head.num_classes=7, or name the '
        'classes to use in train_dataloader.dataset.metainfo=dict(classes=(...)).'
    )
    assert runner.model.events == []


@pytest.mark.parametrize('split', ['val', 'test'])
def test_head_is_checked_for_val_and_test(tmp_path, split):
    runner = make_runner(tmp_path, **{split: loader(('cat', 'dog', 'cow'))})
    with pytest.raises(ValueError, match=f'{split}_dataloader has a dataset of 3 classes'):
        getattr(runner, split)()


@pytest.mark.parametrize(
    ('val', 'told'),
    [
        (
            ('dog', 'cat'),
            "number 0 is 'cat' in the first (cat, dog), 'dog' in the second (dog, cat)",
        ),
        (
            ('cat', 'cow'),
            "number 1 is 'dog' in the first (cat, dog), 'cow' in the second (cat, cow)",
        ),
    ],
)
def test_classes_in_another_order_or_other_classes(tmp_path, val, told):
    runner = make_runner(tmp_path, loader(), loader(val))
    with pytest.raises(ValueError, match='train_dataloader and val_dataloader differ') as caught:
        runner.train()
    assert told in str(caught.value)


def test_shorter_list_without_a_head_to_compare(tmp_path):
    model = DoorModel()
    del model.bbox_head
    runner = make_runner(tmp_path, loader(), loader(('cat',)), model=model)
    with pytest.raises(ValueError, match=r"'dog' in the first \(cat, dog\), missing in the second"):
        runner.train()


def test_one_class_as_a_bare_string(tmp_path):
    runner = make_runner(tmp_path, loader(('cat', 'dog')))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._train_loop.dataloader.dataset._metainfo['classes'] = 'person'
    with pytest.raises(ValueError, match=r"string 'person'; for one class write.*\('person',\)"):
        runner.train()


def test_dataset_without_class_names_is_not_judged(tmp_path):
    runner = make_runner(tmp_path, loader(metainfo={}), model=DoorModel(80))
    runner.train()
    assert runner.iter == 2


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
def test_wrapped_datasets_are_looked_into(tmp_path, wrap):
    runner = make_runner(tmp_path, loader(ann_file='lost.json', wrap=wrap))
    with pytest.raises(FileNotFoundError, match='3 of 2000 images are missing'):
        runner.train()
    runner = make_runner(tmp_path, loader(('one',), wrap=wrap))
    with pytest.raises(ValueError, match='a dataset of 1 classes'):
        runner.train()


def test_every_part_of_a_concatenation_is_asked_for_its_images(tmp_path):
    runner = make_runner(
        tmp_path, loader(wrap=lambda d: {'type': 'ConcatDataset', 'datasets': [d, d, d]})
    )
    runner.train()
    assert DoorDataset.asked == [2000] * 3


def test_tta_model_is_unwrapped(tmp_path):
    class DoorTTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    runner = make_runner(tmp_path, test=loader(), model=DoorTTA(DoorModel(9)))
    with pytest.raises(ValueError, match='num_classes is 9'):
        runner.test()


def test_every_part_of_a_concatenation_is_asked_for_its_classes(tmp_path):
    def concatenate(part):
        other = {**part, 'metainfo': {'classes': ('dog', 'cat')}}
        return {'type': 'ConcatDataset', 'datasets': [part, other], 'ignore_keys': ['classes']}

    runner = make_runner(tmp_path, loader(wrap=concatenate))
    with pytest.raises(ValueError, match='differ in their classes') as caught:
        runner.train()
    assert str(caught.value).startswith(
        'train_dataloader and train_dataloader (part 1 of its dataset) differ in their classes: '
        "number 0 is 'cat' in the first (cat, dog), 'dog' in the second (dog, cat)."
    )


def test_metric_of_another_annotation_file_is_refused_unless_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.json').write_text('{}')
    (tmp_path / 'same.json').symlink_to(tmp_path / 'a.json')
    hook = StartCheckHook(image_limit=7)

    def check(ann_file, **settings):
        dataset = SimpleNamespace(ann_file=str(tmp_path / 'a.json'), metainfo={})
        metric = DoorMetric(ann_file)
        vars(metric).update(settings)
        evaluator = SimpleNamespace(metrics=[metric, object()])
        loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset), evaluator=evaluator)
        hook.before_run(SimpleNamespace(_val_loop=loop, model=DoorModel()))

    for same in (None, str(tmp_path / 'same.json'), 'a.json', f'../{tmp_path.name}/./a.json'):
        check(same)
    check('other.json', check_ann_file=False)
    with pytest.raises(ValueError, match='another annotation file') as caught:
        check('other.json')
    assert str(caught.value) == (
        'val_evaluator (DoorMetric) has ann_file=other.json, but val_dataloader reads '
        f'{tmp_path}/a.json: detections would be compared with another annotation file. Remove '
        'val_evaluator.ann_file or give both the same file; if you mean it, set '
        'val_evaluator.check_ann_file=False.'
    )


# --- memory -----------------------------------------------------------------------------------
