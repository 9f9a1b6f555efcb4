from __future__ import annotations

import pytest
from formats import yolo

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)

# Of an image of 50 x 40: 20, 10 to 30, 20, and 5, 4 to 45, 36.
A, B = '0.5 0.375 0.4 0.25', '0.5 0.5 0.8 0.8'
A_BOX, B_BOX = (15, 10, 35, 20), (5, 4, 45, 36)


def near(corners: tuple[float, ...]):
    return pytest.approx(corners, abs=1e-9)


@pytest.mark.parametrize(
    'names',
    ["['dog', 'traffic light']", '{0: dog, 1: traffic light}', "\n- dog\n- 'traffic light'"],
)
@pytest.mark.parametrize(
    ('train', 'val'),
    [
        ('../train/images', '../valid/images'),  # Roboflow: of its own folders
        ('train/images', '[valid/images]'),
        ('/content/set/train/images', r'D:\set\valid\images'),
        ('./train', 'valid/'),
    ],
)
def test_data_yaml(tmp_path, names, train, val):
    source = tmp_path / 'source'
    write(
        source / 'data.yaml',
        f'train: {train}\nval: {val}\ntest: ../test/images\nnc: 2\nnames: {names}',
    )
    for split, line in (('train', f'1 {A}'), ('valid', f'0 {B}\n\n1 {A}')):
        write(source / split / 'labels/a.txt', line)
        add_image(source / split / 'images/a.jpg')
    for place in (source, source / 'data.yaml'):
        export = yolo.read(place, None)
        assert export.classes == ['dog', 'traffic light']
        found = [(i.split, [(b.name, near(b.corners)) for b in i.boxes]) for i in export.images]
        assert found == [
            ('train', [('traffic light', A_BOX)]),
            ('val', [('dog', B_BOX), ('traffic light', A_BOX)]),
        ]
        assert export.lost.total() == 0
        assert yolo.recognise(place) == 'data.yaml names train, val, test'


def test_images_alone_are_not_taken_for_both_sets(tmp_path, capsys):
    write(tmp_path / 'data.yaml', 'train: ../train/images\nval: ../valid/images\nnames: [dog]')
    write(tmp_path / 'labels/a.txt', f'0 {A}')
    add_image(tmp_path / 'images/a.jpg')
    export = yolo.read(tmp_path, None)
    assert (export.images, export.lost['images']) == ([], 2)
    assert 'data.yaml: train: ../train/images: no such folder or list' in capsys.readouterr().err


def test_path_of_data_yaml_and_lists_of_images(tmp_path, capsys):
    root = tmp_path / 'sets/coco'
    write(
        tmp_path / 'coco.yaml',
        'path: sets/coco\ntrain: train.txt\nval: images/val\nnames: {0: dog}',
    )
    write(
        root / 'train.txt',
        './images/train/a.jpg\n/data/coco/images/train/b.jpg\n./images/train/c.jpg\n',
    )
    for name in ('train/a', 'train/b', 'val/d'):
        add_image(root / f'images/{name}.jpg')
        write(root / f'labels/{name}.txt', f'0 {A}')
    write(root / 'labels/train/c.txt', f'0 {A}\n0 {B}')
    export = yolo.read(tmp_path / 'coco.yaml', None)
    found = [(image.path.name, image.split, len(image.boxes)) for image in export.images]
    assert found == [('a.jpg', 'train', 1), ('b.jpg', 'train', 1), ('d.jpg', 'val', 1)]
    assert export.lost == {'images': 1, 'boxes': 2}
    assert counts_agree(export)
    assert 'train.txt: ./images/train/c.jpg: no image of this name' in capsys.readouterr().err


def test_darknet(tmp_path):
    write(tmp_path / 'obj.data', 'classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n')
    write(tmp_path / 'obj.names', 'dog\ntraffic light\n')
    write(tmp_path / 'train.txt', 'data/obj_train_data/a.jpg\n')
    write(tmp_path / 'obj_train_data/a.txt', f'1 {A}')
    add_image(tmp_path / 'obj_train_data/a.jpg')
    export = yolo.read(tmp_path, None)
    assert list_boxes(export) == {'a.jpg': [('traffic light', near(A_BOX))]}
    assert (export.images[0].split, export.lost.total()) == ('train', 0)


