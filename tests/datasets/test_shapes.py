from __future__ import annotations

import json
import os
import random
import runpy
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghmdet.datasets import SHAPES_CLASSES, CocoDataset, draw_shapes
from ghmdet.datasets.shapes import _annotate_item, _draw_image, _Item

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'shapes.py'


@pytest.fixture(scope='module')
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('shapes')
    draw_shapes(out, {'train': 50, 'val': 10})
    return out


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_the_seed_is_all_that_matters(tmp_path):
    np.random.seed(5)
    random.seed(5)
    before = np.random.get_state()[1].tolist(), random.getstate()
    for folder in ('a', 'b'):
        draw_shapes(tmp_path / folder, {'train': 3, 'val': 2}, seed=1)
    draw_shapes(tmp_path / 'c', {'train': 3, 'val': 2}, seed=2)
    a, b, c = (read_tree(tmp_path / folder) for folder in 'abc')
    assert a == b
    assert a.keys() == c.keys()
    assert not any(a[name] == c[name] for name in a)
    # An image does not depend on the others.
    draw_shapes(tmp_path / 'd', {'val': 1, 'train': 2}, seed=1)
    d = read_tree(tmp_path / 'd')
    assert d['train/00002.jpg'] == a['train/00002.jpg']
    assert d['val/00001.jpg'] == a['val/00001.jpg'] != a['train/00001.jpg']
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


def test_all_that_a_detector_meets_is_there(drawn):
    coco = json.loads((drawn / 'annotations' / 'train.json').read_text())
    images, annotations = coco['images'], coco['annotations']
    assert [image['id'] for image in images] == list(range(1, 51))
    assert [ann['id'] for ann in annotations] == list(range(1, len(annotations) + 1))
    assert [category['name'] for category in coco['categories']] == list(SHAPES_CLASSES)
    assert {(i['width'], i['height']) for i in images} == {(256, 192), (192, 256)}
    objects = [ann for ann in annotations if not ann['iscrowd']]
    sizes = Counter(np.searchsorted([32**2, 96**2], ann['area']) for ann in objects)
    assert min(sizes[0], sizes[1], sizes[2]) >= 4
    assert min(Counter(ann['category_id'] for ann in objects).values()) >= 20
    # Every 25th image from the first has a crowd, every 20th from the tenth is empty.
    crowds = [ann['image_id'] for ann in annotations if ann['iscrowd']]
    assert crowds == [1, 26]
    assert set(range(1, 51)) - {ann['image_id'] for ann in annotations} == {10, 30, 50}
    assert max(Counter(ann['image_id'] for ann in objects).values()) == 5


def test_boxes_lie_in_the_image_and_hold_their_area(drawn):
    for split in ('train', 'val'):
        dataset = CocoDataset(
            f'{drawn}/annotations/{split}.json', metainfo={'classes': SHAPES_CLASSES}
        )
        assert len(dataset) == {'train': 50, 'val': 10}[split]
        coco = json.loads((drawn / 'annotations' / f'{split}.json').read_text())
        sizes_wh = {image['id']: (image['width'], image['height']) for image in coco['images']}
        for image in coco['images']:
            picture = cv2.imread(str(drawn / split / image['file_name']))
            assert picture.shape == (image['height'], image['width'], 3)
        for ann in coco['annotations']:
            (x, y, w, h), (width, height) = ann['bbox'], sizes_wh[ann['image_id']]
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
            assert 0.2 * w * h < ann['area'] <= w * h


def test_annotation_is_of_the_visible_pixels():
    visible = np.zeros((10, 12), bool)
    visible[2:5, 3:9] = True
    visible[2, 3] = False
    ann = _annotate_item(_Item(2, visible, 30, is_crowd=True), 7)
    assert ann == {'image_id': 7, 'category_id': 3, 'bbox': [3, 2, 6, 3], 'area': 17, 'iscrowd': 1}


def test_nothing_is_hidden_by_more_than_two_fifths():
    shares = []
    for seed in range(40):
        _, items = _draw_image(np.random.RandomState(seed), index=0)
        assert np.sum([item.visible for item in items], axis=0).max() == 1
        shares += [item.visible.sum() / item.num_pixels for item in items]
    assert 0.6 <= min(shares) < 0.7
    assert np.mean(np.array(shares) < 1) > 0.05


def test_colours_stand_out_from_the_background(drawn):
    """The median object differs from its surroundings by over 100 of 441 grey levels."""
    coco = json.loads((drawn / 'annotations' / 'val.json').read_text())
    contrasts = []
    for ann in coco['annotations']:
        picture = cv2.imread(str(drawn / 'val' / f'{ann["image_id"]:05d}.jpg')).astype(float)
        x, y, w, h = ann['bbox']
        inside = picture[y + h // 2 - 2 : y + h // 2 + 3, x + w // 2 - 2 : x + w // 2 + 3]
        outside = np.concatenate([picture[y, x : x + w], picture[max(0, y - 3), x : x + w]])
        contrasts.append(np.linalg.norm(inside.mean((0, 1)) - np.median(outside, axis=0)))
    assert np.median(contrasts) > 100


def test_a_killed_run_leaves_no_annotation_file(tmp_path, monkeypatch):
    draw_shapes(tmp_path, {'train': 2, 'val': 1})

    def stop(*_) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_shapes(tmp_path, {'train': 2, 'val': 1}, on_image=stop)
    assert [file.name for file in (tmp_path / 'annotations').iterdir()] == ['val.json']

    monkeypatch.setattr(os, 'replace', stop)
    with pytest.raises(KeyboardInterrupt):
        draw_shapes(tmp_path, {'train': 2})
    assert [file.name for file in (tmp_path / 'annotations').iterdir()] == ['val.json']


@pytest.mark.parametrize(
    ('num_images', 'seed'),
    [({'train': 0}, 0), ({'train': 2, 'val': -1}, 0), ({}, 0), ({'a': 1}, -1)],
)
def test_wrong_numbers(tmp_path, num_images, seed):
    with pytest.raises(ValueError, match=rf'at least 1 image .* got seed {seed} and \{{'):
        draw_shapes(tmp_path / 'out', num_images, seed)
    assert not (tmp_path / 'out').exists()


def test_the_tool(tmp_path, capsys, monkeypatch):
    main = runpy.run_path(str(TOOL))['main']
    args = ['--out', str(tmp_path / 'out'), '--train', '2', '--val', '1', '--seed', '3']
    main(args)
    assert '1/2' not in capsys.readouterr().out  # of a pipe
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    main(args)
    progress = capsys.readouterr().out.replace('\r', '\n').split()[:6]
    assert progress == ['train', '1/2', 'train', '2/2', 'val', '1/1']
    draw_shapes(tmp_path / 'same', {'train': 2, 'val': 1}, seed=3)
    assert read_tree(tmp_path / 'out') == read_tree(tmp_path / 'same')
