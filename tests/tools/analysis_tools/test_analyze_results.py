"""tools/analysis_tools/analyze_results.py: order of the images, tables and pictures."""

import csv
import json
import pickle
import re
import shlex
from pathlib import Path

import analyze_results
import cv2
import numpy as np
import pytest
import torch

from tests.data.golden.tide_sets import drawn_sets

NAMES = ('a/x.png', 'b/x.png', 'b/y.png', 'empty.png', 'quiet.png')
SQUARE = [20, 20, 100, 100]
OTHER = [300, 200, 100, 100]


def box(image, category, bbox, **more):
    return {'image_id': image, 'category_id': category, 'bbox': bbox, **more}


# By image: objects, then detections. 1: found, a false one. 2: one found, one missed.
# 3: three false ones. 4: nothing at all. 5: an object in a crowd region, which does not count.
OBJECTS = [
    box(1, 1, SQUARE),
    box(2, 1, SQUARE),
    box(2, 2, OTHER),
    box(5, 1, SQUARE, iscrowd=1),
]
DETECTIONS = [
    box(1, 1, SQUARE, score=0.9),
    box(1, 2, SQUARE, score=0.31),
    box(1, 2, OTHER, score=0.29),
    box(2, 1, SQUARE, score=0.3),
    box(3, 1, SQUARE, score=0.5),
    box(3, 1, OTHER, score=0.5),
    box(3, 2, OTHER, score=0.6),
    box(5, 1, SQUARE, score=0.7),
]
TRUTH = {
    'images': [
        {'id': i, 'file_name': name, 'width': 640, 'height': 480} for i, name in enumerate(NAMES, 1)
    ],
    'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
    'annotations': [{'id': i, 'iscrowd': 0, **each} for i, each in enumerate(OBJECTS, 1)],
}


def analyse(folder, *options, truth=TRUTH, results=DETECTIONS):
    for name, content in (('truth', truth), ('results', results)):
        (folder / f'{name}.json').write_text(json.dumps(content))
    files = [str(folder / f'{name}.json') for name in ('results', 'truth')]
    analyze_results.main([*files, str(folder / 'out'), *map(str, options)])


def table(folder, name):
    with (folder / 'out' / f'{name}.csv').open(encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def write_images(folder):
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), np.full((480, 640, 3), 255, np.uint8))


def test_tables(tmp_path, capsys):
    analyse(tmp_path)
    columns = ['file_name', 'f1', 'objects', 'found', 'missed', 'detections', 'false_positives']
    found = [[row[name] for name in columns] for row in table(tmp_path, 'images')]
    assert found == [
        ['b/y.png', '0.0', '0', '0', '0', '3', '3'],
        ['a/x.png', str(2 / 3), '1', '1', '0', '2', '1'],
        ['b/x.png', str(2 / 3), '2', '1', '1', '1', '0'],
        ['empty.png', '1.0', '0', '0', '0', '0', '0'],
        ['quiet.png', '1.0', '0', '0', '0', '0', '0'],
    ]
    assert [row['rank'] for row in table(tmp_path, 'images')] == ['1', '2', '3', '4', '5']
    assert [list(row.values()) for row in table(tmp_path, 'classes')] == [
        ['cat', '2', '2', '0', '4', '2'],
        ['dog', '1', '0', '1', '2', '2'],
        ['all', '3', '2', '1', '6', '4'],
    ]
    out = capsys.readouterr().out
    assert '3 of 5 images have errors' in out
    assert 'F1 0.000  b/y.png: 0 of 0 found, 3 false' in out


def test_of_equal_f1_more_errors_are_worse(tmp_path):
    """Both images have F1 0; the second has two errors, the first one."""
    truth = {**TRUTH, 'annotations': []}
    results = [box(1, 1, SQUARE, score=1), box(2, 1, SQUARE, score=1), box(2, 2, SQUARE, score=1)]
    analyse(tmp_path, truth=truth, results=results)
    assert [row['image_id'] for row in table(tmp_path, 'images')] == ['2', '1', '3', '4', '5']


def test_the_threshold(tmp_path):
    analyse(tmp_path, '--show-score-thr', 0.55)
    counts = {row['file_name']: row['detections'] for row in table(tmp_path, 'images')}
    assert counts == dict(zip(NAMES, '10100', strict=True))


def pictures(folder, name):
    return sorted(file.name for file in (folder / 'out' / name).iterdir())


def test_pictures(tmp_path, capsys):
    write_images(tmp_path)
    analyse(tmp_path, '--img-dir', tmp_path)
    bad = ['001_0.000_y.jpg', '002_0.667_x.jpg', '003_0.667_x.jpg']
    assert pictures(tmp_path, 'bad') == bad
    assert pictures(tmp_path, 'good') == ['001_1.000_quiet.jpg', '002_1.000_empty.jpg']
    assert '5 pictures' in capsys.readouterr().out
    # Of b/x.png: found, missed; the detection. Then of a/x.png, where a dog hides the cat.
    for name, points in {
        bad[2]: {(20, 120): 'green', (300, 300): 'red', (660, 120): 'green', (940, 300): 'white'},
        bad[1]: {(20, 120): 'green', (300, 300): 'white', (660, 120): 'green'},
        bad[0]: {(20, 120): 'white', (660, 120): 'red', (940, 300): 'red'},
    }.items():
        picture = cv2.imread(str(tmp_path / 'out' / 'bad' / name)).astype(int)
        for (x, y), color in points.items():
            _, g, r = picture[y, x]
            expected = {'green': g > r + 60, 'red': r > g + 60, 'white': min(g, r) > 230}
            assert expected[color], (name, x, y, picture[y, x])
    # Fewer, in place of those of the earlier run.
    analyse(tmp_path, '--img-dir', tmp_path, '--topk', 1)
    assert pictures(tmp_path, 'bad') == bad[:1]
    assert pictures(tmp_path, 'good') == ['001_1.000_quiet.jpg']


