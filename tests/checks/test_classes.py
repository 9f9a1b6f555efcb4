"""One class list for datasets, files and head, written into the config before anything is built."""

import json
import os

import pytest
import torch
from mmengine.config import Config

from ghmdet.checks.classes import (
    complete_evaluators,
    resolve_classes,
    take_checkpoint_classes,
)
from ghmdet.coco import reader as coco_file
from ghmdet.datasets.coco import COCO_CLASSES
from ghmdet.registry import DATASETS, METRICS

CATEGORIES = {1: 'cat', 2: 'dog'}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(coco_file, '_kept', {})


@pytest.fixture
def make(tmp_path):
    """Write the files and return a config; of each split (categories, metainfo.classes)."""

    def write(num_classes=80, **splits):
        cfg = dict(model=dict(bbox_head=dict(type='RetinaHead', num_classes=num_classes)))
        if num_classes is None:
            del cfg['model']['bbox_head']['num_classes']
        for split, (categories, classes) in splits.items():
            content = dict(
                images=[dict(id=1, file_name='1.jpg', width=9, height=9)],
                annotations=[],
                categories=[dict(id=id_, name=name) for id_, name in categories.items()],
            )
            (tmp_path / f'{split}.json').write_text(json.dumps(content))
            dataset = dict(type='CocoDataset', ann_file=f'{split}.json', data_root=str(tmp_path))
            if classes is not None:
                dataset['metainfo'] = dict(classes=classes)
            cfg[f'{split}_dataloader'] = dict(dataset=dataset)
        return Config(cfg)

    return write


def classes(cfg, split='train'):
    return cfg[f'{split}_dataloader'].dataset.get('metainfo', {}).get('classes')


def refusal(cfg, splits=('train', 'val')):
    with pytest.raises(ValueError, match='class') as caught:
        resolve_classes(cfg, splits)
    return str(caught.value)


# --- the config names none ----------------------------------------------------------------------


@pytest.mark.parametrize('num_classes', [80, 2, None])
def test_classes_and_their_number_come_from_the_training_file(make, tmp_path, num_classes):
    categories = {9: 'cat', -4: 'dog'}  # in the order of the ids
    splits = dict(train=(categories, None), val=({0: 'cat', 1: 'dog'}, None), test=({}, None))
    cfg = make(num_classes, **splits)
    text = resolve_classes(cfg)
    assert cfg.model.bbox_head.num_classes == 2
    assert [classes(cfg, split) for split in splits] == [('dog', 'cat')] * 3
    number = '' if num_classes == 2 else '; model.bbox_head.num_classes = 2'
    assert text == (
        f'2 classes (dog, cat) taken from {tmp_path}/train.json, since the config names none'
        f'{number}'
    )
    assert resolve_classes(cfg) is None


@pytest.mark.parametrize(
    'ids', [('10', '9', '2'), ('x', 3, '1'), (2.5, 2, 0)], ids=['numbers as text', 'both', 'floats']
)
def test_ids_of_any_type_have_an_order(make, ids):
    cfg = make(train=(dict(zip(ids, 'abc', strict=True)), None))
    resolve_classes(cfg)
    assert classes(cfg) == ('c', 'b', 'a')


def test_coco_stays_as_it_is(make):
    coco = dict(enumerate(reversed(COCO_CLASSES)))
    cfg = make(train=(coco, None), val=(coco | {80: 'unicorn'}, None))
    before = cfg.to_dict()
    assert resolve_classes(cfg) is None
    assert cfg.to_dict() == before


def test_datasets_and_models_inside_of_others(make):
    cfg = make(train=(CATEGORIES, None), val=(CATEGORIES, None))
    inner = cfg.train_dataloader.dataset
    repeated = dict(type='RepeatDataset', times=2, dataset=inner)
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[repeated, inner])
    resolve_classes(cfg)
    one, two = cfg.train_dataloader.dataset.datasets
    assert one.dataset.metainfo.classes == two.metainfo.classes == classes(cfg, 'val')
    assert cfg.model.bbox_head.num_classes == 2
    cfg = make(train=(CATEGORIES, None))
    cfg.model = dict(type='DetTTAModel', module=cfg.model)
    resolve_classes(cfg)
    assert cfg.model.module.bbox_head.num_classes == 2


@DATASETS.register_module(force=True)
class OwnCoco(DATASETS.get('CocoDataset')):
    METAINFO = dict(classes=('a', 'b', 'c'))


