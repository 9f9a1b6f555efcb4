"""The audit of a dataset: every entry and image, whatever is wrong with the others."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from ghmdet.checks import decode_images
from ghmdet.checks.audit_report import draw_picture, write_report
from ghmdet.checks.dataset_audit import Picture, check_dataset
from ghmdet.checks.decode_images import ImageJob
from ghmdet.datasets import CocoDataset


def make_set(folder: Path) -> dict:
    """Four images of 100 x 80 pixels, one box each and a second one on the last."""
    (folder / 'images').mkdir()
    for number in range(4):
        image = np.full((80, 100, 3), 40 * number, np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{number}.png'), image)
    boxes = [[10, 20, 30, 40], [0, 0, 100, 80], [1, 1, 16, 4], [5, 5, 10, 10], [5, 5, 70, 70]]
    return {
        'images': [
            {'id': n, 'file_name': f'{n}.png', 'width': 100, 'height': 80} for n in range(4)
        ],
        'annotations': [
            {'id': n, 'image_id': min(n, 3), 'category_id': 1 + n % 2, 'bbox': bbox}
            for n, bbox in enumerate(boxes)
        ],
        'categories': [{'id': 2, 'name': 'dog'}, {'id': 1, 'name': 'c<a>t'}],
    }


@pytest.fixture
def coco(tmp_path) -> dict:
    return make_set(tmp_path)


def check(folder: Path, coco: dict, **kwargs):
    (folder / 'ann.json').write_text(json.dumps(coco))
    dataset = CocoDataset(
        str(folder / 'ann.json'),
        data_prefix={'img': str(folder / 'images')},
        metainfo={'classes': ('dog', 'c<a>t')},
        lazy_init=True,
        **kwargs,
    )
    return check_dataset(dataset, 'train', workers=0)


def list_findings(audit) -> list[tuple]:
    return [(f.kind, f.is_error, f.count, f.texts) for f in audit.findings]


def test_nothing_is_found_in_a_valid_dataset(tmp_path, coco):
    """Sides are 34.6, 89.4, 8, 10 and 70 pixels; dogs are the second and the fourth box."""
    audit = check(tmp_path, coco)
    assert list_findings(audit) == []
    assert audit.notes == ['4 images, 4 used; dropped: none. 5 boxes, 5 used; dropped: none']
    tables = {title: dict(rows) for title, rows in audit.statistics.items()}
    assert tables['boxes by class'] == {'dog': 2, 'c<a>t': 3}
    counts = {name: n for name, n in tables['boxes per image'].items() if n}
    assert counts == {'1': 3, '2 to 5': 1}
    sides = tables['boxes by side (square root of the area in pixels)']
    assert {name: n for name, n in sides.items() if n} == {
        '8 to 16': 2,
        '32 to 64': 1,
        '64 to 96': 2,
    }
    assert tables['images by width x height (most frequent)'] == {'100x80': 4}


def test_all_kinds_are_found_at_once(tmp_path, coco):
    images, anns = coco['images'], coco['annotations']
    (tmp_path / 'images' / '0.png').write_bytes(b'no image')
    cv2.imwrite(str(tmp_path / 'images' / '1.png'), np.zeros((50, 60, 3), np.uint8))
    images.append({'id': 4, 'file_name': 'gone.png', 'width': 100, 'height': 80})
    images.append({'id': 5, 'file_name': '../2.png', 'width': 100, 'height': 80})
    images.append({'id': 6, 'file_name': '3.png', 'width': 100, 'height': 80})
    images.append({'id': 7, 'file_name': '3.png', 'width': 0, 'height': 80})
    box = {'image_id': 2, 'category_id': 1}
    anns.append(box | {'id': 10, 'bbox': [1, 2, 0, 4]})
    anns.append(box | {'id': 11, 'bbox': [200, 2, 9, 4]})
    anns.append(box | {'id': 12, 'bbox': [90, 2, 30, 4]})
    anns.append(box | {'id': 13, 'bbox': ['90', 2, 30, 4]})
    anns.append({'id': 14, 'image_id': 7, 'category_id': 1, 'bbox': [1, 2, 3, 4]})
    anns.append({'id': 15, 'image_id': 0, 'category_id': 8, 'bbox': [1, 2, 3, 4]})
    audit = check(tmp_path, coco)
    found = {kind: (is_error, count) for kind, is_error, count, _ in list_findings(audit)}
    assert found == {
        # id 14 is of an image that is itself broken, and so not counted again.
        'entry of the annotation file': (True, 3),
        'box skipped, without width or height': (False, 1),
        'box skipped, outside the image': (False, 1),
        'box used, more than a pixel beyond the image': (False, 1),
        'file name': (False, 1),
        'file name that leads out of the image folder': (True, 1),
        'image file': (True, 3),
    }
    assert audit.num_errors == 7
    texts = ' | '.join(text for finding in audit.findings for text in finding.texts)
    for words in (
        'annotation id 13 of image id 2: bbox must be four',
        'image id 7 (3.png): height and width must be positive numbers up to 1e9, got 80 and 0',
        'annotation id 15 of image id 0: no category has its category_id 8',
        'annotation id 10 of image id 2: [1, 2, 0, 4]',
        'annotation id 11 of image id 2: [200, 2, 9, 4]',
        "'3.png' is the file of 2 images",
        "'../2.png'",
        '0.png cannot be read as an image',
        '1.png is 60x50 (width x height) but the annotation file says 100x80 (image id 1)',
        'gone.png does not exist (image id 4)',
    ):
        assert words in texts
    shown = {f.kind: [Path(p.path).name for p in f.pictures] for f in audit.findings if f.pictures}
    assert shown.pop('image file') == ['1.png']
    assert list(shown.values()) == [['2.png'], ['2.png'], ['2.png']]


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('{"images": [', 'broken JSON at line 1, column 13'),
        ('[]', 'expected a COCO file'),
        ('{"images": [], "categories": []}', "'annotations' is missing"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_finding(tmp_path, content, words):
    (tmp_path / 'ann.json').write_text(content)
    dataset = CocoDataset(str(tmp_path / 'ann.json'), lazy_init=True)
    (finding,) = check_dataset(dataset, 'train', workers=0).findings
    assert finding.kind == 'annotation file'
    assert words in finding.texts[0]


def test_filters_and_classes_are_those_of_the_dataset(tmp_path, coco):
    (finding,) = check(tmp_path, coco, filter_cfg={'min_size': 81}).findings
    assert 'no usable image' in finding.texts[0]
    assert '4 smaller (filter_cfg.min_size=81)' in finding.texts[0]
    coco['categories'][0]['name'] = 'dgo'
    (finding,) = check(tmp_path, coco).findings
    assert (finding.kind, finding.count) == ('classes', 1)
    assert "'dog' (did you mean 'dgo'?)" in finding.texts[0]


def die(job: ImageJob):
    """Replace the decoder in the other process, a fork of this one."""
    if job.path == 'evil':
        os._exit(9)
    return decode_images.DecodeResult()


def test_an_image_that_kills_its_process_stops_no_other(monkeypatch):
    """A chunk is lost with the process, its images are then tried one by one."""
    monkeypatch.setattr(decode_images, '_decode', die)
    monkeypatch.setattr(decode_images, '_CHUNK', 2)
    monkeypatch.setattr(decode_images, '_START_METHOD', 'fork')
    paths = ['a', 'b', 'evil', 'c', 'd', 'e', 'f', 'g', 'h']
    jobs = {path: ImageJob(path, (1, 1), 'color', 9) for path in paths}
    results = dict(decode_images.decode_images(jobs, workers=2))
    assert sorted(results) == sorted(paths)
    errors = {path: result.error for path, result in results.items() if result.error}
    assert errors == {'evil': 'image evil kills the process that decodes it'}


def test_the_report_quotes_names_and_holds_its_pictures(tmp_path, coco):
    coco['images'][0]['file_name'] = '<b>.png'
    coco['annotations'][1]['bbox'] = [50, 40, 0, 0]
    write_report([check(tmp_path, coco)], tmp_path / 'out')
    text = (tmp_path / 'out' / 'report.txt').read_text()
    assert f'boxes by class:\n    dog   {1:>10}\n    c<a>t {3:>10}\n' in text
    assert 'warning: 1 x box skipped, without width or height\n    annotation id 1 of image' in text
    assert 'error: 1 x image file\n    image ' in text
    page = (tmp_path / 'out' / 'report.html').read_text()
    assert '&lt;b&gt;.png does not exist' in page
    assert '<b>' not in page
    assert '<a>' not in page
    (code,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    (picture,) = (tmp_path / 'out' / 'pictures').iterdir()
    assert base64.b64decode(code) == picture.read_bytes()


def test_boxes_beyond_the_image_are_drawn_in_a_margin(tmp_path):
    """The margin is 4 pixels and what the box needs, at most the size of the image."""
    cv2.imwrite(str(tmp_path / 'x.png'), np.full((40, 60, 3), 7, np.uint8))
    path = str(tmp_path / 'x.png')
    drawn = draw_picture(Picture(path, (60, 40), [[50, -10, 30, 20]], ''))
    assert drawn.shape == (10 + 40 + 8, 60 + 20 + 8, 3)
    assert drawn[14, 4].tolist() == [7, 7, 7]
    assert drawn[4, 54].tolist() == drawn[24, 84].tolist() == [0, 0, 255]
    assert drawn[3, 54].tolist() == [99, 99, 99]
    drawn = draw_picture(Picture(path, (60, 40), [[-1e9, 0, 2e9, 5]], ''))
    assert drawn.shape[1] == 30 + 60 + 30 + 8
    drawn = draw_picture(Picture('nowhere.png', (10**9, 10), [[0, 0, 9, 9]], ''))
    assert drawn.shape[1] == 320 + 8


def test_the_tool_finds_the_images_beside_a_json_and_counts_errors(tmp_path, coco, run_tool):
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    code, stdout, stderr = run_tool('check_dataset.py', 'ann.json', '--workers', 2)
    assert code == 0, stderr
    assert stdout == (
        '== ann.json: ann.json\n4 images, 4 used; dropped: none. 5 boxes, 5 used; dropped: none\n'
        'no errors or warnings\n\nreport: check_ann/report.html and check_ann/report.txt\n'
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob('*.*g')}
    (tmp_path / 'images' / '2.png').unlink()
    args = ('ann.json', '--out', 'here', '--workers', 0)
    code, stdout, stderr = run_tool('check_dataset.py', *args)
    assert code == 1
    assert 'error: 1 x image file\n    image images/2.png does not exist' in stdout
    assert 'error: ann.json: 1 errors in the data, see above and the report' in stderr
    assert all(path.read_bytes() == content for path, content in before.items() if path.exists())


def test_the_tool_checks_each_dataset_of_a_config(tmp_path, coco, run_tool):
    """Val and test are the same and checked once; its one image is too small for no filter."""
    (tmp_path / 'train.json').write_text(json.dumps(coco))
    coco['annotations'][0]['image_id'] = 99
    (tmp_path / 'val.json').write_text(json.dumps(coco))
    (tmp_path / 'config.py').write_text(
        """
common = dict(type='CocoDataset', data_prefix=dict(img='images'), metainfo=dict(classes=('dog',)))
train_dataloader = dict(dataset=dict(
    type='RepeatDataset', times=2,
    dataset=dict(ann_file='train.json', data_root='wrong', filter_cfg=dict(min_size=8), **common)))
val_dataloader = dict(
    dataset=dict(ann_file='val.json', data_root='wrong', test_mode=True, **common))
test_dataloader = val_dataloader
"""
    )
    args = ('config.py', '--data-root', tmp_path, '--out', 'out', '--workers', 0)
    code, stdout, stderr = run_tool('check_dataset.py', *args)
    assert code == 1, stderr
    lines = stdout.splitlines()
    assert f'== train_dataloader.dataset.dataset: {tmp_path}/train.json' in lines
    assert any(
        '4 images, 4 used (2 without boxes); dropped: 0 smaller (filter_cfg.min_size=8). 5 boxes, '
        '2 used; dropped: 3 of other classes' in line
        for line in lines
    )
    assert f'== val_dataloader.dataset, test_dataloader.dataset: {tmp_path}/val.json' in lines
    assert any('annotation id 0 of image id 99: no image has its image_id 99' in s for s in lines)
