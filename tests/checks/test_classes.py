"""One class list for datasets, files and head, written into the config before anything is built."""

import json
import os

import pytest
import torch
from mmengine.config import Config

from ghmdet.checks.classes import complete_evaluators, resolve_classes, take_checkpoint_classes
from ghmdet.coco import reader as coco_file
from ghmdet.datasets.coco import COCO_CLASSES
from ghmdet.registry import DATASETS, METRICS
from tests.checks.conftest import message_of

CATEGORIES = {1: 'cat', 2: 'dog'}
THREE = {1: 'cat', 2: 'dog', 3: 'owl'}
IMAGES = [dict(id=1, file_name='1.jpg', width=9, height=9)]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(coco_file, '_kept', {})


@pytest.fixture
def make(tmp_path):
    """Write the files and return a config; of each split (categories, metainfo.classes)."""

    def write(num_classes=80, **splits):
        number = {} if num_classes is None else dict(num_classes=num_classes)
        cfg = dict(model=dict(bbox_head=dict(type='RetinaHead', **number)))
        for split, (categories, classes) in splits.items():
            listed = [dict(id=id_, name=name) for id_, name in categories.items()]
            content = dict(images=IMAGES, annotations=[], categories=listed)
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
    return message_of(ValueError, resolve_classes, cfg, splits)


@pytest.mark.parametrize('num_classes', [80, 2, None])
def test_classes_and_their_number_come_from_the_training_file(make, tmp_path, num_classes):
    splits = dict(train=({9: 'cat', -4: 'dog'}, None), val=(CATEGORIES, None), test=({}, None))
    cfg = make(num_classes, **splits)
    number = '' if num_classes == 2 else '; model.bbox_head.num_classes = 2'
    assert resolve_classes(cfg) == (
        f'2 classes (dog, cat) taken from {tmp_path}/train.json, since the config names none'
        f'{number}'
    )
    assert cfg.model.bbox_head.num_classes == 2
    assert [classes(cfg, split) for split in splits] == [('dog', 'cat')] * 3  # in order of the ids
    assert resolve_classes(cfg) is None


@pytest.mark.parametrize('ids', [('10', '9', '2'), ('x', 3, '1'), (2.5, 2, 0)])
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


def test_a_file_is_read_once_unless_it_changes(make, monkeypatch, tmp_path):
    cfg = make(train=(CATEGORIES, None), val=(CATEGORIES, None))
    read, original = [], coco_file.read_records

    def count(path, backend_args):
        read.append(os.path.basename(path))
        return original(path, backend_args)

    def build(split):
        DATASETS.build(cfg[f'{split}_dataloader'].dataset).full_init()

    monkeypatch.setattr(coco_file, 'read_records', count)
    resolve_classes(cfg)
    build('train')
    build('val')
    assert read == ['train.json', 'val.json']
    assert coco_file._kept == {}
    build('train')
    assert read == ['train.json', 'val.json', 'train.json']
    resolve_classes(cfg)
    file = tmp_path / 'train.json'
    file.write_text(file.read_text().replace('"dog"', '"doge"'))
    assert "'dog' (did you mean 'doge'?)" in message_of(ValueError, build, 'train')
    file.unlink()
    assert resolve_classes(cfg) is None  # the dataset reports it


def test_one_list_serves_the_datasets_that_have_none(make):
    cfg = make(1, train=(CATEGORIES, ['dog']), val=(CATEGORIES, None), test=({}, None))
    assert resolve_classes(cfg) == (
        'val_dataloader.dataset, test_dataloader.dataset: no metainfo.classes, so the 1 classes '
        '(dog) of the other datasets'
    )
    assert [classes(cfg, split) for split in ('train', 'val', 'test')] == [('dog',)] * 3
    assert cfg.model.bbox_head.num_classes == 1


def describe(cfg, split, *categories, used=()):
    """Give a split's file these (id, name, supercategory), and an annotation of each used id."""
    dataset = cfg[f'{split}_dataloader'].dataset
    keys = ('id', 'name', 'supercategory')
    content = dict(
        images=IMAGES,
        categories=[dict(zip(keys, values, strict=True)) for values in categories],
        annotations=[dict(image_id=1, category_id=id_, bbox=[1, 2, 3, 4]) for id_ in used],
    )
    with open(os.path.join(dataset.data_root, dataset.ann_file), 'w') as file:
        json.dump(content, file)


ROOT = (0, 'pets', 'none')
PETS = (1, 'cat', 'pets'), (2, 'dog', 'pets')
NOTE = "'pets' is no class: it has no annotation and is the supercategory of cat, dog"