def test_datasets_of_other_types_are_not_changed(make):
    cfg = make(train=(CATEGORIES, None), val=(CATEGORIES, None))
    for kind in ('OwnCoco', 'ClassBalancedDataset', OwnCoco, 'mmengine.ConcatDataset', 'Unknown'):
        cfg.train_dataloader.dataset.type = kind
        assert resolve_classes(cfg) is None
        assert cfg.model.bbox_head.num_classes == 80
    cfg = make(train=(CATEGORIES, None))
    cfg.default_scope = 'mmdet'
    assert resolve_classes(cfg) is None
    cfg.default_scope = 'ghmdet'
    cfg.train_dataloader.dataset.type = DATASETS.get('CocoDataset')  # as a config by import has it
    assert resolve_classes(cfg).startswith('2 classes (cat, dog)')


def test_a_missing_file_is_reported_by_the_dataset_itself(make, tmp_path):
    cfg = make(train=(CATEGORIES, None))
    (tmp_path / 'train.json').unlink()
    assert resolve_classes(cfg) is None


def test_the_file_is_read_once(make, monkeypatch):
    cfg = make(train=(CATEGORIES, None), val=(CATEGORIES, None))
    read = []
    original = coco_file.read_records

    def count(path, backend_args):
        read.append(os.path.basename(path))
        return original(path, backend_args)

    monkeypatch.setattr(coco_file, 'read_records', count)
    resolve_classes(cfg)
    assert read == ['train.json', 'val.json']
    for split in ('train', 'val'):
        DATASETS.build(cfg[f'{split}_dataloader'].dataset).full_init()
    assert read == ['train.json', 'val.json']
    assert coco_file._kept == {}
    DATASETS.build(cfg.train_dataloader.dataset).full_init()
    assert read == ['train.json', 'val.json', 'train.json']


def test_a_file_that_changed_meanwhile_is_read_again(make, tmp_path):
    cfg = make(train=(CATEGORIES, None))
    resolve_classes(cfg)
    file = tmp_path / 'train.json'
    file.write_text(file.read_text().replace('"dog"', '"doge"'))
    with pytest.raises(ValueError, match=r"'dog' \(did you mean 'doge'\?\)"):
        DATASETS.build(cfg.train_dataloader.dataset).full_init()


# --- the config names some ----------------------------------------------------------------------


def test_one_list_serves_the_datasets_that_have_none(make):
    cfg = make(1, train=(CATEGORIES, ['dog']), val=(CATEGORIES, None), test=({}, None))
    assert resolve_classes(cfg) == (
        'val_dataloader.dataset, test_dataloader.dataset: no metainfo.classes, so the 1 classes '
        '(dog) of the other datasets'
    )
    assert [classes(cfg, split) for split in ('train', 'val', 'test')] == [('dog',)] * 3
    assert cfg.model.bbox_head.num_classes == 1


THREE = {1: 'cat', 2: 'dog', 3: 'owl'}
KEY = 'val_dataloader.dataset.metainfo.classes'


