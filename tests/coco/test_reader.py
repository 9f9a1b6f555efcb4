from __future__ import annotations

import json
from pathlib import Path

import pytest

from ghmdet.coco.reader import read_coco, read_coco_json
from ghmdet.coco.records import CocoRecords, convert_records


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


# Changes of the second entry of a list, and the message; None removes a key, or is no error.
CHANGES = {
    'images': [
        ({'id': [1]}, r'image id \[1\] \(10.jpg\): id must be a number or a str, got \[1\]'),
        ({'file_name': 7}, 'image id 10: file_name must be a str, got 7'),
        ({'width': True}, r'image id 10 \(10.jpg\): width must be a positive number, got True'),
        ({'file_name': None}, 'image id 10 lacks file_name'),
        ({'height': 0}, r'image id 10 \(10.jpg\): height and width .* got 0 and 100'),
        ({'width': '9'}, "width must be a positive number, got '9'"),
        ({'id': 30}, r'image id 30 is used twice, again by images\[1\]'),
        ({'file_name': ''}, "image id 10: file_name must name a file, got ''"),
        ({'file_name': 'a\0b'}, r"file_name must name a file, got 'a\\x00b'"),
        ({'file_name': '\ud800'}, r"file_name must name a file, got '\\ud800'"),
        ({'height': 10**400}, 'positive numbers up to 1e9, got 1000.* and 100'),
        ({'width': -5.5}, 'up to 1e9, got 80 and -5.5'),
        ({'width': None}, r'image id 10 \(10.jpg\) lacks width'),
        ({'id': 30.0}, r'image id 30.0 is used twice'),
        ({'id': float('nan')}, 'id must be a number or a str, got NaN'),
        ({'id': '10'}, None),
    ],
    'annotations': [
        ({'image_id': 77}, 'annotation id 2 of image id 77: no image has its image_id 77'),
        ({'image_id': None}, 'annotation id 2 lacks image_id'),
        ({'bbox': None}, 'lacks bbox'),
        ({'bbox': [1, 2, 3]}, r'id 2 of image id 30: bbox must be four .*, got \[1, 2, 3\]'),
        ({'bbox': [1, 2, 3, float('nan')]}, r'got \[1, 2, 3, NaN\]'),
        ({'bbox': [1, 2, 3, '4']}, r"got \[1, 2, 3, '4'\]"),
        ({'area': 'big'}, "annotation id 2 .*: area must be a finite number, got 'big'"),
        ({'category_id': {}}, 'id 2 of .* 30: category_id must be a number or a str, got {}'),
        ({'id': 1}, r'annotation id 1 is used twice, again by annotations\[1\]'),
        ({'id': True}, 'annotation id 1 is used twice'),
        ({'id': {}}, r'annotation id {} of image id 30: id must be a number'),
        ({'id': None}, None),
        ({'id': '1'}, None),
        ({'id': 10**40}, None),
        ({'image_id': '30'}, "no image has its image_id '30'; there is 30, which is another"),
        ({'category_id': 5}, 'id 2 of image id 30: no category has its category_id 5'),
        ({'category_id': '9'}, "category_id '9'; there is 9, which is another type"),
        ({'category_id': 9.0}, None),
        ({'bbox': [1, 2, True, 4]}, r'got \[1, 2, True, 4\]'),
        ({'bbox': '1 2 3 4'}, "up to 1e9, got '1 2 3 4'"),
        ({'bbox': [1, 2, float('inf'), 4]}, r'got \[1, 2, Infinity, 4\]'),
        ({'bbox': [1e308, 2, 3, 4]}, r'got \[1e\+308, 2.0, 3.0, 4.0\]'),
        ({'bbox': [1, -2e9, 3, 4]}, r'got \[1.0, -2000000000.0, 3.0, 4.0\]'),
        ({'bbox': [1, 2, 3, 10**400]}, 'four finite numbers .*, got .*1000'),
        ({'bbox': [-1e9, 2, 1e9, 4]}, None),
        ({'bbox': [1, 2, 0, -4]}, None),
        ({'area': float('nan')}, 'area must be a finite number, got NaN'),
        ({'area': 1e308}, None),
        ({'iscrowd': '0'}, "iscrowd must be 0 or 1, got '0'"),
        ({'ignore': [0]}, r'ignore must be 0 or 1, got \[0\]'),
        ({'iscrowd': True, 'ignore': 0.0}, None),
    ],
    'categories': [
        ({'id': 9}, r'category id 9 is used twice, again by categories\[1\]'),
        ({'id': []}, r'category id \[\]: id must be a number or a str, got \[\]'),
        ({'name': None}, 'category id 4 lacks name'),
        ({'name': 5}, 'category id 4: name must be a str, got 5'),
    ],
}