@pytest.mark.parametrize('num_classes', [80, 2, None])
@pytest.mark.parametrize(
    'val', [(ROOT, *PETS), PETS, (*PETS, (7, 'pets', '')), ((0, 'cat', 'none'), *PETS)]
)
def test_a_root_of_the_training_file_is_no_class(make, tmp_path, num_classes, val):
    cfg = make(num_classes, train=TWO, val=TWO)
    describe(cfg, 'train', ROOT, *PETS, used=[1])
    describe(cfg, 'val', *val, used=[1, 2])
    text = resolve_classes(cfg)
    assert text.startswith(f'2 classes (cat, dog) taken from {tmp_path}/train.json, since')
    assert NOTE in text
    assert cfg.model.bbox_head.num_classes == 2
    for split in ('train', 'val'):
        dataset = DATASETS.build(
            cfg[f'{split}_dataloader'].dataset | dict(data_prefix=dict(img=''))
        )
        assert dataset.cat_ids == [1, 2]


def test_roots_that_are_annotated_or_only_in_validation(make, tmp_path):
    cfg = make(train=TWO, val=TWO)
    describe(cfg, 'train', *PETS, used=[1])
    describe(cfg, 'val', ROOT, *PETS, used=[2])
    assert resolve_classes(cfg).startswith('2 classes (cat, dog) taken from ')
    cfg = make(train=TWO, val=TWO)
    describe(cfg, 'train', ROOT, *PETS, used=[0, 1])  # a class, also where it has no box
    describe(cfg, 'val', ROOT, *PETS, used=[2])
    assert resolve_classes(cfg).startswith('3 classes (pets, cat, dog) taken from ')
    cfg = make(train=TWO, val=TWO)
    describe(cfg, 'train', ROOT, *PETS, used=[1])
    describe(cfg, 'val', ROOT, *PETS, used=[0])
    assert 'val_dataloader.dataset: the categories pets of ' in refusal(cfg)
    cfg.train_dataloader.dataset.metainfo = dict(classes=('cat', 'dog'))  # the advice
    cfg.model.bbox_head.num_classes = 2
    resolve_classes(cfg)
    assert classes(cfg, 'val') == ('cat', 'dog')


@pytest.mark.follows('to make it one, list all in metainfo')
def test_a_number_that_counts_the_root(make):
    cfg = make(3, train=TWO, val=TWO)
    for split in ('train', 'val'):
        describe(cfg, split, ROOT, *PETS, used=[1, 2])
    assert (
        'num_classes is 3, but there are 2 classes: set model.bbox_head.num_classes=2; '
        f'{NOTE}; to make it one, list all in metainfo=dict(classes=(...)) of every dataset'
    ) in refusal(cfg)
    listed = dict(classes=('pets', 'cat', 'dog'))
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.metainfo = listed
    assert resolve_classes(cfg) is None
    assert cfg.model.bbox_head.num_classes == 3
    cfg.model.bbox_head.num_classes = 2
    del cfg.train_dataloader.dataset['metainfo'], cfg.val_dataloader.dataset['metainfo']
    resolve_classes(cfg)
    assert classes(cfg) == ('cat', 'dog')


def test_a_test_with_a_checkpoint_has_its_roots(of_checkpoint):
    """A checkpoint says whether the root was a class when it was trained."""
    for names in (('cat', 'dog'), ('pets', 'cat', 'dog')):
        cfg = of_checkpoint(names, CATEGORIES)
        describe(cfg, 'test', ROOT, *PETS, used=[1, 2])
        resolve_classes(cfg, ('test',))
        assert classes(cfg, 'test') == names
    cfg = of_checkpoint((), CATEGORIES)  # without names: those of the file
    describe(cfg, 'test', ROOT, *PETS, used=[1, 2])
    assert NOTE in resolve_classes(cfg, ('test',))
    assert classes(cfg, 'test') == ('cat', 'dog')


def test_the_log_says_which_of_two_categories_of_one_name_counts(make, tmp_path):
    twins = [(1, 'cat', ''), (2, 'dog', ''), (3, 'cat', '')]
    cfg = make(2, train=(CATEGORIES, ('cat', 'dog')), val=(CATEGORIES, ('cat', 'dog')))
    describe(cfg, 'train', *twins, used=[2, 3])
    expected = "of the categories [1, 3] named 'cat', only 3 has annotations and counts"
    assert resolve_classes(cfg) == f'{tmp_path}/train.json: {expected}'
    cfg = make(train=TWO, val=TWO)
    describe(cfg, 'train', *twins, used=[2, 3])
    assert resolve_classes(cfg).endswith(f'num_classes = 2. {tmp_path}/train.json: {expected}')
    assert classes(cfg) == ('dog', 'cat')


TWO = (CATEGORIES, None)
KEY = 'val_dataloader.dataset'