@pytest.mark.parametrize(
    ('num_classes', 'splits', 'texts'),
    [
        (
            5,
            dict(train=(CATEGORIES, None)),
            [
                'the classes do not agree: model.bbox_head.num_classes is 5, but there are 2 '
                'classes: set model.bbox_head.num_classes=2. [train_dataloader.dataset: '
                'metainfo.classes none, categories of {}/train.json: cat, dog]'
            ],
        ),
        (
            80,  # the default, which is not free if the config names classes
            dict(train=(CATEGORIES, ('cat', 'dog'))),
            [
                'model.bbox_head.num_classes is 80, but there are 2 classes',
                '[train_dataloader.dataset: metainfo.classes cat, dog, categories of',
            ],
        ),
        (
            80,
            dict(train=(CATEGORIES, None), val=({1: 'cat', 2: 'Dog', 3: 'owl'}, None)),
            [
                'val_dataloader.dataset: of {}/train.json, 1 of 2 are not among the categories of '
                "{}/val.json: 'dog' (did you mean 'Dog'?)",
                'the categories Dog, owl of {}/val.json are not in {}/train.json',
                'to leave them out, name the classes in metainfo=dict(classes=(...))',
            ],
        ),
        (
            2,
            dict(train=(CATEGORIES, ('cat', 'dgo')), val=(CATEGORIES, ('cat', 'dgo'))),
            [
                f'{split}_dataloader.dataset: of metainfo.classes, 1 of 2 are not among the '
                f"categories of {{}}/{split}.json: 'dgo' (did you mean 'dog'?)"
                for split in ('train', 'val')
            ],
        ),
        *(
            (2, dict(train=(THREE, ('cat', 'dog')), val=(THREE, other)), [f'{KEY}: {difference}'])
            for other, difference in (
                (('dog', 'cat'), "2 of 2 classes differ: number 0 is 'dog' in this list, 'cat' in"),
                (('cat',), "1 of 2 classes differ: number 1 is missing in this list, 'dog' in"),
                (THREE.values(), "1 of 3 classes differ: number 2 is 'owl' in this list, missing"),
            )
        ),
    ],
)
def test_classes_that_do_not_agree(make, tmp_path, num_classes, splits, texts):
    splits = {split: (names, given and list(given)) for split, (names, given) in splits.items()}
    message = refusal(make(num_classes, **splits))
    for text in texts:
        assert text.replace('{}', str(tmp_path)) in message


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (
            'cat',
            "must be a sequence of names, got the str 'cat', and there is no file of that name "
            "with one class per line; a tuple of one needs a comma: classes=('cat',)",
        ),
        ([], 'is empty; it needs each class once'),
        (['cat', 'dog', 'cat'], 'names a class twice: cat; it needs each class once'),
        ([1, 2], 'must be a sequence of names, got [1, 2]'),
        ({'cat': 1}, "must be a sequence of names, got {'cat': 1}"),
    ],
)
def test_no_list_of_names(make, split, given, text):
    cfg = make(2, **{'train': (CATEGORIES, None), split: (CATEGORIES, given)})
    assert refusal(cfg) == f'{split}_dataloader.dataset.metainfo.classes {text}'


def test_names_in_a_file(make, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('dog\n cat\n\n')
    cfg = make(2, train=(CATEGORIES, str(names)))
    resolve_classes(cfg)
    assert classes(cfg) == ('dog', 'cat')
    assert refusal(make(2, train=(CATEGORIES, str(tmp_path)))).startswith(
        'train_dataloader.dataset.metainfo.classes must be a sequence of names'
    )


# --- tests and predictions ----------------------------------------------------------------------


def checkpoint(folder, names, **meta):
    path = str(folder / 'some.pth')
    torch.save(dict(state_dict=dict(a=torch.ones(1)), meta=dict(CLASSES=names, **meta)), path)
    return path


def test_a_test_takes_the_classes_of_the_checkpoint(make, tmp_path):
    cfg = make(80, train=({5: 'x'}, None), test=(CATEGORIES, None))
    cfg.load_from = checkpoint(tmp_path, ('dog', 'cat'))
    (tmp_path / 'train.json').unlink()  # not needed
    assert resolve_classes(cfg, ('test',)) == (
        f'2 classes (dog, cat) taken from {cfg.load_from}, since the config names none; '
        'model.bbox_head.num_classes = 2'
    )
    assert classes(cfg, 'test') == ('dog', 'cat')


def test_a_test_file_without_a_class_of_the_checkpoint(make, tmp_path):
    cfg = make(80, test=(CATEGORIES, None))
    cfg.load_from = checkpoint(tmp_path, ('cat', 'owl'))
    assert refusal(cfg, ('test',)).startswith(
        f'the classes do not agree: test_dataloader.dataset: of {cfg.load_from}, 1 of 2 are not '
        f"among the categories of {tmp_path}/test.json: 'owl'. ["
    )


def test_a_test_with_classes_in_the_config_or_without_names_in_the_checkpoint(make, tmp_path):
    cfg = make(2, test=(CATEGORIES, ('dog', 'cat')))
    cfg.load_from = 'nowhere.pth'  # not read
    assert resolve_classes(cfg, ('test',)) is None
    cfg = make(80, test=(CATEGORIES, None))
    cfg.load_from = checkpoint(tmp_path, ())
    resolve_classes(cfg, ('test',))
    assert classes(cfg, 'test') == ('cat', 'dog')


def test_a_test_need_not_have_the_training_classes_of_the_config(make):
    categories = {1: 'cat', 2: 'dog', 3: 'owl'}
    cfg = make(2, train=(categories, ('dog', 'owl')), test=(categories, ('dog', 'cat')))
    assert resolve_classes(cfg, ('test',)) is None
    cfg = make(2, train=(categories, ('dog', 'owl')), test=(categories, None))
    assert resolve_classes(cfg, ('test',)) == (
        'test_dataloader.dataset: no metainfo.classes, so the 2 classes (dog, owl) of the other '
        'datasets'
    )


def test_a_checkpoint_of_coco_under_its_old_names(make, tmp_path):
    cfg = make(80, test=(dict(enumerate(COCO_CLASSES)), None))
    cfg.load_from = checkpoint(tmp_path, [name.replace(' ', '_') for name in COCO_CLASSES])
    assert resolve_classes(cfg, ('test',)) is None
    assert classes(cfg, 'test') is None


def test_images_without_categories(make, tmp_path):
    cfg = make(80, test=({}, None))
    cfg.test_dataloader.dataset.test_mode = True
    images = [dict(id=1, file_name='1.jpg', width=9, height=9)]
    (tmp_path / 'test.json').write_text(json.dumps(dict(images=images)))
    cfg.load_from = checkpoint(tmp_path, ('dog', 'cat'))
    resolve_classes(cfg, ('test',))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert dataset.cat_ids == [1, 2]
    assert dataset.metainfo['classes'] == ('dog', 'cat')
    assert dataset[0]['img_id'] == 1


def test_a_prediction_takes_the_number_of_the_checkpoint(make):
    head = {
        'module.bbox_head.retina_cls.weight': torch.zeros(9 * 3, 4, 3, 3),
        'module.bbox_head.retina_reg.weight': torch.zeros(9 * 4, 4, 3, 3),
    }
    names = dict(state_dict=head, meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))))
    for given, before, after in ((None, 80, 3), (None, 5, 5), (('x',), 80, 80)):
        cfg = make(before, test=(CATEGORIES, given))
        take_checkpoint_classes(cfg, names)
        assert cfg.model.bbox_head.num_classes == after
    cfg = make(80, test=(CATEGORIES, None))
    for meta in ({}, dict(CLASSES=('a', 'b'))):  # of which the head knows nothing
        take_checkpoint_classes(cfg, dict(state_dict=head, meta=meta))
        assert cfg.model.bbox_head.num_classes == 80