@pytest.mark.parametrize(
    ('classes', 'found', 'text'),
    [
        ('classes.txt', 'cat', 'names of the classes: {}/classes.txt'),
        ('labels/classes.txt', 'cat', 'names of the classes: {}/labels/classes.txt'),
        ('unknown.md', '1', 'they are named by number'),
    ],
)
def test_without_data_yaml(tmp_path, capsys, classes, found, text):
    write(tmp_path / classes, 'dog\ncat\n')
    write(tmp_path / 'README.txt', 'of somebody')
    write(tmp_path / 'labels/a.txt', f'1 {A}')
    add_image(tmp_path / 'images/a.jpg')
    add_image(tmp_path / 'images/b.jpg')
    export = yolo.read(tmp_path, None)
    assert list_boxes(export) == {'a.jpg': [(found, near(A_BOX))], 'b.jpg': []}
    out = capsys.readouterr().out
    assert text.format(tmp_path) in out
    assert '1 images have no label file: they have no boxes' in out
    assert yolo.recognise(tmp_path) == 'a.txt has lines of a class and numbers'


def test_labels_and_images_in_different_places(tmp_path):
    for split, line in (('train', A), ('val', B)):
        write(tmp_path / f'txt/{split}/a.txt', f'0 {line}')
        add_image(tmp_path / f'photos/{split}/a.png')
    write(tmp_path / 'txt/val/only.txt', f'0 {A}')
    add_image(tmp_path / 'photos/more/only.png')
    export = yolo.read(tmp_path / 'txt', tmp_path / 'photos')
    found = {i.path.relative_to(tmp_path).as_posix(): i.boxes[0].corners for i in export.images}
    assert found == {
        'photos/train/a.png': near(A_BOX),
        'photos/val/a.png': near(B_BOX),
        'photos/more/only.png': near(A_BOX),
    }


def test_images_in_a_folder_that_data_yaml_does_not_name(tmp_path, capsys):
    write(tmp_path / 'set/data.yaml', 'train: images/train\nval: images/val\nnames: [dog]')
    for name in ('train/a', 'val/b'):
        write(tmp_path / f'set/labels/{name}.txt', f'0 {A}')
        add_image(tmp_path / f'photos/{name[-1]}.jpg')
    export = yolo.read(tmp_path / 'set', tmp_path / 'photos')
    assert [(image.path.name, len(image.boxes)) for image in export.images] == [
        ('a.jpg', 1),
        ('b.jpg', 1),
    ]
    text = f'no set of {tmp_path}/set/data.yaml is there, so all images of {tmp_path}/photos'
    assert text in capsys.readouterr().out


def test_no_label_of_another_image_is_used(tmp_path):
    write(tmp_path / 'labels/val/a.txt', f'0 {A}')
    add_image(tmp_path / 'images/train/a.jpg')
    add_image(tmp_path / 'images/val/a.jpg')
    export = yolo.read(tmp_path, None)
    assert [(i.split, len(i.boxes)) for i in export.images] == [('train', 0), ('val', 1)]


def test_other_shapes_and_numbers(tmp_path, capsys):
    lines = [
        f'0 {A} 0.87',
        '1 0.2 0.1 0.4 0.2 0.3 0.5 0.1 0.4',
        '0 0.1 0.1 0.5 0.2 0.3 0.6',
        '0.0 -0.1 0.5 0.2 1.0',
    ]
    write(tmp_path / 'labels/a.txt', '\n'.join(lines))
    add_image(tmp_path / 'images/a.jpg', (100, 10))
    export = yolo.read(tmp_path, None)
    assert [near(box.corners) for box in export.images[0].boxes] == [
        (30, 2.5, 70, 5),
        (10, 1, 40, 5),
        (10, 1, 50, 6),
        (-20, 0, 0, 10),
    ]
    assert export.converted == {'rotated boxes': 1, 'polygons': 1}
    assert (
        '1 boxes have a sixth number, the confidence, which is not used' in capsys.readouterr().out
    )


