from __future__ import annotations

import json

import pytest
from formats import labelme

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)


def shape(label, points, kind='rectangle', **more):
    return {'label': label, 'points': points, 'shape_type': kind, 'group_id': None, **more}


def add(folder, name, *shapes, **more):
    data = {'shapes': shapes, 'imagePath': f'{name}.jpg', 'imageData': None}
    write(folder / f'{name}.json', json.dumps(data | more))
    add_image(folder / f'{name}.jpg')


def test_every_kind_of_shape(tmp_path):
    add(
        tmp_path,
        'a',
        shape('dog', [[30, 20], [10, 5]]),
        shape('dog', [[1, 2], [9, 2], [9, 8], [1, 8]]),  # a rectangle of LabelMe 5.5
        shape('cat', [[4, 4], [8, 2], [6, 9]], 'polygon'),
        shape('cat', [[20, 20], [23, 24]], 'circle'),
        shape('cat', [[3, 4], [7, 9]], 'mask', mask='...'),
        shape('dog', [[1, 1], [2, 2]], 'linestrip'),
        shape('dog', [[1, 1]], 'point'),
        shape('old', [[0, 0], [4, 0], [4, 3]], None),
    )
    export = labelme.read(tmp_path, None)
    assert list_boxes(export)['a.jpg'] == [
        *[('dog', (10, 5, 30, 20)), ('dog', (1, 2, 9, 8)), ('cat', (4, 2, 8, 9))],
        *[('cat', (15, 15, 25, 25)), ('cat', (3, 4, 7, 9)), ('old', (0, 0, 4, 3))],
    ]
    assert export.converted == {'polygons': 2, 'circles': 1, 'masks': 1}
    assert export.skipped == {'linestrips': 1, 'points': 1}
    assert export.num_boxes == 8
    assert counts_agree(export)


def test_parts_of_one_object_are_joined(tmp_path):
    parts = [shape('cat', [[x, 2], [x + 2, 4]], group_id=g) for x, g in ((1, 0), (9, 0), (5, 1))]
    add(tmp_path, 'a', *parts, shape('dog', [[0, 0], [3, 3]], group_id=0))
    export = labelme.read(tmp_path, None)
    expected = [('cat', (1, 2, 11, 4)), ('cat', (5, 2, 7, 4)), ('dog', (0, 0, 3, 3))]
    assert list_boxes(export)['a.jpg'] == expected
    assert export.skipped == {'further parts of an object (equal label and group_id)': 1}
    assert counts_agree(export)


def test_images_sizes_and_difficult(tmp_path):
    wide, box = dict(imageWidth=50, imageHeight=40), [[1, 1], [2, 2]]
    add(tmp_path / 'x', 'a', shape('dog', box, flags={'difficult': True}), **wide)
    add(tmp_path / 'x', 'b', shape('dog', box, difficult=True), imagePath='..\\img\\b.JPG')
    add(tmp_path / 'x', 'c', shape('dog', box), imagePath='renamed.jpg')
    export = labelme.read(tmp_path, None)
    assert [image.path.name for image in export.images] == ['a.jpg', 'b.jpg', 'c.jpg']
    assert [image.size_wh for image in export.images] == [(50, 40), None, None]
    assert [box.ignore for image in export.images for box in image.boxes] == [True, True, False]


def test_the_image_beside_its_file_is_meant(tmp_path, capsys):
    add(tmp_path, '1', shape('dog', [[1, 1], [2, 2]]))
    add(tmp_path / 'old', '1', shape('cat', [[1, 1], [3, 3]]))
    add_image(tmp_path / 'old/2.jpg')
    export = labelme.read(tmp_path, None)
    found = [(str(i.path.relative_to(tmp_path)), i.boxes[0].name) for i in export.images]
    assert found == [('1.jpg', 'dog'), ('old/1.jpg', 'cat')]
    assert '1 images have no .json file, and are left out' in capsys.readouterr().out