# --- evaluators ---------------------------------------------------------------------------------


@METRICS.register_module(force=True)
class OwnMetric(METRICS.get('CocoMetric')):
    pass


def evaluator_cfg(evaluator, **dataset):
    dataset = dict(type='CocoDataset', ann_file='val.json', data_root='data/pets', **dataset)
    splits = ('val', 'test')
    parts = {f'{split}_dataloader': dict(dataset=dataset) for split in splits}
    return Config(parts | {f'{split}_evaluator': evaluator for split in splits})


def test_a_metric_gets_the_file_of_its_dataset():
    cfg = evaluator_cfg(dict(type='CocoMetric'), backend_args=dict(backend='petrel'))
    cfg.test_dataloader.dataset.ann_file = '/else/where.json'
    complete_evaluators(cfg)
    assert cfg.val_evaluator.ann_file == 'data/pets/val.json'
    assert cfg.val_evaluator.backend_args == dict(backend='petrel')
    assert cfg.test_evaluator.ann_file == '/else/where.json'
    cfg = evaluator_cfg([dict(type='DumpDetResults'), dict(type='ghmdet.CocoMetric', prefix='x')])
    inner = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=inner)
    complete_evaluators(cfg)
    assert cfg.val_evaluator[1].ann_file == 'data/pets/val.json'
    assert 'ann_file' not in cfg.val_evaluator[0]


def test_files_of_the_config_and_other_metrics_are_kept():
    cfg = evaluator_cfg(dict(type='CocoMetric', ann_file='mine.json'))
    cfg.test_evaluator = dict(type='OwnMetric')
    complete_evaluators(cfg)
    assert cfg.val_evaluator.ann_file == 'mine.json'
    assert cfg.test_evaluator == dict(type='OwnMetric')
    cfg = evaluator_cfg(dict(type='CocoMetric'))
    dataset = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    cfg.default_scope = 'mmdet'
    complete_evaluators(cfg)
    assert cfg.test_evaluator == dict(type='CocoMetric')
    cfg.default_scope = 'ghmdet'
    complete_evaluators(cfg)
    assert cfg.val_evaluator == dict(type='CocoMetric')
    assert cfg.test_evaluator.ann_file == 'data/pets/val.json'