@pytest.mark.parametrize(
    ('section', 'change', 'words'),
    [(section, *case) for section, cases in CHANGES.items() for case in cases],
)
def test_broken_entries_are_named(tmp_path, coco, section, change, words):
    entry = coco[section][1] | change
    coco[section][1] = {key: value for key, value in entry.items() if value is not None}
    if words is None:
        assert len(read_back(coco, tmp_path).annotations) == 2
        return
    with pytest.raises(ValueError, match=f'ann.json: 1 broken entries: .*{words}'):
        read_back(coco, tmp_path)


def test_entries_that_are_no_objects_and_long_lists_are_shortened(tmp_path, coco):
    coco['annotations'] = [3] * 7
    words = r'7 broken entries: annotations\[0\] must be an object, got 3 \(line 1, .*; and 2 more'
    with pytest.raises(ValueError, match=words):
        read_back(coco, tmp_path)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'{"images": [}', 'broken JSON at line 1, column 13'),
        (b'{"images": [],\n "annotations"', 'broken JSON at line 2, column 15'),
        (b'\xff\xfe\xfa\xfb\xff', 'in UTF-16-LE, but byte 0xff at offset 4 in line 1'),
        (b'{"images": [{"id":\n "\xff"}]}', 'in UTF-8, but byte 0xff at offset 21 in line 2'),
        (b'', r'the file is empty \(0 bytes\)'),
        (b'{"images": ' + 10**5 * b'[' + 10**5 * b']' + b'}', 'nested too deeply'),
        (10**5 * b'{"a":', 'nested too deeply'),
        (b'null', "'images' is missing or no list, got NoneType"),
        (b'[]', "lists images, annotations, categories; 'images' is missing or no list, got list"),
        (
            b'{"images": [], "annotations": {}}',
            "'annotations' is missing or no list, got a dict",
        ),
        (b'{"shapes": 1, "flags": {}}', r"or no list, got the keys \['flags', 'shapes'\]"),
        (b'<?xml version="1.0"?>', 'column 1: .* this may be another kind of file, such as XML'),
        (b'0 0.5 0.5 0.1 0.1', 'column 3: Extra data; this may be another kind of file'),
        (b'{"a": 1}\n{"a": 2}', 'line 2, column 1: Extra data; this may be another kind of file'),
        (b'var x = {"annotations": []}', 'line 1, column 1: .* another kind of file'),
        (b'{"images": [], "annotations": []}', "'categories' is missing"),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, words):
    file = tmp_path / 'ann.json'
    file.write_bytes(content)
    with pytest.raises(ValueError, match=words) as info:
        read_coco(str(file))
    assert str(file) in str(info.value)


@pytest.mark.parametrize(
    'encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32']
)
@pytest.mark.parametrize('line_end', ['\n', '\r\n'])
def test_files_of_windows(tmp_path, coco, encoding, line_end):
    """Lines and columns are those that an editor shows."""
    file, name = tmp_path / 'ann.json', 'caf\u00e9 \u732b.jpg'
    coco['images'][1]['file_name'] = name
    text = json.dumps(coco, ensure_ascii=False, indent=1).replace('\n', line_end)
    file.write_bytes(text.encode(encoding))
    for records in (read_coco(str(file)), read_coco_json(str(file))[0]):
        assert [image.file_name for image in records.images] == ['30.jpg', name]
        assert records.annotations.bbox.tolist() == [[1, 2, 3, 4]] * 2
    line = text[: text.index(name)].count('\n') + 1
    column = len(f'   "file_name": "{name}" ') + 1
    file.write_bytes(text.replace(f'{name}"', f'{name}" !').encode(encoding))
    for read in (read_coco, read_coco_json):
        with pytest.raises(ValueError, match=f'broken JSON at line {line}, column {column}: '):
            read(str(file))


def test_a_file_in_an_undeclared_encoding(tmp_path, coco):
    file, name = tmp_path / 'ann.json', 'caf\u00e9.jpg'
    coco['images'][1]['file_name'] = name
    text = json.dumps(coco, ensure_ascii=False, indent=1)
    file.write_bytes(text.encode('windows-1252'))
    line = text[: text.index(name)].count('\n') + 1
    words = f'byte 0xe9 at offset {text.index(name) + 3} in line {line} is not .*save it as UTF-8$'
    for read in (read_coco, read_coco_json):
        with pytest.raises(ValueError, match=f'^{file}: expected text in UTF-8, but {words}'):
            read(str(file))
    file.write_bytes(text.encode())  # as advised
    assert read_coco(str(file)).images[1].file_name == name


