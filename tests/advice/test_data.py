"""Advice of `coco` and `datasets`: about annotation files and images."""

import os
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from ghmdet.datasets import CocoDataset
from tests.advice import advice
from tests.advice.conftest import edit, options

TRAIN = 'train_dataloader.dataset'
FILE = 'data/annotations/train.json'
IMAGE = 'data/train/00001.jpg'
PREFIX = "train_dataloader = dict(dataset=dict(data_prefix=dict(_delete_=True, {}='train/')))"


def annotations(change):
    """A change of each annotation of the training."""
    return edit(lambda data: [change(each, data) for each in data['annotations']] and None)


def annotation(**values):
    return edit(lambda data: data['annotations'][0].update(values))


def image(**values):
    return edit(lambda data: data['images'][0].update(values))


def scale_boxes(box, data, back=False):
    (image,) = [each for each in data['images'] if each['id'] == box['image_id']]
    for axis, side in ((0, 'width'), (1, 'height')):
        for i in (axis, axis + 2):
            box['bbox'][i] = box['bbox'][i] * image[side] if back else box['bbox'][i] / image[side]


def set_all(**values):
    return annotations(lambda box, _: box.update(values))


def move(**values):
    """Change x, y, w or h of every box."""
    return annotations(
        lambda box, _: box.update(
            bbox=[values.get(key, old) for key, old in zip('xywh', box['bbox'], strict=True)]
        )
    )


def rename_category(data):
    data['categories'][2]['name'] = 'square'


def same_category(data):
    rename_category(data)
    for each in data['annotations']:
        each['category_id'] = 2 if each['category_id'] == 3 else each['category_id']


def at(path, change):
    """A change of a file in the folder."""
    return lambda folder: change(folder / path)