def test_keypoints(tmp_path, capsys):
    write(tmp_path / 'data.yaml', 'names: [dog]\nkpt_shape: [2, 3]')
    write(tmp_path / 'labels/a.txt', f'0 {A} 0.1 0.2 2 0.3 0.4 1')
    add_image(tmp_path / 'images/a.jpg')
    assert list_boxes(yolo.read(tmp_path, None)) == {'a.jpg': [('dog', near(A_BOX))]}
    assert '1 boxes have keypoints, which are not used' in capsys.readouterr().out


def test_faults(tmp_path, capsys):
    write(tmp_path / 'data.yaml', 'names: [dog, cat]\nnc: 3')
    lines = [
        f'2 {A}',
        f'-1 {A}',
        f'0.5 {A}',
        'dog 0.5 0.5 0.1 0.1',
        '0 0.5 0.5 0.1',
        '0 120 80 30 20',
        '0 0.5 0.5 0.1 0.1 0.2 0.3 0.4',
        f'1 {A}',
    ]
    write(tmp_path / 'labels/a.txt', '\n'.join(lines))
    write(tmp_path / 'labels/b.txt', f'1 {A}\n1 {B}')
    write(tmp_path / 'labels/c.txt', f'1 {A}')
    add_image(tmp_path / 'images/a.jpg')
    write(tmp_path / 'images/b.jpg', 'no image')
    export = yolo.read(tmp_path, None)
    assert list_boxes(export) == {'a.jpg': [('cat', near(A_BOX))]}
    assert (export.num_boxes, export.lost) == (11, {'boxes': 10, 'images': 2})
    assert counts_agree(export)
    out, err = capsys.readouterr()
    assert 'data.yaml: nc is 3, but there are 2 names, which count' in out
    lines = [line.removeprefix(f'{tmp_path}/') for line in err.splitlines()]
    expected = 'expected a class and 4 numbers of a box, 8 of a rotated box or those of a polygon'
    assert lines[:7] == [
        'labels/a.txt: line 1: 2 is no number of a class, of which there are 2',
        'labels/a.txt: line 2: -1 is no number of a class, of which there are 2',
        'labels/a.txt: line 3: 0.5 is no number of a class, of which there are 2',
        'labels/a.txt: line 4: is not numbers: dog 0.5 0.5 0.1 0.1',
        f'labels/a.txt: line 5: {expected}, got 3 after the class',
        'labels/a.txt: line 6: expected numbers relative to the image, got 120 80 30 20: pixels?',
        f'labels/a.txt: line 7: {expected}, got 7 after the class',
    ]
    assert lines[7].startswith('images/b.jpg: image ')
    assert lines[8:] == ['labels/c.txt: no image for these labels']


@pytest.mark.follows('names must be a list, or a dict by number')
@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('names: [dog\ntrain: x', 'data.yaml: broken YAML: '),
        ('names: {dog: 1}', 'data.yaml: names must be a list, or a dict by number'),
    ],
)
def test_a_broken_data_yaml(tmp_path, text, error):
    write(tmp_path / 'data.yaml', text)
    add_image(tmp_path / 'images/a.jpg')
    with pytest.raises(ValueError, match=error):
        yolo.read(tmp_path, None)
    write(tmp_path / 'data.yaml', 'names: {1: dog}')  # as advised
    assert yolo.read(tmp_path, None).classes == ['dog']


@pytest.mark.follows('several files describe the data')
def test_two_files_that_describe_the_data(tmp_path):
    for name in ('a.yaml', 'b.yml'):
        write(tmp_path / name, 'names: [dog]')
    write(tmp_path / 'labels/a.txt', f'0 {A}')
    add_image(tmp_path / 'images/a.jpg')
    with pytest.raises(ValueError, match='a.yaml, .*b.yml; give one of them as SOURCE'):
        yolo.read(tmp_path, None)
    assert len(yolo.read(tmp_path / 'b.yml', None).images) == 1  # as advised
