"""Ground truth and detections on which tide.json was computed; the same on any machine."""
import json
import zlib

import numpy as np


def _rng(name):
    return np.random.RandomState(zlib.crc32(name.encode()))


def _box(rng, side=600):
    x, y = rng.randint(0, side - 130, 2).tolist()
    w, h = rng.randint(12, 121, 2).tolist()
    return [x, y, w, h]


def draw_truth(name, num_images=20, num_classes=4, most=8, crowd=0.0, same_box=0.0, empty=0.1):
    """Draw a COCO dict; shares of `crowd` regions, of boxes drawn twice and of empty images."""
    rng, annotations = _rng(f'{name} truth'), []
    for image in range(num_images):
        for _ in range(0 if rng.rand() < empty else rng.randint(1, most + 1)):
            annotation = {
                'image_id': image + 1,
                'category_id': int(rng.randint(num_classes)) + 1,
                'bbox': _box(rng),
                'iscrowd': int(rng.rand() < crowd),
            }
            annotations.append(annotation)
            if rng.rand() < same_box:  # of the same or another class
                twin = int(rng.choice([annotation['category_id'], rng.randint(num_classes) + 1]))
                annotations.append({**annotation, 'category_id': twin})
    for number, annotation in enumerate(annotations, 1):
        w, h = annotation['bbox'][2:]
        annotation |= {'id': number, 'area': w * h}
    return {
        'images': [
            {'id': i + 1, 'file_name': f'{i + 1}.jpg', 'width': 640, 'height': 640}
            for i in range(num_images)
        ],
        'categories': [{'id': i + 1, 'name': f'c{i + 1}'} for i in range(num_classes)],
        'annotations': annotations,
    }


def draw_detections(name, truth, found=0.85, digits=4, background=1.0, silent=0.1, equal=False):
    """Draw COCO results with all kinds of errors.

    `found` of the objects get one or more detections: moved a little or much, with the right or
    another class. `background` is the mean number of others per image, `digits` those of a score,
    `silent` the share of images without; `equal` gives all the score 0.5.
    """
    rng, results = _rng(f'{name} detections'), []
    ids = [category['id'] for category in truth['categories']]
    mute = {image['id'] for image in truth['images'] if rng.rand() < silent}

    def add(image, category, box, score):
        if image not in mute:
            box = [round(float(value), 1) for value in box]
            score = 0.5 if equal else round(min(1.0, float(score)), digits)
            results.append(
                {'image_id': image, 'category_id': category, 'bbox': box, 'score': score}
            )

    for annotation in truth['annotations']:
        x, y, w, h = annotation['bbox']
        while rng.rand() < found:
            move = rng.choice([0.04, 0.12, 0.3, 0.5])
            dx, dy, dw, dh = rng.uniform(-move, move, 4)
            moved = [x + dx * w, y + dy * h, max(2, w * (1 + dw)), max(2, h * (1 + dh))]
            category = annotation['category_id'] if rng.rand() < 0.75 else int(rng.choice(ids))
            add(annotation['image_id'], category, moved, rng.beta(4, 2) * (1.2 - move))
            found_again = 0.35
            if rng.rand() >= found_again:
                break
    for image in truth['images']:
        for _ in range(rng.poisson(background)):
            add(image['id'], int(rng.choice(ids)), _box(rng), rng.beta(2, 3))
    return results


def as_detections(truth):
    """Return the ground truth as results with the score 1, crowd regions too."""
    keys = 'image_id', 'category_id', 'bbox'
    return [{key: each[key] for key in keys} | {'score': 1.0} for each in truth['annotations']]


def drawn_sets():
    """Return (truth, results) by name."""
    settings = {
        'mixed': ({}, {}),
        'ties': (dict(num_images=30), dict(digits=1)),
        'equal scores': ({}, dict(equal=True)),
        'crowds': (dict(crowd=0.25), dict(digits=2)),
        'boxes drawn twice': (dict(same_box=0.4), {}),
        'more than 100 detections': (dict(num_images=4, most=60), dict(background=90)),
        'one class': (dict(num_classes=1), {}),
        '80 classes': (dict(num_images=60, num_classes=80, most=20), {}),
        'few found': (dict(num_images=12), dict(found=0.15, background=0.3)),
        'all silent but one': (dict(num_images=12), dict(silent=0.9)),
    }
    sets = {}
    for name, (truth, detections) in settings.items():
        content = draw_truth(name, **truth)
        sets[name] = content, draw_detections(name, content, **detections)
    truth, results = sets['mixed']
    others = [each for each in truth['annotations'] if each['category_id'] != 2]
    sets['a class without objects'] = {**truth, 'annotations': others}, results
    perfect = draw_truth('perfect', crowd=0.2, same_box=0.3)
    sets['perfect'] = perfect, as_detections(perfect)
    return sets


def photograph_sets(folder):
    """Return (truth, results) by name, detections drawn for the annotations in ../shared/data."""
    files = {
        'coco_mini': 'coco_mini/annotations/instances_val2017.json',
        'deeppcb': 'deeppcb/annotations/val.json',
        'bloodcells': 'bloodcells/annotations/val.json',
        'microcontroller': 'microcontroller/annotations/val.json',
    }
    sets = {}
    for name, file in files.items():
        truth = json.loads((folder / file).read_text())
        sets[name] = truth, draw_detections(name, truth)
    return sets
