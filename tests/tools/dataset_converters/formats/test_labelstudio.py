from __future__ import annotations

import json

import pytest
from formats import labelstudio

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)

SIZE = dict(original_width=50, original_height=40)


def region(kind='rectanglelabels', label='dog', id_='r', **value):
    value = value | ({kind: [label]} if label else {})
    return {'id': id_, 'type': kind, 'value': value, **SIZE}


def rectangle(x, y, width, height, **more):
    return region(**dict(x=x, y=y, width=width, height=height, rotation=0) | more)


def task(image, *annotations, **more):
    found = [{'result': list(a), 'was_cancelled': False} for a in annotations]
    return {'id': 1, 'data': {'image': image}, 'annotations': found, 'predictions': [], **more}


def read(folder, *tasks):
    file = write(folder / 'project-1.json', json.dumps(list(tasks)))
    assert labelstudio.recognise(folder) == 'project-1.json: tasks of Label Studio'
    return labelstudio.read(file, None)


def test_every_kind_of_region(tmp_path):
    add_image(tmp_path / 'a.jpg')
    regions = [
        rectangle(20, 25, 40, 50, id_='1'),
        rectangle(50, 50, 20, 10, id_='2', rotation=90),  # about its corner at 25, 20
        region('polygonlabels', 'cat', '3', points=[[10, 10], [30, 10], [20, 50]]),
        region('ellipselabels', 'cat', '4', x=50, y=50, radiusX=10, radiusY=20, rotation=0),
        region('brushlabels', id_='5', rle=[1, 2], format='rle'),
        region('keypointlabels', id_='6', x=1, y=1, width=0.3),
        # A region whose label is an entry of its own.
        {**rectangle(0, 0, 10, 10, id_='7', label=''), 'type': 'rectangle'},
        {'id': '7', 'type': 'labels', 'value': {'x': 0, 'y': 0, 'labels': ['fox']}, **SIZE},
        {'id': '8', 'type': 'choices', 'value': {'choices': ['night']}},
    ]
    export = read(tmp_path, task('a.jpg', regions))
    expected = [
        *[('dog', (10, 10, 30, 30)), ('dog', (21, 20, 25, 30)), ('cat', (5, 4, 15, 20))],
        *[('cat', (20, 12, 30, 28)), ('fox', (0, 0, 5, 4))],
    ]
    found = list_boxes(export)['a.jpg']
    assert [(name, pytest.approx(corners)) for name, corners in found] == expected
    assert export.converted == {'rotated boxes': 1, 'polygons': 1, 'ellipses': 1}
    assert export.skipped == {'brush masks': 1, 'points': 1}
    assert export.num_boxes == 7
    assert counts_agree(export)
    assert export.relative


@pytest.mark.parametrize(
    ('name', 'file'),
    [
        ('/data/upload/3/0a1b2c3d-my%20dog.jpg', 'my dog.jpg'),
        ('/data/upload/3/0a1b2c3d-dog.jpg', 'images/0a1b2c3d-dog.jpg'),
        ('/data/local-files/?d=photos/dog.jpg', 'photos/dog.jpg'),
        ('s3://bucket/deep/dog.jpg', 'dog.jpg'),
        ('https://example.org/x/dog.jpg?token=1', 'dog.jpg'),
    ],
)
def test_image_names(tmp_path, name, file):
    add_image(tmp_path / file)
    add_image(tmp_path / 'other.jpg')
    export = read(tmp_path, task(name, [rectangle(0, 0, 50, 50)]))
    assert export.images[0].path == tmp_path / file


def test_which_annotation_counts(tmp_path, capsys):
    add_image(tmp_path / 'a.jpg')
    old, new, cancelled = ([rectangle(0, 0, size, size)] for size in (10, 20, 30))
    entry = task('a.jpg', new, old, cancelled, predictions=[{'result': old}])
    dates = ('2024-03-01', '2024-02-01', '2025-01-01')
    for annotation, date in zip(entry['annotations'], dates):
        annotation['updated_at'] = date
    entry['annotations'][2]['was_cancelled'] = True
    export = read(tmp_path, entry)
    assert list_boxes(export)['a.jpg'] == [('dog', (0, 0, 10, 8))]
    assert export.num_boxes == 1
    out = capsys.readouterr().out
    assert '1 annotations are left out: another of the same task is newer' in out
    assert '1 annotations were cancelled' in out
    assert '1 predictions are not read' in out


def test_json_min(tmp_path):
    add_image(tmp_path / 'a.jpg')
    value = dict(x=20, y=25, width=40, height=50, rotation=0, rectanglelabels=['dog'], **SIZE)
    row = {'image': '/data/upload/1/0a1b2c3d-a.jpg', 'id': 5, 'annotator': 1, 'note': 'x'}
    export = read(tmp_path, row | {'tag': [value]}, row | {'id': 6})
    boxes = [[(box.name, box.corners) for box in image.boxes] for image in export.images]
    assert boxes == [[('dog', (10, 10, 30, 30))], []]


