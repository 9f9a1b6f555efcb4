"""The checks of what is built before the first step; nothing is logged if all is well."""

from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from ghmdet.checks.start_check import StartCheckHook
from ghmdet.config.errors import ConfigError
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
        loader = SimpleNamespace(dataset=DATASETS.build(dataset))
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


def test_a_concatenation_and_classes_that_are_one_string():
    parts = {'datasets': [data(), data(('dog', 'cat'))], 'ignore_keys': ['classes']}
    assert message_of(ValueError, check, train={'type': 'ConcatDataset', **parts}).startswith(
        'train_dataloader and train_dataloader (part 1 of its dataset) must have the same classes'
    )
    assert check(train={'type': 'ConcatDataset', 'datasets': [data()] * 3}) == [7] * 3
    with pytest.raises(ValueError, match=r"string 'person'; for one class write.*\('person',\)"):
        check(train=data('person'))


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