@pytest.mark.parametrize(
    ('num_classes', 'train', 'val', 'text'),
    [
        (
            *(5, TWO, TWO),
            'the classes do not agree: model.bbox_head.num_classes is 5, but there are 2 classes: '
            'set model.bbox_head.num_classes=2. [train_dataloader.dataset: metainfo.classes none, '
            f'categories of {{}}/train.json: cat, dog; {KEY}: metainfo.classes none, ',
        ),
        # 80 is the default, which is not free if the config names classes
        (80, (CATEGORIES, ['cat', 'dog']), TWO, 'num_classes is 80, but there are 2 classes'),
        (
            *(80, TWO, (THREE | {2: 'Dog'}, None)),
            f'{KEY}: of {{}}/train.json, 1 of 2 are not among the categories of {{}}/val.json: '
            f"'dog' (did you mean 'Dog'?); {KEY}: the categories Dog, owl of {{}}/val.json are not "
            'in {}/train.json, which the classes are taken from; to leave them out, name the '
            'classes in metainfo=dict(classes=(...)) of every dataset',
        ),
        (
            *(2, (CATEGORIES, ['cat', 'dog']), (CATEGORIES, ['cat', 'dgo'])),
            f'{KEY}: of metainfo.classes, 1 of 2 are not among the categories of {{}}/val.json: '
            "'dgo' (did you mean 'dog'?)",
        ),
        *(
            (2, (THREE, ['cat', 'dog']), (THREE, other), f'{KEY}.metainfo.classes: {difference}')
            for other, difference in (
                (['dog', 'cat'], "2 of 2 classes differ: number 0 is 'dog' in this list, 'cat' in"),
                (['cat'], "1 of 2 classes differ: number 1 is missing in this list, 'dog' in"),
                (['cat', 'dog', 'owl'], "1 of 3 classes differ: number 2 is 'owl' in this list"),
            )
        ),
    ],
)
def test_classes_that_do_not_agree(make, tmp_path, num_classes, train, val, text):
    message = refusal(make(num_classes, train=train, val=val))
    assert text.replace('{}', str(tmp_path)) in message


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (
            'cat',
            "must be a sequence of names, got the str 'cat', and there is no file of that name",
        ),
        ([], 'is empty; it needs each class once'),
        (['cat', 'dog', 'cat'], 'names a class twice: cat; it needs each class once'),
        ([1, 2], 'must be a sequence of names, got [1, 2]'),
        ({'cat': 1}, "must be a sequence of names, got {'cat': 1}"),
    ],
)
def test_no_list_of_names(make, split, given, text):
    cfg = make(2, **{'train': (CATEGORIES, None), split: (CATEGORIES, given)})
    assert refusal(cfg).startswith(f'{split}_dataloader.dataset.metainfo.classes {text}')


def test_names_in_a_file(make, tmp_path):
    (tmp_path / 'names.txt').write_text('dog\n cat\n\n')
    cfg = make(2, train=(CATEGORIES, f'{tmp_path}/names.txt'))
    resolve_classes(cfg)
    assert classes(cfg) == ('dog', 'cat')
    (tmp_path / 'names.txt').write_bytes('dog\r\n cat\r\n'.encode('utf-16'))
    resolve_classes(cfg := make(2, train=(CATEGORIES, f'{tmp_path}/names.txt')))
    assert classes(cfg) == ('dog', 'cat')
    other = refusal(make(2, train=(CATEGORIES, f'{tmp_path}/Names.txt')))
    assert f"one class per line, but there is '{tmp_path}/names.txt', which differs in" in other
    folder = make(2, train=(CATEGORIES, str(tmp_path)))
    assert 'train_dataloader.dataset.metainfo.classes must be a sequence of' in refusal(folder)


@pytest.fixture
def of_checkpoint(make, tmp_path):
    """A config to test a checkpoint that names these classes, on a file with these categories."""

    def of_checkpoint(names, categories):
        cfg = make(80, test=(categories, None))
        cfg.load_from = str(tmp_path / 'some.pth')
        content = dict(state_dict=dict(a=torch.ones(1)), meta=dict(CLASSES=names))
        torch.save(content, cfg.load_from)
        return cfg

    return of_checkpoint


def test_a_test_takes_the_classes_of_the_checkpoint(of_checkpoint, tmp_path):
    cfg = of_checkpoint(('dog', 'cat'), CATEGORIES)
    cfg.train_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='nowhere.json'))
    assert resolve_classes(cfg, ('test',)) == (
        f'2 classes (dog, cat) taken from {cfg.load_from}, since the config names none; '
        'model.bbox_head.num_classes = 2'
    )
    assert classes(cfg, 'test') == ('dog', 'cat')
    cfg = of_checkpoint(('cat', 'owl'), CATEGORIES)
    assert refusal(cfg, ('test',)).startswith(
        f'the classes do not agree: test_dataloader.dataset: of {cfg.load_from}, 1 of 2 are not '
        f"among the categories of {tmp_path}/test.json: 'owl'. ["
    )