def turn(file):
    """Store the image lying on its side, with the orientation that shows it as it was."""
    picture = Image.fromarray(cv2.imread(str(file))[..., ::-1]).transpose(Image.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(file, exif=exif)


def remove_image(data, number):
    data['images'] = [each for each in data['images'] if each['id'] != number]
    data['annotations'] = [each for each in data['annotations'] if each['image_id'] != number]


def swap_sides(data):
    for each in data['images']:
        each['width'], each['height'] = each['height'], each['width']


def only(*classes):
    """Changes of the config for these classes."""
    lines = [
        f'{split}_dataloader = dict(dataset=dict(metainfo=dict(classes={classes})))'
        for split in ('train', 'val', 'test')
    ]
    return '\n'.join(lines), options(f'model.bbox_head.num_classes={len(classes)}')


CIRCLE, TWO = only('circle'), only('circle', 'square')
THIN = (
    f'{TRAIN} = dict(dataset=dict(filter_cfg=dict(min_size=0)))'.replace('.dataset', ''),
    at(IMAGE, lambda file: cv2.imwrite(str(file), np.zeros((1, 3000, 3), np.uint8))),
    image(width=3000, height=1),
)
OUTSIDE = (
    at('data/train', lambda folder: shutil.copytree(folder, folder.parent / 'other')),
    image(file_name='../other/00001.jpg'),
)


@pytest.mark.parametrize(
    ('part', 'wrong', 'right'),
    [
        # --- no box to learn from
        advice('name these there, or take another file', CIRCLE, ()),
        advice('remove placeholders, an image without objects needs', move(w=0, h=0), ()),
        advice('and width and height of the images those of the files', move(x=999), ()),
        advice('they are thinner than a pixel: bbox must be in pixels', move(x=9, w=0.5), ()),
        advice(
            'multiply x and width by',
            annotations(scale_boxes),
            (
                annotations(scale_boxes),
                annotations(lambda box, data: scale_boxes(box, data, back=True)),
            ),
        ),
        advice(
            'write width x height, or remove the key',
            set_all(area=0),
            annotations(lambda box, _: box.update(area=box['bbox'][2] * box['bbox'][3])),
        ),
        advice(
            'or remove the key',
            set_all(area=-1),
            annotations(lambda box, _: box.pop('area')),
        ),
        advice('set iscrowd to 0 for single objects', set_all(iscrowd=1), set_all(iscrowd=0)),
        advice("set the key 'ignore' to 0", set_all(ignore=1), set_all(ignore=0)),
        # --- classes
        advice(
            'give these annotations the same category_id; if not, rename',
            (*TWO, edit(rename_category)),
            (*TWO, edit(same_category)),
        ),
        # --- broken entries
        advice('Correct them in the file; tools/check_dataset.py', annotation(bbox=[1, 2]), ()),
        advice('{} must be an object, got', edit(lambda data: data['images'].append(7)), ()),
        advice(': bbox must be {}, got {}', annotation(bbox=[1, 2, 'a', 4]), ()),
        advice('height and width must be positive numbers up to 1e9', image(width=0), ()),
        advice('file_name must name a file', image(file_name=''), ()),
        advice(
            'categories; {} is missing or no list', edit(lambda data: data.update(images={})), ()
        ),
        advice(
            '{}: expected a COCO file, an object with the lists images, annotations, categories; '
            '{} is missing',
            edit(lambda data: data.pop('images')),
            (),
        ),
        advice(
            'check the keys data_root and ann_file of the dataset',
            options(f'{TRAIN}.ann_file=annotations/trian.json'),
            options(f'{TRAIN}.data_root=data', f'{TRAIN}.ann_file=annotations/train.json'),
        ),
        # --- datasets
        advice(
            "on_error must be 'raise' or 'skip'",
            options(f'{TRAIN}.on_error=ignore'),
            options(f'{TRAIN}.on_error=raise'),
        ),
        advice(
            "data_prefix must have the key 'img'",
            PREFIX.format('image'),
            PREFIX.format('img'),
        ),
        advice(
            'change it, metainfo.classes or the file',
            options(f'{TRAIN}.filter_cfg.min_size=9999'),
            options(f'{TRAIN}.filter_cfg.min_size=32'),
        ),
        advice(
            'or copy the files again; ',
            at(IMAGE, os.remove),
            options(f'{TRAIN}.data_root=data/', f'{TRAIN}.data_prefix.img=train/'),
        ),
        advice(
            "with on_error='skip' of the dataset training skips them",
            at(IMAGE, os.remove),
            (at(IMAGE, os.remove), options(f'{TRAIN}.on_error=skip')),
        ),
        advice(
            'with test_mode=True the evaluation would miss images',
            (
                at('data/val/00001.jpg', lambda file: file.write_bytes(b'')),
                options('val_dataloader.dataset.on_error=skip'),
            ),
            (),
        ),
        advice(
            'Repair the files, or remove the images from the annotation file',
            (
                edit(
                    lambda data: data['images'].append(
                        dict(data['images'][0], id=9, file_name='x')
                    ),
                    'val',
                ),
                options('val_dataloader.dataset.on_error=skip'),
            ),
            (),
        ),
        advice(
            ' (fix_names=True of the dataset uses it)',
            at('data/train', lambda folder: folder.rename(folder.with_name('Train'))),
            (
                at('data/train', lambda folder: folder.rename(folder.with_name('Train'))),
                options(f'{TRAIN}.fix_names=True'),
            ),
        ),
        advice(
            ' (fix_names=True of a dataset uses it)',
            at(IMAGE, lambda file: file.rename(file.with_suffix('.JPG'))),
            (
                at(IMAGE, lambda file: file.rename(file.with_suffix('.JPG'))),
                options(f'{TRAIN}.fix_names=True'),
            ),
        ),
        advice(
            'no image folder at {}{}{}: check data_root',
            options(f'{TRAIN}.data_prefix.img=images/'),
            options(f'{TRAIN}.data_root=data', f'{TRAIN}.data_prefix.img=train/'),
        ),
        advice(
            'and write their paths relative to it into the file',
            image(file_name='https://host/00001.jpg'),
            image(file_name='00001.jpg'),
        ),
        advice(
            'if it is trusted, set allow_outside=True of the dataset',
            OUTSIDE,
            (*OUTSIDE, options(f'{TRAIN}.allow_outside=True')),
        ),
        advice(
            'Correct data_root and data_prefix.img or the file',
            OUTSIDE,
            image(file_name='00001.jpg'),
        ),
        advice(
            'set max_pixels of LoadImageFromFile in the pipeline',
            options(f'{TRAIN}.pipeline.0.max_pixels=99'),
            options(f'{TRAIN}.pipeline.0.max_pixels=99999'),
        ),
        advice(
            'set color_type={} of LoadImageFromFile in the pipeline',
            (at(IMAGE, turn), at('data/train/00002.jpg', turn), edit(swap_sides)),
            (
                *(at(IMAGE, turn), at('data/train/00002.jpg', turn), edit(swap_sides)),
                options(f'{TRAIN}.pipeline.0.color_type=color_ignore_orientation'),
            ),
        ),
        advice(
            "it is too thin. Remove it, or set on_error='skip' of the training dataset",
            THIN,
            (*THIN, options(f'{TRAIN}.on_error=skip')),
        ),
        advice(
            'it is too thin. Remove it',
            THIN,
            (*THIN[:2], edit(lambda data: remove_image(data, 1))),
        ),
        advice(
            'otherwise correct the annotation file',
            (at(IMAGE, turn), at('data/train/00002.jpg', turn), edit(swap_sides)),
            (at(IMAGE, turn), at('data/train/00002.jpg', turn)),
        ),
    ],
)
def test_what_is_to_be_done(part, wrong, right, follow):
    follow(part, wrong, right)


@pytest.mark.follows(
    'Set metainfo=dict(classes=(...)) of every dataset in the config to these names'
)
def test_classes_of_a_file(small, monkeypatch):
    monkeypatch.chdir(small)
    with pytest.raises(ValueError, match='the default is the 80 COCO classes') as caught:
        CocoDataset(FILE)
    names = re.search(r'Its categories are (.*?)\. Set', str(caught.value))[1].split(', ')
    dataset = CocoDataset(FILE, metainfo=dict(classes=names), data_prefix=dict(img='data/train'))
    assert dataset.metainfo['classes'] == ('circle', 'square', 'triangle')
    assert dataset.count_objects().sum() == 3


@pytest.mark.follows('; a tuple of one needs a comma: classes=({},)')
def test_a_class_as_text(small, monkeypatch):
    monkeypatch.chdir(small)
    with pytest.raises(ValueError, match='a tuple of one needs a comma') as caught:
        CocoDataset(FILE, metainfo=dict(classes='square'))
    classes = eval(re.search(r'classes=(\(.*\))', str(caught.value))[1])
    assert CocoDataset(FILE, metainfo=dict(classes=classes)).metainfo['classes'] == ('square',)


@pytest.mark.follows('{} (did you mean {}?)')
def test_a_class_that_is_near(run):
    near = re.search(r"'Square' \(did you mean '(\w+)'\?\)", run(*only('circle', 'Square')).error)[
        1
    ]
    then = run(*only('circle', near))
    assert then.code == 0, then.error


@pytest.mark.follows('--pipeline lists all', '(tools/check_dataset.py CONFIG --pipeline says why)')
def test_images_that_training_skips(run, run_tool):
    check = 'check_dataset.py', 'tiny.py', '--pipeline', '--workers', 0
    skip = options(f'{TRAIN}.on_error=skip')
    one = run(*THIN, skip)
    assert 'cannot be decoded or processed (tools/check_dataset.py CONFIG --pipeline' in one.text
    code, text = run_tool(*check)
    assert code == 1
    assert text.count('it is too thin') == 1
    only = edit(lambda data: remove_image(data, 2))
    none = run(*THIN, move(x=0, y=0, w=50, h=1), only, skip)
    assert 'tools/check_dataset.py --pipeline lists all' in none.error
    code, text = run_tool(*check)
    assert code == 1
    assert text.count('it is too thin') == 1


@pytest.mark.follows('{}: boxes that cannot be used are left out')
def test_boxes_that_are_left_out(run, run_tool):
    wrong = annotation(bbox=[5, 5, 0, 0])
    first = run(wrong)
    assert 'tools/check_dataset.py shows them' in first.text
    _, text = run_tool('check_dataset.py', 'tiny.py', '--workers', 0)
    assert 'without width or height' in text
