"""The checks of what is built before the first step; nothing is logged if all is well."""

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


def make_runner(tmp_path, model=None, **loaders):
    parts = {'model': model or TinyModel()}
    for split, chosen in loaders.items():
        parts |= {f'{split}_dataloader': chosen, f'{split}_cfg': {}}
        parts[f'{split}_evaluator'] = {'type': 'CountMetric'}
    if 'train' in loaders:
        del parts['train_evaluator']
        parts['train_cfg'] = {'by_epoch': True, 'max_epochs': 1}
        parts['optim_wrapper'] = {'optimizer': {'type': 'SGD', 'lr': 0.1}}
    # mmengine keeps loggers and visualizers by this name, else by the second.
    parts['experiment_name'] = uuid4().hex
    CheckedDataset.limits.clear()
    return Runner(**parts, work_dir=str(tmp_path), custom_hooks=[StartCheckHook()])


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
    runner = make_runner(tmp_path, train=loader(), val=loader(), test=loader())
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
    runner = make_runner(tmp_path, TinyModel(80), train=loader(tuple('abcdefg')))
    with pytest.raises(ValueError, match='num_classes') as caught:
        runner.train()
    assert str(caught.value) == (
        'train_dataloader has a dataset of 7 classes (a, b, c, d, e and 2 more), but '
        'model.bbox_head.num_classes is 80. Set model.bbox_head.num_classes=7, or name the '
        'classes to use in train_dataloader.dataset.metainfo=dict(classes=(...)).'
    )
    assert runner.model.events == []
    with pytest.raises(ValueError, match='val_dataloader has a dataset of 3 classes'):
        make_runner(tmp_path, val=loader(('cat', 'dog', 'cow'))).val()
    with pytest.raises(ValueError, match=r'test_dataloader .*num_classes is 9'):
        check(TinyTTA(TinyModel(9)), test=loader())


@pytest.mark.parametrize(
    ('val', 'difference'),
    [
        (('dog', 'cat'), "2 of 2 classes differ: number 0 is 'cat' in {} (cat, dog), 'dog'"),
        (('cat', 'Dog'), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), 'Dog'"),
        (('cat',), "1 of 2 classes differ: number 1 is 'dog' in {} (cat, dog), missing"),
    ],
)
def test_datasets_with_other_classes(val, difference):
    with pytest.raises(ValueError, match='differ') as caught:
        check(TinyModel(None), train=loader(), val=loader(val))
    assert str(caught.value) == (
        'train_dataloader and val_dataloader must have the same classes in the same order, since a '
        f'label is an index into this list, but {difference.format("train_dataloader")} in '
        f'val_dataloader ({", ".join(val)}). Give every dataset the same '
        'metainfo=dict(classes=(...)).'
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
            **{'type': 'RepeatDataset', 'times': 2, 'lazy_init': True},
            'dataset': {**d, 'lazy_init': True},
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
    hooks = [CheckpointHook(save_best=key, rule='greater')]
    check(hooks=hooks, metrics=metrics, val=loader())  # nothing is saved in a validation
    if fine:
        check(hooks=hooks, metrics=metrics, train=loader(), val=loader())
        return
    with pytest.raises(ValueError, match='save_best') as caught:
        check(hooks=hooks, metrics=metrics, train=loader(), val=loader())
    assert str(caught.value) == (
        f'default_hooks.checkpoint.save_best={key!r}: val_evaluator has no such value, but '
        'coco/bbox_mAP'
    )
