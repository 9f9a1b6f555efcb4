from __future__ import annotations

import json

import pytest
from formats import createml

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)


def annotation(label, x, y, width, height):
    return {'label': label, 'coordinates': dict(x=x, y=y, width=width, height=height)}


def test_both_spellings_and_the_splits_of_roboflow(tmp_path):
    entries = [{'image': 'a.jpg', 'annotations': [annotation('dog', 20, 10, 8, 4)]}]
    write(tmp_path / 'train/_annotations.createml.json', json.dumps(entries))
    entries = [
        {'imagefilename': 'a.jpg', 'annotation': [annotation('cat', 5.5, 5, 3, 2)] * 2},
        {'imagefilename': 'b.jpg', 'annotation': []},
    ]
    write(tmp_path / 'valid/_annotations.createml.json', json.dumps(entries))
    for name in ('train/a', 'valid/a', 'valid/b'):
        add_image(tmp_path / f'{name}.jpg')
    export = createml.read(tmp_path, None)
    found = [(i.split, [(b.name, b.corners) for b in i.boxes]) for i in export.images]
    assert found == [
        ('train', [('dog', (16, 8, 24, 12))]),
        ('val', [('cat', (4, 4, 7, 6))] * 2),
        ('val', []),
    ]
    assert export.num_boxes == 3
    assert counts_agree(export)
    assert 'a list of `image` and `annotations`' in createml.recognise(tmp_path)


def test_faults_are_listed_and_counted(tmp_path, capsys):
    bad = [
        annotation('dog', 'x', 1, 1, 1),
        annotation('', 1, 1, 1, 1),
        {'label': 'dog', 'coordinates': {'x': 1}},
        {'label': 'dog'},
        7,
    ]
    good = annotation('dog', 5, 5, 2, 2)
    entries = [
        {'image': 'a.jpg', 'annotations': [good, *bad]},
        {'image': 'gone.jpg', 'annotations': [good, good]},
        {'image': 'a.jpg'},
        3,
    ]
    add_image(tmp_path / 'a.jpg')
    file = write(tmp_path / 'x.json', json.dumps(entries))
    export = createml.read(file, None)
    assert list_boxes(export) == {'a.jpg': [('dog', (4, 4, 6, 6))]}
    assert export.lost == {'boxes': 5 + 2, 'images': 3}
    assert counts_agree(export)
    err = capsys.readouterr().err
    assert f'{file}: entry 0 (a.jpg): annotation 1: expected label and coordinates' in err
    assert f'{file}: entry 1: image gone.jpg: no image of this name' in err


def test_a_broken_file_and_a_label_that_is_none(tmp_path):
    where = {'x': 20, 'y': 20, 'width': 10, 'height': 10}
    entry = {'image': 'a.jpg', 'annotations': [{'label': None, 'coordinates': where}]}
    write(tmp_path / 'train/a.json', json.dumps([entry]))
    write(tmp_path / 'valid/a.json', '[{"image": "a.jpg"')
    add_image(tmp_path / 'train/a.jpg')
    export = createml.read(tmp_path, None)
    assert export.lost == {'boxes': 1, 'images': 1}
    assert counts_agree(export)


@pytest.mark.parametrize('text', ['{}', '[]', '[1]', '[{"image": "a", "annotations": [{}]}]', 'x'])
def test_other_files_are_not_of_the_format(tmp_path, text):
    write(tmp_path / 'a.json', text)
    assert createml.recognise(tmp_path) == ''
    add_image(tmp_path / 'a.jpg')
    with pytest.raises(ValueError, match='no .json file with a list of `image`'):
        createml.read(tmp_path, None)
