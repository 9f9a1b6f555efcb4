"""The one switch for the folder of the data."""

import argparse

import pytest
from mmengine.config import Config

from ghmdet import get_config
from ghmdet.config import arguments, parts
from ghmdet.config.data_root import DATA_ROOT_VARIABLE, relocate_data
from ghmdet.config.errors import ConfigError

SHAPES = 'retinanet_ghm_r18_fpn_shapes'


def find(**values):
    return relocate_data(Config(values), '/new')


def loader(**dataset):
    return dict(dataset=dataset)


def test_every_dataset_and_evaluator_moves():
    inner = dict(type='CocoDataset', data_root='data/a', ann_file='data/a/train.json')
    prefixed = dict(inner, ann_file='x.json', data_prefix=dict(img='data/a/images/', seg=''))
    changes = find(
        data_root='data/a/',
        train_dataloader=loader(type='RepeatDataset', times=2, dataset=inner),
        val_dataloader=loader(type='ConcatDataset', datasets=[inner, prefixed]),
        val_evaluator=[dict(type='CocoMetric', ann_file='./data/a/val.json'), dict(type='Dump')],
        test_evaluator=dict(type='CocoMetric', ann_file='/new/test.json'),
    )
    assert changes == {
        'train_dataloader.dataset.dataset.data_root': '/new/',
        'train_dataloader.dataset.dataset.ann_file': 'train.json',
        'val_dataloader.dataset.datasets.0.data_root': '/new/',
        'val_dataloader.dataset.datasets.0.ann_file': 'train.json',
        'val_dataloader.dataset.datasets.1.data_root': '/new/',
        'val_dataloader.dataset.datasets.1.data_prefix.img': 'images',
        'val_evaluator.0.ann_file': '/new/val.json',
        'data_root': '/new/',
    }


def test_the_root_of_the_config_serves_datasets_without_one():
    dataset = dict(ann_file='data/a/train.json', data_prefix=dict(img='data/a/'))
    assert find(data_root='data/a', train_dataloader=dict(dataset=dataset)) == {
        'train_dataloader.dataset.data_root': '/new/',
        'train_dataloader.dataset.ann_file': 'train.json',
        'train_dataloader.dataset.data_prefix.img': '.',
        'data_root': '/new/',
    }


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        (
            dict(
                train_dataloader=loader(data_root='data/a/'),
                val_dataloader=loader(data_root='data/b/'),
            ),
            "several: train_dataloader.dataset.data_root='data/a/', "
            "val_dataloader.dataset.data_root='data/b/'. Set each with --cfg-options KEY=VALUE",
        ),
        (
            dict(train_dataloader=loader(data_root='data/a/', ann_file='/else/x.json')),
            "does not apply to train_dataloader.dataset.ann_file='/else/x.json': not below the "
            "data_root of the datasets, 'data/a/'",
        ),
        (
            dict(train_dataloader=loader(data_root='data/a/', ann_file='../b/x.json')),
            "does not apply to train_dataloader.dataset.ann_file='../b/x.json'",
        ),
        (
            dict(
                train_dataloader=loader(data_root='data/a/'),
                val_evaluator=dict(ann_file='data/ab/val.json'),
            ),
            "does not apply to val_evaluator.ann_file='data/ab/val.json'",
        ),
        (dict(model=dict()), 'there is no dataset in the config'),
    ],
)
def test_what_it_cannot_reach_is_named(values, told):
    with pytest.raises(ConfigError) as caught:
        find(**values)
    assert told in str(caught.value)


def load(monkeypatch, *words):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    arguments.add_common_arguments(parser)
    monkeypatch.setenv('LOCAL_RANK', '0')
    return arguments.load_config(parser.parse_args([SHAPES, *words]))


def roots(cfg):
    return [cfg[f'{split}_dataloader'].dataset.data_root for split in ('train', 'val', 'test')]


@pytest.mark.parametrize('words', ['', '--data-root /new', '--cfg-options data_root=/new'])
def test_three_ways_to_say_it(words, monkeypatch):
    said = []
    monkeypatch.setattr(parts, 'print_log', lambda text, **_: said.append(text))
    monkeypatch.setenv(DATA_ROOT_VARIABLE, '' if words else '/new')
    words = words.split()
    assert roots(load(monkeypatch, *words)) == ['/new/'] * 3
    changed = [f'{split}_dataloader.dataset.data_root=/new/' for split in ('train', 'val', 'test')]
    assert said == [f'data root /new: {", ".join(changed)}, data_root=/new/']


def test_the_option_goes_before_the_variable_and_a_single_key_before_both(monkeypatch):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, '/old')
    key = 'val_dataloader.dataset.data_root'
    cfg = load(monkeypatch, '--data-root', '/new', '--cfg-options', f'{key}=/one/')
    assert roots(cfg) == ['/new/', '/one/', '/new/']
    monkeypatch.setenv(DATA_ROOT_VARIABLE, '')  # nothing moves
    assert roots(load(monkeypatch)) == roots(get_config(SHAPES)) == ['data/shapes/'] * 3
