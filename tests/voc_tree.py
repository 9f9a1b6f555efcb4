"""Draws a folder of Pascal VOC: Annotations, ImageSets/Main and JPEGImages."""

import cv2
import numpy as np


def make_object(name, corners, extra=''):
    inner = zip(('xmin', 'ymin', 'xmax', 'ymax'), corners, strict=True)
    box = ''.join(f'<{key}>{value}</{key}>' for key, value in inner)
    return f'<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>'


def add(root, name, objects, lists=('trainval',), size_wh=(80, 60), head='', suffix='.jpg'):
    """Add an image, its XML of `make_object`s and its line in the lists; `head` replaces size."""
    head = head or '<size><width>{}</width><height>{}</height></size>'.format(*size_wh)
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    xml = f'<annotation>{head}{"".join(objects)}</annotation>'
    (root / 'Annotations' / f'{name}.xml').write_text(xml)
    pixels = np.full((*size_wh[::-1], 3), 90, np.uint8)
    cv2.imwrite(str(root / 'JPEGImages' / f'{name}{suffix}'), pixels)
    for each in lists:
        with (root / 'ImageSets' / 'Main' / f'{each}.txt').open('a') as file:
            file.write(f'{name}\n')


def draw_voc0712(root, classes=('dog', 'person'), count=3):
    """Draw VOC2007 (trainval, test) and VOC2012 (trainval), an object of 40 pixels per image."""
    for year, lists in (('VOC2007', ('trainval', 'test')), ('VOC2012', ('trainval',))):
        for number in range(count):
            box = (5 + number, 6, 45 + number, 50)
            objects = [make_object(classes[number % len(classes)], box)]
            add(root / year, f'{year[3:]}_{number:06}', objects, lists)
