from __future__ import annotations

import json
from pathlib import Path

import pytest
from formats import coco_json

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)


def make_ann(id_: int, image_id: int, bbox: object = (1, 2, 10, 20), **others: object) -> dict:
    return {'id': id_, 'image_id': image_id, 'category_id': 1, 'bbox': bbox} | others


def save(
    path: Path, annotations: list, names: tuple[str, ...] = ('a.jpg',), **others: object
) -> Path:
    images = [
        {'id': number, 'file_name': name, 'width': 50, 'height': 40}
        for number, name in enumerate(names, 1)
    ]
    categories = [{'id': 1, 'name': 'dog'}, {'id': 7, 'name': 'cat'}]
    content = {'images': images, 'annotations': annotations, 'categories': categories} | others
    return write(path, json.dumps(content))


def test_boxes_flags_and_classes(tmp_path):
    annotations = [
        make_ann(1, 1, iscrowd=1),
        make_ann(2, 1, (3, 4, 5.5, 6), ignore=1, category_id=7),
    ]
    file = save(tmp_path / 'instances_default.json', annotations, ('a.jpg', 'b.jpg'))
    for name in 'ab':
        add_image(tmp_path / f'images/{name}.jpg')
    for source in (file, tmp_path):
        export = coco_json.read(source, None)
        assert list_boxes(export) == {
            'a.jpg': [('dog', (1, 2, 11, 22)), ('cat', (3, 4, 8.5, 10))],
            'b.jpg': [],
        }
        flags = [(box.crowd, box.ignore) for box in export.images[0].boxes]
        assert flags == [(True, False), (False, True)]
        assert (export.classes, export.images[0].size_wh) == (['dog', 'cat'], (50, 40))
        assert counts_agree(export)
    found = 'instances_default.json with the lists images, annotations, categories'
    assert coco_json.recognise(tmp_path) == found


@pytest.mark.parametrize(
    ('files', 'images'),
    [
        (('train/_annotations.coco.json', 'valid/_annotations.coco.json'), ('train', 'valid')),
        (('annotations/instances_train2017.json', 'annotations/instances_val2017.json'), None),
        (('annotations/train.json', 'annotations/val.json'), ('images/train', 'images/val')),
    ],
)
def test_splits_with_equal_names(tmp_path, files, images):
    images = images or ('train2017', 'val2017')
    for number, (file, folder) in enumerate(zip(files, images), 3):
        save(tmp_path / file, [make_ann(1, 1, (0, 0, number, 5))])
        add_image(tmp_path / folder / 'a.jpg')
    if 'instances' in files[0]:
        write(tmp_path / 'annotations/captions_val2017.json', '{"images": [], "annotations": [] ')
    export = coco_json.read(tmp_path, None)
    found = [
        (str(i.path.parent.relative_to(tmp_path)), i.split, i.boxes[0].corners[2])
        for i in export.images
    ]
    assert found == [(images[0], 'train', 3), (images[1], 'val', 4)]
    assert export.lost.total() == 0


def test_roboflows_root_category_is_left_out(tmp_path, capsys):
    categories = [
        {'id': 0, 'name': 'animals', 'supercategory': 'none'},
        {'id': 1, 'name': 'dog', 'supercategory': 'animals'},
    ]
    save(tmp_path / 'train/_annotations.coco.json', [make_ann(1, 1)], categories=categories)
    add_image(tmp_path / 'train/a.jpg')
    assert coco_json.read(tmp_path, None).classes == ['dog']
    text = "left out of the classes: 'animals' is no class: it has no annotation and is the super"
    assert text in capsys.readouterr().out


def test_polygons_without_boxes(tmp_path):
    polygons = [[1, 2, 9, 3, 4, 8.5], [20, 5, 21, 6, 20, 7]]
    annotations = [make_ann(1, 1, segmentation=polygons)]
    del annotations[0]['bbox']
    save(tmp_path / 'a.json', annotations)
    add_image(tmp_path / 'a.jpg')
    export = coco_json.read(tmp_path, None)
    assert list_boxes(export) == {'a.jpg': [('dog', (1, 2, 21, 8.5))]}
    assert export.converted == {'polygons': 1}


def test_faults(tmp_path, capsys):
    annotations = [
        make_ann(1, 1),
        make_ann(2, 1, [1, 2, 3]),
        make_ann(3, 1, [1, float('nan'), 3, 4]),
        make_ann(4, 1, category_id=9),
        make_ann(5, 2),
        make_ann(6, 99),
        make_ann(7, 1, bbox=None, segmentation={'counts': [1, 2], 'size': [40, 50]}),
        'text',
    ]
    file = save(tmp_path / 'a.json', annotations, ('a.jpg', 'gone.jpg'))
    add_image(tmp_path / 'a.jpg')
    export = coco_json.read(file, None)
    assert list_boxes(export) == {'a.jpg': [('dog', (1, 2, 11, 22))]}
    assert (export.num_boxes, export.lost) == (8, {'boxes': 7, 'images': 1})
    assert counts_agree(export)
    box = 'bbox must be four finite numbers [x, y, width, height] up to 1e9'
    lines = [line.removeprefix(f'{file}: ') for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f'annotation id 2 of image id 1: {box}, got [1, 2, 3]',
        f'annotation id 3 of image id 1: {box}, got [1, NaN, 3, 4]',
        f'annotation id 7 of image id 1: {box}, got None',
        "annotations[7] must be an object, got 'text'",
        'annotation id 4: no category has its category_id 9',
        f'image id 2 gone.jpg: no image of this name in {tmp_path}',
        '1 annotations of image_id 99, which no usable image has',
    ]


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('', 'a.json: the file is empty'),
        ('{"images": [', 'a.json: broken JSON at line 1'),
        ('[]', 'a.json: expected a COCO file, an object with the lists images, .* got list'),
        ('{"images": {}, "annotations": []}', "'images' is missing or no list, got a dict"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": 5}]}',
            'category id 1: name must be a str, got 5',
        ),
    ],
)
def test_files_that_are_refused(tmp_path, text, error):
    add_image(tmp_path / 'a.jpg')
    with pytest.raises(ValueError, match=error):
        coco_json.read(write(tmp_path / 'a.json', text), None)
    assert coco_json.recognise(tmp_path) == '' or 'id' in text or '{}' in text


@pytest.mark.follows('several categories have the same id; correct the file')
def test_a_category_id_twice(tmp_path):
    add_image(tmp_path / 'a.jpg')
    categories = [{'id': 1, 'name': 'dog'}, {'id': 1, 'name': 'cat'}]
    file = save(tmp_path / 'a.json', [make_ann(1, 1)], categories=categories)
    with pytest.raises(ValueError, match='a.json: several categories have the same id'):
        coco_json.read(file, None)
    save(file, [make_ann(1, 1)])  # as advised
    assert coco_json.read(file, None).classes == ['dog', 'cat']


def test_an_image_id_twice(tmp_path, capsys):
    for name in 'ab':
        add_image(tmp_path / f'{name}.jpg')
    images = [{'id': 1, 'file_name': f'{name}.jpg'} for name in 'ab']
    export = coco_json.read(save(tmp_path / 'a.json', [make_ann(1, 1)], images=images), None)
    assert (export.images, export.lost) == ([], {'images': 2, 'boxes': 1})
    assert 'a.json: b.jpg: 2 images have the id 1' in capsys.readouterr().err