def test_json_min_has_a_row_for_each_annotation(tmp_path, capsys):
    add_image(tmp_path / 'a.jpg')
    size = dict(x=0, y=0, width=10, rectanglelabels=['dog'], **SIZE)
    rows = [
        {'image': 'a.jpg', 'id': 5, 'updated_at': date, 'tag': [size | {'height': height}]}
        for date, height in (('2024-02', 10), ('2024-03', 20), ('2024-01', 30))
    ]
    export = read(tmp_path, *rows)
    assert list_boxes(export) == {'a.jpg': [('dog', (0, 0, 5, 8))]}
    assert (
        '2 annotations are left out: another of the same task is newer' in capsys.readouterr().out
    )


def test_tasks_that_nobody_annotated_are_left_out(tmp_path, capsys):
    for name in 'abc':
        add_image(tmp_path / f'{name}.jpg')
    cancelled = task('b.jpg', [])
    cancelled['annotations'][0]['was_cancelled'] = True
    export = read(tmp_path, task('a.jpg', []), cancelled, task('c.jpg'))
    assert list_boxes(export) == {'a.jpg': []}  # somebody said that there is nothing
    assert '2 tasks have no annotation, and their images' in capsys.readouterr().out


def test_regions_of_newer_versions_and_of_videos(tmp_path, capsys):
    add_image(tmp_path / 'a.jpg')
    regions = [
        region('bitmasklabels', id_='1', imageDataURL='data:', format='png'),
        {**region(id_='2', label='', x=1, y=1, width=0.3), 'type': 'keypoint'},
        {'id': '2', 'type': 'labels', 'value': {'x': 1, 'y': 1, 'width': 0.3, 'labels': ['dog']}},
        region('labels', id_='3', framesCount=3, sequence=[]),
        rectangle(0, 0, 10, 10, label=None, id_='4', rectanglelabels=[None]),
    ]
    export = read(tmp_path, task('a.jpg', regions))
    assert export.skipped == {'brush masks': 1, 'points': 1}
    assert export.lost == {'boxes': 2}
    assert counts_agree(export)
    err = capsys.readouterr().err
    assert "region 3: is no box, lacks 'x'" in err
    assert 'region 4: has no label' in err


def test_the_image_is_found_among_other_data(tmp_path):
    add_image(tmp_path / 'a.jpg')
    add_image(tmp_path / 'b.jpg')
    entry = task('', [rectangle(0, 0, 10, 10)])
    entry['data'] = {'caption': 'Two dogs. One sleeps.', 'photo': 's3://bucket/a.jpg'}
    assert list(list_boxes(read(tmp_path, entry))) == ['a.jpg']


def test_a_broken_file_beside_others_is_lost(tmp_path, capsys):
    add_image(tmp_path / 'a.jpg')
    write(tmp_path / 'project-1.json', json.dumps([task('a.jpg', [])]))
    write(tmp_path / 'project-2.json', '[{"data":')
    assert labelstudio.read(tmp_path, None).lost == {'images': 1}
    assert f'{tmp_path}/project-2.json: is no JSON: ' in capsys.readouterr().err


def test_faults_are_listed_and_counted(tmp_path, capsys):
    add_image(tmp_path / 'a.jpg')
    bad = [
        rectangle(1, 1, 1, 1, label='', id_='1'),
        rectangle('x', 1, 1, 1, id_='2'),
        region(id_='3', x=1, y=1),
        region('polygonlabels', id_='4', points=[[1, 1]]),
        region('polygonlabels', id_='5', points=[1]),
    ]
    without_size = rectangle(20, 25, 40, 50, id_='6')
    del without_size['original_width']
    tasks = [task('a.jpg', [*bad, without_size]), task('gone.jpg', [rectangle(1, 1, 1, 1)]), 5]
    export = read(tmp_path, *tasks)
    assert list_boxes(export) == {'a.jpg': [('dog', (10, 10, 30, 30))]}
    assert export.lost == {'boxes': 5 + 1, 'images': 2}
    assert counts_agree(export)
    err = capsys.readouterr().err
    assert f'{tmp_path}/project-1.json: task 1 (a.jpg): region 1: has no label' in err
    assert 'image gone.jpg: no image of this name' in err


@pytest.mark.parametrize('text', ['{}', '[]', '[{"id": 1}]', '[{"data": {}}]', '[1, [2]]', 'x'])
def test_other_files_are_not_of_the_format(tmp_path, text):
    write(tmp_path / 'a.json', text)
    add_image(tmp_path / 'a.jpg')
    assert labelstudio.recognise(tmp_path) == ''
    with pytest.raises(ValueError, match='no .json file with tasks of Label Studio'):
        labelstudio.read(tmp_path, None)