def test_values_of_other_types_are_lost(tmp_path):
    good, nan = [[1, 1], [2, 2]], float('nan')
    shapes = [shape(None, good), shape('dog', [[1, 1], [nan, 5], [9, 9]], 'polygon')]
    add(tmp_path, 'a', *shapes, shape(7, good), shape('dog', good, group_id=[1]))
    export = labelme.read(tmp_path, None)
    assert list_boxes(export)['a.jpg'] == [('7', (1, 1, 2, 2)), ('dog', (1, 1, 2, 2))]
    assert export.lost == {'boxes': 2}
    assert counts_agree(export)


def test_without_files_or_images(tmp_path):
    add_image(tmp_path / 'x/y/a.jpg')
    with pytest.raises(ValueError, match='no .json file with `shapes` and `imagePath`'):
        labelme.read(tmp_path / 'x/y', None)
    write(tmp_path / 'z/only/a.json', '{"shapes": [], "imagePath": "a.jpg", "imageData": "aGk="}')
    with pytest.raises(FileNotFoundError, match='written by labelme_export_json'):
        labelme.read(tmp_path / 'z/only', None)


@pytest.mark.follows('only inside the file: write it with labelme_export_json')
def test_an_image_that_was_only_inside_its_file(tmp_path, capsys):
    add(tmp_path, 'a', shape('dog', [[1, 1], [2, 2]]), imageData='aGk=')
    (tmp_path / 'a.jpg').rename(tmp_path / 'other.jpg')
    assert labelme.read(tmp_path, None).lost == {'boxes': 1, 'images': 1}
    assert 'only inside the file: write it with labelme_export_json' in capsys.readouterr().err
    add_image(tmp_path / 'a/img.png')  # where that program writes it
    (tmp_path / 'a/img.png').rename(tmp_path / 'a.png')
    assert list_boxes(labelme.read(tmp_path, None)) == {'a.png': [('dog', (1, 1, 2, 2))]}


def test_faults_are_listed_and_counted(tmp_path, capsys):
    good = shape('dog', [[1, 1], [2, 2]])
    bad = [
        shape('dog', [[1, 1]]),
        shape('', [[1, 1], [2, 2]]),
        shape('dog', [[1, 1], [2, 'x']]),
        shape('dog', None),
        shape('dog', [[1, 1], [2, 2], [3, 3]], 'circle'),
        shape('dog', [[1, 1], [2, 2]], 'spline'),
        {'points': [[1, 1], [2, 2]]},
        'shape',
    ]
    add(tmp_path, 'a', *bad, good)
    add(tmp_path, 'gone', good, good, imageData='aGVsbG8=')
    (tmp_path / 'gone.jpg').unlink()
    write(tmp_path / 'b.json', '{"shapes": [')
    write(tmp_path / 'c.json', '{"other": 1}')
    export = labelme.read(tmp_path, None)
    assert list_boxes(export) == {'a.jpg': [('dog', (1, 1, 2, 2))]}
    assert export.lost == {'boxes': 8 + 2, 'images': 2}
    assert counts_agree(export)
    out, err = capsys.readouterr()
    assert "spline'" in err
    assert f'{tmp_path}/a.json: shape 2: ' in err
    assert f'{tmp_path}/b.json: is no JSON: ' in err
    assert 'only inside the file: write it with labelme_export_json' in err
    assert out.startswith('1 other .json files have no `shapes`')


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('{"shapes": [], "imagePath": "a"}', '1 of 1 .json files have `shapes` and `imagePath`'),
        ('{"shapes": {}, "imagePath": "a"}', ''),
        ('[]', ''),
        ('{', ''),
    ],
)
def test_recognise(tmp_path, text, reason):
    write(tmp_path / 'a.json', text)
    assert labelme.recognise(tmp_path) == labelme.recognise(tmp_path / 'a.json') == reason
