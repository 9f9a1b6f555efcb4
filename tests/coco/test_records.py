"""The fast reader against `json`, with blocks small enough to cut between all annotations."""

from __future__ import annotations

import codecs
import json
import random

import numpy as np
import pytest

from ghmdet.coco import records as coco_records
from ghmdet.coco.records import convert_records, read_records


@pytest.fixture(params=[1, 300, 2**20])
def block(request, monkeypatch):
    monkeypatch.setattr(coco_records, '_BLOCK', request.param)


def draw_coco(seed: int) -> dict:
    """Ids of several types, and strings and objects that look like the end of an annotation."""
    rng = random.Random(seed)
    image_ids = [7, 'b', 2**70, 3.5, None, -4]
    annotations = []
    for number in range(40):
        ann = {
            'id': number,
            'image_id': rng.choice(image_ids),
            'category_id': rng.choice([4, 9, 'x']),
            'bbox': [rng.choice([3, 0.1, 1e-3, 12.34]) for _ in range(4)],
            'segmentation': rng.choice([[[1.5, 2, 3, 4]], {'counts': [1], 'size': [2, 3]}]),
        }
        if number >= 30:
            ann |= {'note': '}, {"annotations": [{}]', 'segmentation': [{}, {}]}
        for key, values in (('area', [None, 5, 0.25]), ('iscrowd', [0, 1]), ('ignore', [True, 0])):
            if rng.random() < 0.5:
                ann[key] = rng.choice(values)
        annotations.append(ann)
    images = [
        {'id': id_, 'file_name': f'{id_}\N{SNOWMAN}', 'height': 4, 'width': 5.5}
        for id_ in image_ids
    ]
    return {
        'info': {'annotations_of': 'all'},
        'images': images,
        'annotations': annotations,
        'licenses': [{}, {}],
        'categories': [{'id': 9, 'name': 'dog'}, {'id': 'x', 'name': 'cat'}],
    }


def check_records(records, coco: dict) -> None:
    """Compare with what `json` reads."""
    got, anns = records.annotations, coco['annotations']
    assert [(i.id, i.file_name, i.height, i.width) for i in records.images] == [
        (i['id'], i['file_name'], i['height'], i['width']) for i in coco['images']
    ]
    assert [(c.id, c.name) for c in records.categories] == [(9, 'dog'), ('x', 'cat')]
    assert [got.image_ids[i] for i in got.image] == [ann['image_id'] for ann in anns]
    assert [got.category_ids[i] for i in got.category] == [ann['category_id'] for ann in anns]
    assert got.bbox.tolist() == [ann['bbox'] for ann in anns]
    areas = [ann.get('area') for ann in anns]
    assert [None if np.isnan(area) else area for area in got.area] == areas
    assert got.is_crowd.tolist() == [bool(ann.get('iscrowd')) for ann in anns]
    assert got.is_ignored.tolist() == [bool(ann.get('ignore')) for ann in anns]


@pytest.mark.parametrize('indent', [None, 1])
@pytest.mark.parametrize('last', ['info', 'images', 'annotations', 'categories'])
@pytest.mark.usefixtures('block')
def test_records_are_what_json_reads(tmp_path, indent, last):
    coco = draw_coco(seed=len(last))
    coco[last] = coco.pop(last)
    (tmp_path / 'ann.json').write_text(json.dumps(coco, indent=indent))
    records = read_records(str(tmp_path / 'ann.json'))
    check_records(records, coco)
    check_records(convert_records(coco, 'ann.json'), coco)
    label_of = {9: 0, 'x': 1}
    expected = [label_of.get(ann['category_id'], -1) for ann in coco['annotations']]
    assert records.annotations.find_categories(label_of).tolist() == expected


@pytest.mark.parametrize(
    ('old', 'new', 'words'),
    [
        ('"image_id": 7', '"image_id": [7]', r'id 3 of image id \[7\]: image_id must be a number'),
        ('"bbox": [', '"bbox": [1, ', '40 broken entries: annotation id 0 of .*: bbox must be'),
        ('"bbox": [', '"box": [', 'annotation id 0 of image id 3.5 lacks bbox'),
        ('}, {"id": 9, ', '} {"id": 9, ', "column 1780: Expecting ',' delimiter; .* truncated"),
        ('"id": 20', '"id": NaN', '1 broken entries: annotation id NaN of .*: id must be a number'),
        ('"counts": [1]', '"counts": [1', "column 609: Expecting ',' delimiter"),
        ('"categories"', '"categories', "column 6536: Expecting ':' delimiter"),
        ('"id": 20', '"id": 1' + 5000 * '0', 'ann.json: Exceeds the limit .4300 digits.'),
        ('"size": [2, 3]', '"size": ' + 99999 * '[' + 99999 * ']', 'ann.json: lists .* too deeply'),
        ('"iscrowd": 1', '"iscrowd": "1"', "iscrowd must be 0 or 1, got '1'"),
    ],
)
@pytest.mark.usefixtures('block')
def test_errors_do_not_depend_on_the_blocks(tmp_path, old, new, words):
    """Line and column are those in the file, however much of it was decoded before."""
    text = json.dumps(draw_coco(0))
    assert old in text
    (tmp_path / 'ann.json').write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words) as caught:
        read_records(str(tmp_path / 'ann.json'))
    assert str(caught.value).startswith(str(tmp_path / 'ann.json'))