def test_a_file_under_nearly_its_name(tmp_path, coco):
    read_back(coco, tmp_path)
    words = "no annotation file at '.*ANN.json', but there is '.*ann.json', which differs in upper"
    for read in (read_coco, read_coco_json):
        with pytest.raises(FileNotFoundError, match=words) as caught:
            read(str(tmp_path / 'ANN.json'))
        read(str(caught.value).split("'")[3])  # raises nothing


def test_annotations_may_be_absent_if_not_needed(tmp_path, coco):
    del coco['annotations']
    with pytest.raises(ValueError, match="'annotations' is missing"):
        read_back(coco, tmp_path)
    read = read_coco(str(tmp_path / 'ann.json'), need_annotations=False)
    assert [image.id for image in read.images] == [30, 10]
    assert read.annotations.bbox.shape == (0, 4)


NO_JSON = """{"info": {"annotations": [{"id": 1}], "bbox": "]"},
"images": [{"id": 30, "file_name": "a\\"].jpg", "width": 9, "height": HEIGHT},
  {"id": 31, "file_name": "b.jpg", "width": 9, "height": 9, "score": NaN}],
"categories": [{"id": 9, "name": "dog", "supercategory": NaN}],
"annotations": [
{"id": 1, "image_id": 30, "category_id": 9, "bbox": [1, 2, 3, 4], "score": -Infinity},
{
  "id": 2, "attributes": {"x": NaN},
  "image_id": 30, "category_id": 9,
  "bbox": [
    1,
    BBOX,
    3,
    4
  ], "iscrowd": CROWD, "area":   AREA
}]}
"""


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('BBOX', 'NaN', r'2 of image id 30: bbox .*, got \[1, NaN, 3, 4\] \(line 12, column 5\)'),
        ('BBOX', '-Infinity', r'got \[1, -Infinity, 3, 4\] \(line 12, column 6\)'),
        ('BBOX', '"2.0"', r"got \[1, '2.0', 3, 4\] \(line 10, column 11\)"),
        ('CROWD', 'NaN', r'2 of image id 30: iscrowd .*, got NaN \(line 15, column 17\)'),
        ('AREA', 'NaN', r'annotation id 2 of .* 30: area .*, got NaN \(line 15, column 30\)'),
        ('HEIGHT', 'Infinity', r'30 \(a"\].jpg\): height .*, got Infinity \(line 2, column 70\)'),
        ('HEIGHT', '"640"', r"30 \(a.*\): height .*, got '640' \(line 2, column 70\)"),
        ('BBOX', '2e9', r'id 2 of .*got \[1.0, 2000000000.0, 3.0, 4.0\] \(line 7, column 1\)'),
    ],
)
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_broken_value_is_found_in_the_file(tmp_path, key, value, words, encoding):
    """NaN stands in the message as in the file; where nothing reads it, it is no fault."""
    text = NO_JSON.replace(key, value)
    for name in ('HEIGHT', 'BBOX', 'CROWD', 'AREA'):
        text = text.replace(name, '1')
    (tmp_path / 'ann.json').write_text(text, encoding=encoding)
    with pytest.raises(ValueError, match=f'ann.json: 1 broken entries: .*{words}') as info:
        read_coco(str(tmp_path / 'ann.json'))
    assert 'Correct them in the file' in str(info.value)
    (tmp_path / 'ann.json').write_text(text.replace(value, '1'), encoding=encoding)
    assert len(read_coco(str(tmp_path / 'ann.json')).annotations) == 2


def test_of_a_part_of_a_file_no_line_is_named(tmp_path, coco):
    """A subclass of CocoDataset converts the entries of one image."""
    file = tmp_path / 'ann.json'
    file.write_text(json.dumps(coco))
    coco['annotations'] = [coco['annotations'][1] | {'bbox': 'none'}]
    with pytest.raises(ValueError, match=r"annotation id 2 .* got 'none'\. Correct"):
        convert_records(coco, str(file))


@pytest.mark.parametrize('section', ['categories', 'images'])
def test_a_deleted_category_or_image(tmp_path, coco, section):
    """Whoever deletes it deletes its annotations too, or adds it again."""
    deleted = coco[section].pop(0)
    with pytest.raises(ValueError, match='2 broken entries: annotation id 1 of image id 30: no '):
        read_back(coco, tmp_path)
    assert len(read_back(coco | {'annotations': []}, tmp_path).annotations) == 0
    coco[section].append(deleted)
    assert len(read_back(coco, tmp_path).annotations) == 2
