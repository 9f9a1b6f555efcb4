from __future__ import annotations

import pytest
from formats import openimages

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)

HEADER = (
    'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,'
    'IsDepiction,IsInside\n'
)


def make_row(image_id, code, x1, x2, y1, y2, group=0):
    return f'{image_id},xclick,{code},1,{x1},{x2},{y1},{y2},0,0,{group},0,0\n'


@pytest.fixture
def source(tmp_path):
    """Images of 50 x 40; of the three that the table of train lists one is there."""
    rows = make_row('0a', '/m/01', 0.2, 0.6, 0.1, 0.6), make_row('0a', '/m/02', 0, 1, 0, 1, 1)
    others = make_row('0b', '/m/01', 0, 1, 0, 1) * 2 + make_row('0c', '/m/01', 0, 1, 0, 1)
    write(tmp_path / 'oidv6-train-annotations-bbox.csv', HEADER + ''.join(rows) + others)
    text = HEADER + make_row('0d', '/m/03', 0.5, 1, 0.25, 0.5)
    write(tmp_path / 'validation-annotations-bbox.csv', text)
    write(tmp_path / 'class-descriptions-boxable.csv', '/m/02,"Cat, big"\n/m/01,Dog\n/m/09,Cow\n')
    for name in ('0a', '0d', '0e'):
        add_image(tmp_path / f'images/{name}.jpg')
    return tmp_path


def test_boxes(source, capsys):
    export = openimages.read(source, None)
    assert counts_agree(export)
    boxes = list_boxes(export)
    assert boxes == {
        '0a.jpg': [('Dog', pytest.approx((10, 4, 30, 24))), ('Cat, big', (0, 0, 50, 40))],
        '0d.jpg': [('/m/03', (25, 10, 50, 20))],
    }
    assert [box.crowd for image in export.images for box in image.boxes] == [False, True, False]
    assert [image.split for image in export.images] == ['train', 'val']
    assert (export.classes, export.relative) == (['Cat, big', 'Dog'], True)
    assert (export.num_boxes, export.skipped.total(), export.lost.total()) == (6, 3, 0)
    text = capsys.readouterr().out
    assert '2 images that it lists are not there' in text
    assert '1 classes have no name in a class-descriptions*.csv' in text
    assert '1 images are in none of the files' in text
    assert openimages.recognise(source).startswith('oidv6-train-annotations-bbox.csv')


def test_names_follow_when_the_table_is_there(source, capsys):
    write(source / 'more.csv', 'LabelName,DisplayName\n/m/03,Bird\n')
    assert list_boxes(openimages.read(source, None))['0d.jpg'][0][0] == 'Bird'
    assert 'have no name' not in capsys.readouterr().out


def test_faults(source, capsys):
    text = HEADER + make_row('0a', '/m/01', 'x', 1, 0, 1) + '0a,xclick,/m/01,1,0,1\n'
    write(source / 'test-annotations-bbox.csv', text + make_row('0a', '/m/01', 0, 1, 0, 'nan'))
    export = openimages.read(source, None)
    assert counts_agree(export)
    assert (export.num_boxes, dict(export.lost)) == (9, {'boxes': 2})
    text = capsys.readouterr().err
    assert 'test-annotations-bbox.csv: line 2: expected a box in XMin, YMin, XMax, YMax' in text
    assert 'test-annotations-bbox.csv: line 3: expected a box' in text


def test_none_of_the_images(source):
    file = source / 'oidv6-train-annotations-bbox.csv'
    add_image(source / 'other/z.jpg')
    with pytest.raises(ValueError, match='none of the images that are listed is in .*other'):
        openimages.read(file, source / 'other')
    assert len(openimages.read(file, source / 'images').images) == 1
    (source / 'empty').mkdir()
    with pytest.raises(ValueError, match=r'no \.csv file with the columns ImageID'):
        openimages.read(source / 'empty', None)