@pytest.mark.usefixtures('block')
def test_an_invalid_byte_is_found_with_any_blocks(tmp_path):
    text = json.dumps(draw_coco(0), ensure_ascii=False).encode()
    offset = text.rindex(b'"image_id": "b"') + 13
    (tmp_path / 'ann.json').write_bytes(text[:offset] + b'\xfe' + text[offset:])
    with pytest.raises(ValueError, match=f'but byte 0xfe at offset {offset} in line 1 is not'):
        read_records(str(tmp_path / 'ann.json'))


@pytest.mark.usefixtures('block')
def test_what_json_alone_decodes_is_read_all_the_same(tmp_path):
    coco = draw_coco(1)
    # A block must not be taken from `info`, whose list looks the same.
    coco['info'] = {'annotations': draw_coco(0)['annotations'][:20]}
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    check_records(read_records(str(tmp_path / 'ann.json')), coco)
    coco = draw_coco(0)
    coco['annotations'][20]['score'] = float('nan')
    coco['annotations'][30]['segmentation'] = [[float('inf')]]
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    check_records(read_records(str(tmp_path / 'ann.json')), coco)


def test_lines_are_counted_over_the_whole_file(tmp_path, monkeypatch):
    """Three lines of snowmen, and the 7th character of the fourth is wrong."""
    monkeypatch.setattr(coco_records, '_BLOCK', 1)
    text = '{"images": [{"id": "\N{SNOWMAN}"}],\n"annotations": [\n' + ', '.join(
        [json.dumps({'image_id': 1, 'category_id': 2, 'bbox': [1, 2, 3, 4]})] * 5
    )
    file = tmp_path / 'ann.json'
    for start in (b'', codecs.BOM_UTF8):
        file.write_bytes(start + (text + '\n, "\N{SNOWMAN}" x').encode())
        with pytest.raises(ValueError, match='broken JSON at line 4, column 7: Expecting'):
            read_records(str(file))


def test_of_very_many_broken_entries_the_rest_is_not_read(tmp_path, monkeypatch):
    """Each of 40 lacks a box: at most ten, and those of a block of one, are looked at."""
    monkeypatch.setattr(coco_records, '_BLOCK', 1)
    monkeypatch.setattr(coco_records, '_ENOUGH', 10)
    text = json.dumps(draw_coco(0)).replace('"bbox"', '"box"')
    (tmp_path / 'ann.json').write_text(text)
    with pytest.raises(ValueError, match=r'at least 1\d broken entries: .*; and \d more'):
        read_records(str(tmp_path / 'ann.json'))


def test_each_annotation_is_a_block_of_its_own(tmp_path, monkeypatch):
    """As far as the cuts can be found; the last ten annotations look like other objects."""
    monkeypatch.setattr(coco_records, '_BLOCK', 1)
    starts = []
    monkeypatch.setattr(coco_records, '_forget_pages', lambda text, start: starts.append(start))
    coco = draw_coco(0)
    (tmp_path / 'ann.json').write_text(json.dumps(coco))
    check_records(read_records(str(tmp_path / 'ann.json')), coco)
    assert len(starts) == 30
    text, decode = (tmp_path / 'ann.json').read_bytes(), json.JSONDecoder().raw_decode
    ids = [decode(text[start:].decode())[0]['id'] for start in starts]
    assert ids == list(range(1, 31))


@pytest.mark.parametrize(
    ('parts', 'different', 'numbers'),
    [
        ([[5, -2, 5], [7, -2]], [-2, 5, 7], [1, 0, 1, 2, 0]),  # close: counted
        ([[10**12, 3], [3, -(10**18)]], [-(10**18), 3, 10**12], [2, 1, 1, 0]),  # apart: sorted
        ([[-(2**63), 2**63 - 1]], [-(2**63), 2**63 - 1], [0, 1]),
        ([[], []], [], []),
        ([[1], ['1', 1.5, 1]], [1, '1', 1.5], [0, 1, 2, 0]),
    ],
)
def test_ids_are_numbered(parts, different, numbers):
    packed = [coco_records._pack_ids(part) for part in parts]
    found, number = coco_records._number_ids(packed)
    assert found == different
    assert list(map(type, found)) == list(map(type, different))
    assert number.tolist() == numbers
    assert number.dtype == np.int64


def test_remote_files(monkeypatch):
    text = json.dumps(draw_coco(2)).encode()
    monkeypatch.setattr(coco_records.fileio, 'get', lambda url, backend_args: text)
    check_records(read_records('https://example.org/ann.json'), draw_coco(2))
