"""`RESULTS ANN` and `CONFIG RESULTS`, which the tools on detections share."""

import argparse
import json
from pathlib import Path

import pytest
from results import arguments as results_arguments

from tests.evaluation.test_matching import annotations

CONFIG = """
test_dataloader = dict(
    dataset=dict(
        type='CocoDataset',
        data_root={root!r},
        ann_file='truth.json',
        data_prefix=dict(img='photos/'),
        test_mode=True,
        pipeline=[],
    )
)
test_evaluator = dict(type='CocoMetric')
"""
ENTRIES = [
    dict(image_id=1, category_id=7, bbox=[0, 0, 10, 10], score=0.9),
    dict(image_id=2, category_id=5, bbox=[0, 0, 10, 10], score=0.8),
]


def write_set(folder, boxes=((1, 'cat', 0, 0, 10, 10), (2, 'dog', 0, 0, 10, 10)), ids=(1, 2)):
    """Write truth.json, found.json and config.py."""
    annotations(boxes, folder, ids)
    (folder / 'found.json').write_text(json.dumps(ENTRIES))
    (folder / 'config.py').write_text(CONFIG.format(root=f'{folder}/'))
    (folder / 'photos').mkdir(exist_ok=True)


def read(*argv, images=True):
    parser = argparse.ArgumentParser()
    results_arguments.add_results_arguments(parser, images)
    return results_arguments.read_results(parser.parse_args([str(each) for each in argv]))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_and_annotations(folder):
    results = read('found.json', 'truth.json')
    assert [image['img_id'] for image in results.images] == [1, 2]
    assert results.classes == ('owl', 'dog', 'cat')  # in the order of the ids
    assert [image['labels'].tolist() for image in results.images] == [[2], [1]]
    assert results.img_dir == Path('.')
    assert read('found.json', 'truth.json', '--img-dir', 'photos').img_dir == Path('photos')
    assert results.match().detections.is_true.tolist() == [True, True]


def test_config_and_results(folder):
    results = read('config.py', 'found.json')
    assert results.classes == ('owl', 'dog', 'cat')
    assert results.img_dir == folder / 'photos'
    assert results.metric['ann_file'] == f'{folder}/truth.json'
    # The classes and images of the config.
    option = 'test_dataloader.dataset.metainfo.classes'
    chosen = read('config.py', 'found.json', '--cfg-options', f'{option}=("dog","cat")')
    assert [image['labels'].tolist() for image in chosen.images] == [[1], [0]]
    first = read('config.py', 'found.json', '--cfg-options', 'test_dataloader.dataset.indices=1')
    assert [image['img_id'] for image in first.images] == [1]
    assert first.match().count_objects().tolist() == [0, 0, 1]
    (folder / 'moved').mkdir()
    (folder / 'truth.json').rename(folder / 'moved/truth.json')
    moved = read('config.py', 'found.json', '--data-root', folder / 'moved')
    assert moved.match().detections.is_true.tolist() == [True, True]
    assert moved.img_dir is None  # there are no images, nor are they needed


def test_the_rule_for_boxes_is_that_of_the_config(folder):
    write_set(folder, [(1, 'cat', 0, 0, 10, 10, dict(ignore=1))])
    assert read('config.py', 'found.json').match().count_objects().sum() == 0
    option = 'test_evaluator.box_rule=pycocotools'
    both = read('config.py', 'found.json', '--cfg-options', option)
    assert both.match().count_objects().sum() == 1


@pytest.mark.follows('--cfg-options needs a config: CONFIG RESULTS in place of RESULTS ANN')
@pytest.mark.follows('one COCO file; or give RESULTS ANN in place of CONFIG RESULTS')
def test_what_is_missing_is_named(folder):
    with pytest.raises(ValueError, match='--cfg-options needs a config'):
        read('found.json', 'truth.json', '--cfg-options', 'a=1')
    with pytest.raises(FileNotFoundError, match=r"no annotation file Truth.json, but .* 'truth.js"):
        read('found.json', 'Truth.json')
    (folder / 'bare.py').write_text('test_dataloader = None\n')
    with pytest.raises(ValueError, match='bare.py: needs a test_dataloader'):
        read('bare.py', 'found.json')
    assert len(read('config.py', 'found.json', '--cfg-options', 'a=1').images) == 2
    assert len(read('found.json', 'truth.json').images) == 2


@pytest.mark.follows('must be a number above 0 and at most 1, got {}')
def test_shares():
    for text in ('0', '1.5', 'nan', 'half'):
        with pytest.raises(argparse.ArgumentTypeError, match=f'above 0 .* got {text}'):
            results_arguments.check_share(text)
    assert results_arguments.check_share('1') == 1
