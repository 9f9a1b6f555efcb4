from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghmdet.datasets import read_coco
from ghmdet.datasets.coco_file import match_classes
from ghmdet.datasets.coco_records import CategoryRecord, CocoRecords


@pytest.fixture
def coco() -> dict:
    images = [
        {'id': number, 'file_name': f'{number}.jpg', 'width': 100, 'height': 80}
        for number in (30, 10)
    ]
    annotations = [
        {'id': number, 'image_id': 30, 'category_id': 9, 'bbox': [1, 2, 3, 4]} for number in (1, 2)
    ]
    categories = [{'id': 9, 'name': 'dog'}, {'id': 4, 'name': 'cat'}]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def read_back(coco: dict, folder: Path) -> CocoRecords:
    (folder / 'ann.json').write_text(json.dumps(coco))
    return read_coco(str(folder / 'ann.json'))


@pytest.mark.parametrize(
    ('section', 'index', 'change', 'words'),
    [
        ('images', 1, {'id': [1]}, r'images\[1\]: id must be a number or a str, got \[1\]'),
        ('images', 1, {'file_name': 7}, 'image id 10: file_name must be a str, got 7'),
        ('images', 1, {'width': True}, 'got 80 and True'),
        ('images', 1, {'file_name': None}, r'images\[1\] lacks file_name'),
        ('images', 1, {'height': 0}, r'image id 10 \(10.jpg\): height and width .* got 0 and 100'),
        ('images', 1, {'width': '9'}, "got 80 and '9'"),
        ('images', 1, {'id': 30}, r'image id 30 \(10.jpg\) is used twice'),
        ('annotations', 1, {'image_id': 77}, 'annotation id 2: no image has its image_id 77'),
        ('annotations', 1, {'image_id': None}, r'annotations\[1\] \(id 2\) lacks image_id'),
        ('annotations', 1, {'bbox': None}, 'lacks bbox'),
        ('annotations', 1, {'bbox': [1, 2, 3]}, r'annotation id 2: bbox .*, got \[1, 2, 3\]'),
        ('annotations', 1, {'bbox': [1, 2, 3, float('nan')]}, r'got \[1, 2, 3, nan\]'),
        ('annotations', 1, {'bbox': [1, 2, 3, '4']}, r"got \[1, 2, 3, '4'\]"),
        ('annotations', 1, {'area': 'big'}, "annotation id 2: area .*, got 'big'"),
        (
            'annotations',
            1,
            {'category_id': {}},
            'id 2: category_id must be a number or a str, got {}',
        ),
        ('categories', 1, {'id': []}, r'categories\[1\]: id must be a number or a str, got \[\]'),
        ('categories', 1, {'name': None}, r'categories\[1\] lacks name'),
        ('categories', 1, {'name': 5}, 'category id 4: name must be a str, got 5'),
    ],
)
def test_broken_entries_are_named(tmp_path, coco, section, index, change, words):
    """A change to None removes the key."""
    entry = coco[section][index] | change
    coco[section][index] = {key: value for key, value in entry.items() if value is not None}
    with pytest.raises(ValueError, match=words):
        read_back(coco, tmp_path)


def test_entries_that_are_no_objects_and_long_lists_are_shortened(tmp_path, coco):
    coco['annotations'] = [3] * 7
    words = r'7 broken entries: annotations\[0\] \(id None\) lacks image_id, .*; and 2 more'
    with pytest.raises(ValueError, match=words):
        read_back(coco, tmp_path)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'{"images": [}', 'broken JSON at line 1, column 13'),
        (b'{"images": [],\n "annotations"', 'broken JSON at line 2, column 15'),
        (b'\xff\xfe\xfa\xfb\xff', 'expected a JSON text file'),
        (b'[]', "lists images, annotations, categories; 'images' is missing or no list, got list"),
        (b'{"images": [], "annotations": {}}', "'annotations' .*, got the keys .'annotations', 'i"),
        (b'{"images": [], "annotations": []}', "'categories' is missing"),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, words):
    file = tmp_path / 'ann.json'
    file.write_bytes(content)
    with pytest.raises(ValueError, match=words) as info:
        read_coco(str(file))
    assert str(file) in str(info.value)


def test_a_byte_order_mark_is_no_harm(tmp_path, coco):
    file = tmp_path / 'ann.json'
    for encoding in ('utf-8-sig', 'utf-16'):
        file.write_text(json.dumps(coco), encoding=encoding)
        assert [image.id for image in read_coco(str(file)).images] == [30, 10]


def test_annotations_may_be_absent_if_told_so(tmp_path, coco):
    del coco['annotations']
    with pytest.raises(ValueError, match="'annotations' is missing"):
        read_back(coco, tmp_path)
    read = read_coco(str(tmp_path / 'ann.json'), need_annotations=False)
    assert [image.id for image in read.images] == [30, 10]
    assert read.annotations.bbox.shape == (0, 4)


def test_a_name_used_twice_matters_only_if_asked_for():
    categories = [CategoryRecord(9, 'a'), CategoryRecord(4, 'a'), CategoryRecord(2, 'b')]
    assert match_classes(['b'], categories, 'ann.json') == [2]
    with pytest.raises(ValueError, match=r"ann.json: .* several ids for \{'a': \[9, 4\]\}"):
        match_classes(['b', 'a'], categories, 'ann.json')