def test_images_that_are_missing_leave_the_tables(tmp_path, capsys):
    write_images(tmp_path)
    (tmp_path / 'b' / 'y.png').unlink()
    analyse(tmp_path, '--img-dir', tmp_path)
    assert len(table(tmp_path, 'images')) == 5
    assert pictures(tmp_path, 'bad') == ['002_0.667_x.jpg', '003_0.667_x.jpg']
    out = capsys.readouterr().out
    assert '4 pictures; 1 images could not be read and have none, the first: image' in out
    assert 'b/y.png' in out.split('could not be read')[1]


def test_ground_truth_has_no_errors(tmp_path, capsys):
    truth, results = drawn_sets()['perfect']
    analyse(tmp_path, truth=truth, results=results)
    assert f'0 of {len(truth["images"])} images have errors' in capsys.readouterr().out
    assert {row['f1'] for row in table(tmp_path, 'images')} == {'1.0'}
    for row in table(tmp_path, 'classes'):
        assert row['objects'] == row['found'] == row['detections']
        assert (row['missed'], row['false_positives']) == ('0', '0')


def test_without_detections(tmp_path, capsys):
    analyse(tmp_path, results=[])
    assert [row['f1'] for row in table(tmp_path, 'images')] == ['0.0', '0.0', '1.0', '1.0', '1.0']
    assert '2 of 5 images have errors' in capsys.readouterr().out


@pytest.mark.follows('--show cannot open a window')
def test_show_needs_a_display(tmp_path, monkeypatch):
    write_images(tmp_path)
    with pytest.raises(ValueError, match='--show cannot open a window.* Leave it out'):
        analyse(tmp_path, '--show', '--img-dir', tmp_path)
    analyse(tmp_path, '--img-dir', tmp_path)
    assert len(pictures(tmp_path, 'bad')) == 3


def test_a_config_and_a_pickle_in_the_order_of_mmdetection(tmp_path):
    """The images of the config's dataset are measured: here all but the third."""
    write_images(tmp_path / 'images')
    (tmp_path / 'truth.json').write_text(json.dumps(TRUTH))
    (tmp_path / 'config.py').write_text(
        "test_dataloader = dict(dataset=dict(type='CocoDataset', ann_file='truth.json', "
        f"data_root={str(tmp_path)!r}, data_prefix=dict(img='images/'), test_mode=True, "
        "metainfo=dict(classes=('dog', 'cat')), indices=[0, 1, 3, 4], pipeline=[]))\n"
        f"test_evaluator = dict(type='CocoMetric', ann_file={str(tmp_path / 'truth.json')!r})\n"
    )
    found = []
    for image in (5, 4, 2, 1):
        own = [each for each in DETECTIONS if each['image_id'] == image]
        boxes = torch.tensor([each['bbox'] for each in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = {
            'bboxes': boxes.float(),
            'scores': torch.tensor([each['score'] for each in own]),
            'labels': torch.tensor([2 - each['category_id'] for each in own]),
        }
        found.append({'img_id': image, 'pred_instances': instances})
    (tmp_path / 'found.pkl').write_bytes(pickle.dumps(found))
    files = [str(tmp_path / name) for name in ('config.py', 'found.pkl', 'out')]
    analyze_results.main([*files, '--topk', '1'])
    columns = ['file_name', 'f1', 'objects', 'found', 'detections']
    assert [[row[name] for name in columns] for row in table(tmp_path, 'images')] == [
        ['a/x.png', str(2 / 3), '1', '1', '2'],
        ['b/x.png', str(2 / 3), '2', '1', '1'],
        ['empty.png', '1.0', '0', '0', '0'],
        ['quiet.png', '1.0', '0', '0', '0'],
    ]
    assert [row['class'] for row in table(tmp_path, 'classes')] == ['dog', 'cat', 'all']
    assert pictures(tmp_path, 'bad') == ['001_0.667_x.jpg']


@pytest.mark.follows('--topk must not be negative')
def test_topk_is_not_negative(tmp_path, capsys):
    with pytest.raises(SystemExit):
        analyse(tmp_path, '--topk', -1)
    assert '--topk must not be negative, got -1' in capsys.readouterr().err
    analyse(tmp_path, '--topk', 0)
    assert pictures(tmp_path, 'bad') == []
    assert len(table(tmp_path, 'images')) == 5


def test_the_command_in_the_docs(tmp_path, monkeypatch):
    docs = Path(__file__).parents[3] / 'docs/judge/analysis.md'
    (command,) = re.findall(r'python \S+/analyze_results.py .*', docs.read_text())
    write_images(tmp_path / 'images')
    for name, content in (('annotations', TRUTH), ('found', DETECTIONS)):
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    analyze_results.main(shlex.split(command)[2:])
    assert len(list(tmp_path.glob('worst/*/*.jpg'))) == 5
