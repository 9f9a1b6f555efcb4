from __future__ import annotations

import json
import math

import pytest
from export_records import Export
from formats import csv_tables, via

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)

RECT = {'name': 'rect', 'x': 10, 'y': 4, 'width': 20, 'height': 20.5}
BOX = (10, 4, 30, 24.5)


def make_region(shape=RECT, **attributes):
    return {'shape_attributes': shape, 'region_attributes': attributes}


def make_entries(*regions, name='a.jpg'):
    return {f'{name}99': {'filename': name, 'size': 99, 'regions': [*regions]}}


def read(folder, data, name='via.json') -> Export:
    add_image(folder / 'a.jpg')
    write(folder / name, data if isinstance(data, str) else json.dumps(data))
    assert via.recognise(folder)
    export = via.read(folder, None)
    assert counts_agree(export)
    return export


@pytest.mark.parametrize(
    'data',
    [
        make_entries(make_region(type='dog')),
        {'_via_settings': {}, '_via_img_metadata': make_entries(make_region(type='dog'))},
        {'a': {'filename': 'a.jpg', 'regions': {'0': make_region(type='dog')}}},  # VIA 1
        [*make_entries(make_region(type={'dog': True, 'cat': False})).values()],
        {  # the value is the key of an option
            '_via_img_metadata': make_entries(make_region(type='2')),
            '_via_attributes': {'region': {'type': {'options': {'1': 'cat', '2': 'dog'}}}},
        },
        {  # VIA 3
            'project': {'pid': '__VIA_PROJECT_ID__'},
            'attribute': {'1': {'aname': 'Class', 'anchor_id': 'x', 'options': {'D': 'dog'}}},
            'file': {'7': {'fid': 7, 'fname': 'x/a.jpg'}},
            'view': {'1': {'fid_list': [7]}},
            'metadata': {
                'k': {'vid': '1', 'xy': [2, 10, 4, 20, 20.5], 'av': {'1': 'D'}},
                'of the file': {'vid': '1', 'xy': [], 'av': {}},
            },
        },
        'filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,'
        'region_attributes\na.jpg,99,{},1,0,'
        '"{""name"":""rect"",""x"":10,""y"":4,""width"":20,""height"":20.5}","{""type"":""dog""}"',
    ],
)
def test_files(tmp_path, data):
    export = read(tmp_path, data, 'via.csv' if isinstance(data, str) else 'via.json')
    assert list_boxes(export) == {'a.jpg': [('dog', BOX)]}
    assert csv_tables.recognise(tmp_path) == ''


def test_shapes(tmp_path):
    shapes = [
        {'name': 'circle', 'cx': 10, 'cy': 20, 'r': 5},
        {'name': 'ellipse', 'cx': 20, 'cy': 20, 'rx': 8, 'ry': 3, 'theta': math.pi / 2},
        {'name': 'polygon', 'all_points_x': [1, 9, 5], 'all_points_y': [2, 3, 8]},
        {'name': 'polyline', 'all_points_x': [1, 9], 'all_points_y': [2, 3]},
        {'name': 'point', 'cx': 1, 'cy': 2},
    ]
    export = read(tmp_path, make_entries(*(make_region(shape, kind='x') for shape in shapes)))
    corners = [(5, 15, 15, 25), pytest.approx((17, 12, 23, 28)), (1, 2, 9, 8)]
    assert [box.corners for box in export.images[0].boxes] == corners
    assert export.converted == {'circles': 1, 'ellipses': 1, 'polygons': 1}
    assert (export.num_boxes, export.skipped) == (5, {'lines': 1, 'points': 1})


@pytest.mark.parametrize(
    ('attributes', 'name'),
    [
        ({}, 'object'),
        ({'x': 'dog'}, 'dog'),
        ({'quality': 'good', 'Label': 'dog'}, 'dog'),
        ({'type': 'x', 'class_name': 'dog'}, 'dog'),
        ({'blurred': {'yes': True}, 'species': 'dog'}, 'dog'),
    ],
)
def test_class(tmp_path, attributes, name):
    export = read(tmp_path, make_entries(make_region(**attributes)))
    assert list_boxes(export) == {'a.jpg': [(name, BOX)]}


@pytest.mark.follows('several attributes may be the class')
def test_several_attributes_may_be_the_class(tmp_path):
    data = make_entries(make_region(name='rex', type='dog'), make_region(type='cat'))
    error = r"several .*'name' \(1 regions\), 'type' \(2 regions\)\. Name one of them class"
    with pytest.raises(ValueError, match=error):
        read(tmp_path, data)
    text = json.dumps(data).replace('type', 'class')
    assert [name for name, _ in list_boxes(read(tmp_path, text))['a.jpg']] == ['dog', 'cat']


def test_faults(tmp_path, capsys):
    data = make_entries(
        make_region(type='dog'),
        make_region(),
        make_region(type={'dog': True, 'cat': True}),
        make_region({'name': 'rect', 'x': 1}, type='dog'),
        make_region({'name': 'star'}, type='dog'),
        make_region({'name': 'polygon', 'all_points_x': [1, 2], 'all_points_y': [1]}, type='dog'),
        None,
    ) | make_entries(make_region(type='dog'), make_region(type='dog'), name='b.jpg')
    export = read(tmp_path, data)
    assert list_boxes(export) == {'a.jpg': [('dog', BOX)]}
    assert (export.num_boxes, dict(export.lost)) == (9, {'boxes': 8, 'images': 1})
    text = capsys.readouterr().err
    for message in (
        "region 1: has no class, the attribute 'type'",
        'region 2: has several classes: dog, cat',
        'region 3: expected a shape of VIA',
        "region 4: has the unknown shape 'star'",
        'region 5: has 2 x and 1 y of points',
        'region 6: expected a shape of VIA',
        'b.jpg: no image of this name in',
    ):
        assert message in text


def test_broken_files(tmp_path):
    add_image(tmp_path / 'a.jpg')
    for text, error in (
        ('{"a": {"file_attributes": ', 'via.json'),
        ('{"region_attributes": 3}', 'via.json: expected an object of VIA, got 3'),
        (
            '{"a": {"filename": "a.jpg", "file_attributes": {}, "regions": 3}}',
            'expected a list of regions, got 3',
        ),
    ):
        write(tmp_path / 'via.json', text)
        with pytest.raises(ValueError, match=error):
            via.read(tmp_path, None)
    write(tmp_path / 'via.json', '{}')
    assert via.recognise(tmp_path) == ''


def test_two_exports_of_the_same_are_seen(tmp_path):
    read(tmp_path, make_entries(make_region(type='dog')))
    export = read(tmp_path, make_entries(make_region(type='dog')), 'again.json')
    assert [len(image.boxes) for image in export.images] == [1, 1]