@pytest.mark.parametrize(
    ('names', 'categories', 'expected'),
    [
        ((), CATEGORIES, ('cat', 'dog')),
        ([name.replace(' ', '_') for name in COCO_CLASSES], dict(enumerate(COCO_CLASSES)), None),
    ],
)
def test_a_checkpoint_without_names_or_with_the_old_ones_of_coco(
    of_checkpoint, names, categories, expected
):
    cfg = of_checkpoint(names, categories)
    resolve_classes(cfg, ('test',))
    assert classes(cfg, 'test') == expected


def test_a_test_need_not_have_the_training_classes_of_the_config(make):
    cfg = make(2, train=(THREE, ('dog', 'owl')), test=(THREE, ('dog', 'cat')))
    cfg.load_from = 'nowhere.pth'  # not read
    assert resolve_classes(cfg, ('test',)) is None
    cfg = make(2, train=(THREE, ('dog', 'owl')), test=(THREE, None))
    assert resolve_classes(cfg, ('test',)) == (
        'test_dataloader.dataset: no metainfo.classes, so the 2 classes (dog, owl) of the other '
        'datasets'
    )


def test_images_without_categories(of_checkpoint, tmp_path):
    cfg = of_checkpoint(('dog', 'cat'), {})
    cfg.test_dataloader.dataset.test_mode = True
    (tmp_path / 'test.json').write_text(json.dumps(dict(images=IMAGES)))
    resolve_classes(cfg, ('test',))
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    assert dataset.cat_ids == [1, 2]
    assert dataset.metainfo['classes'] == ('dog', 'cat')
    assert dataset[0]['img_id'] == 1


def test_a_prediction_takes_the_number_of_the_checkpoint(make):
    name = 'module.bbox_head.retina_{}.weight'
    head = {name.format(k): torch.zeros(9 * n, 4, 3, 3) for k, n in (('cls', 3), ('reg', 4))}
    names = dict(state_dict=head, meta=dict(dataset_meta=dict(classes=('a', 'b', 'c'))))
    for given, before, after in ((None, 80, 3), (None, 5, 5), (('x',), 80, 80)):
        cfg = make(before, test=(CATEGORIES, given))
        take_checkpoint_classes(cfg, names)
        assert cfg.model.bbox_head.num_classes == after
    cfg = make(80, test=(CATEGORIES, None))
    for meta in ({}, dict(CLASSES=('a', 'b'))):  # of which the head knows nothing
        take_checkpoint_classes(cfg, dict(state_dict=head, meta=meta))
        assert cfg.model.bbox_head.num_classes == 80


@METRICS.register_module(force=True)
class OwnMetric(METRICS.get('CocoMetric')):
    pass


VAL = dict(type='CocoDataset', ann_file='val.json', data_root='data/pets')
VAL['backend_args'] = dict(backend='petrel')
METRIC = dict(type='CocoMetric')


@pytest.mark.parametrize(
    ('dataset', 'metric', 'expected'),
    [
        (VAL, METRIC, 'data/pets/val.json'),
        (VAL | dict(ann_file='/else/where.json'), METRIC, '/else/where.json'),
        (dict(dataset=VAL), dict(type='ghmdet.CocoMetric', prefix='x'), 'data/pets/val.json'),
        (VAL, METRIC | dict(ann_file='mine.json'), 'mine.json'),
        (VAL, dict(type='OwnMetric'), None),
        (VAL | dict(type='OwnCoco'), METRIC, None),
        (dict(datasets=[VAL, VAL]), METRIC, None),
    ],
)
@pytest.mark.parametrize('split', ['val', 'test'])
def test_a_metric_gets_the_file_of_its_dataset(split, dataset, metric, expected):
    others = [dict(type='DumpDetResults'), metric]
    parts = {f'{split}_dataloader': dict(dataset=dataset), f'{split}_evaluator': others}
    cfg = Config(parts | dict(default_scope='mmdet'))
    complete_evaluators(cfg)
    assert cfg[f'{split}_evaluator'] == others
    cfg.default_scope = 'ghmdet'
    complete_evaluators(cfg)
    assert cfg[f'{split}_evaluator'][0] == others[0]
    found = cfg[f'{split}_evaluator'][1]
    assert found.get('ann_file') == expected
    assert found == metric or found.backend_args == dict(backend='petrel')
